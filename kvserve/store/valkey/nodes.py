"""The servers of a store: which has which keys, and the connections to each.

A cluster divides its keys into 16384 slots, and a map says which primary has which slot; any node
returns it. The nodes need not agree: one that is cut off from the others does not know that it was
replaced. So all are asked, and the map of the newest epoch counts. A server alone has all keys.
`routes.py` uses the map.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from redis.crc import key_slot

from kvserve.errors import StoreUnavailable
from kvserve.store.valkey.address import Address, Node
from kvserve.store.valkey.pool import NoAnswer, NotSent, Pool
from kvserve.store.valkey.view import View, view_of

_GRACE_SECONDS = 0.05  # for the other nodes' maps once the first has come
_REST_SECONDS = 0.1  # between two readings of the map because of failures


class Nodes:
    """The server, or the cluster's primaries, as far as is known.

    Args:
        address: from the store's URL.
        timeout_seconds: how long a call may take; may be changed at any time.
    """

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        self.address = address
        self.timeout_seconds = timeout_seconds
        self.version = 0  # grows whenever keys may be elsewhere than before
        self.reads = 0  # how often the map was read
        self._view: View | None = None
        self._pools: dict[Node, Pool] = {}
        self._reading = asyncio.Lock()
        self._read_at = 0.0
        self._suspects: set[Node | None] = set()  # they failed, and may have been replaced
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether there are several servers."""
        return self._view is not None and self._view.is_cluster

    @property
    def view(self) -> View | None:
        """The map; None: it was never read."""
        return self._view

    @property
    def primaries(self) -> frozenset[Node]:
        """The servers that have keys."""
        return frozenset() if self._view is None else self._view.primaries

    def owner(self, key: bytes) -> Node | None:
        """The server that has a key; None: the cluster has lost it, or no map was read yet."""
        view = self._view
        return None if view is None else view.owners[key_slot(key) if view.is_cluster else 0]

    def pool(self, node: Node) -> Pool:
        """The connections to a server."""
        pool = self._pools.get(node)
        if pool is None:
            pool = self._pools[node] = Pool(node, self.address)
        return pool

    def connections(self, node: Node) -> int:
        """How many connections for calls there are to a server."""
        pool = self._pools.get(node)
        return 0 if pool is None else len(pool)

    def redirected(self, by: Node, text: str) -> Node:
        """The server that a redirect names, `MOVED 1 host:port` for example."""
        host, _, port = text.split()[2].rpartition(":")
        node = Node(host or by.host, int(port))
        if node not in self.primaries:
            self.version += 1  # no link listens to its changes yet
        return node

    def suspect(self, node: Node) -> None:
        """Notes that a server did not answer; others are asked for the map while calls go on."""
        if not self.is_cluster:
            return
        self._suspects.add(node)
        loop = asyncio.get_running_loop()
        if self._refreshing is None:
            pause = max(0.0, self._read_at + _REST_SECONDS - loop.time())
            self._refreshing = loop.create_task(self._refresh_after(pause))

    @property
    def is_suspected(self) -> bool:
        """Whether the map is being read again because a server did not answer."""
        return bool(self._suspects)

    async def settled(self, nodes: Iterable[Node | None], deadline: float) -> None:
        """Waits, if one of these is suspected, until the map was read again."""
        refreshing = self._refreshing
        if refreshing is not None and not self._suspects.isdisjoint(nodes):
            rest = deadline - asyncio.get_running_loop().time()
            await asyncio.wait([refreshing], timeout=max(0.0, rest / 2))

    def deadline(self) -> float:
        """The deadline of a call that begins now, on the loop's clock."""
        return asyncio.get_running_loop().time() + self.timeout_seconds

    async def ready(self) -> None:
        """Makes sure that the map is there.

        Raises:
            StoreUnavailable: no server answers.
        """
        if self._view is None:
            await self.refresh_since(self.reads, self.deadline())

    async def refresh_since(self, reads: int, deadline: float) -> None:
        """Reads the map, unless it was read since `reads` was its count.

        Raises:
            StoreUnavailable: no server answers.
        """
        try:
            async with asyncio.timeout_at(deadline), self._reading:
                if self.reads == reads:
                    await self._read(deadline)
        except TimeoutError:
            raise StoreUnavailable("no server of the store answered in time") from None

    async def refresh(self) -> None:
        """Reads the map, which is then no older than this call.

        Raises:
            StoreUnavailable: no server answers.
        """
        async with self._reading:
            await self._read(self.deadline())

    async def close(self) -> None:
        """Closes all connections."""
        if (refreshing := self._refreshing) is not None:
            refreshing.cancel()
            await asyncio.wait([refreshing])
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.close()

    async def _refresh_after(self, pause_seconds: float) -> None:
        try:
            await asyncio.sleep(pause_seconds)
            with suppress(StoreUnavailable):
                await self.refresh()
        finally:
            self._refreshing = None

    async def _read(self, deadline: float) -> None:
        """Asks all servers at once; takes the newest of the maps that arrive close together."""
        loop = asyncio.get_running_loop()
        known = [] if self._view is None else [*self._view.primaries, *self._view.replicas]
        nodes = dict.fromkeys([*known, *self.address.hosts])
        pending = {loop.create_task(self._ask(node, deadline)) for node in nodes}
        views: list[View] = []
        failure: Exception = NotSent("the store has no address")
        limit = deadline
        began = loop.time()
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending,
                    timeout=max(0.0, limit - loop.time()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    break
                for each in done:
                    try:
                        views.append(each.result())
                    except (NotSent, NoAnswer) as error:
                        failure = error
                if views:
                    limit = min(limit, loop.time() + max(_GRACE_SECONDS, loop.time() - began))
        finally:
            for each in pending:
                each.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if not views:
            raise StoreUnavailable(str(failure))
        await self._take(max(views, key=self._rank))

    def _rank(self, view: View) -> tuple[int, bool, bool]:
        return (view.epoch, view.is_whole, view.told_by not in self._suspects)

    async def _ask(self, node: Node, deadline: float) -> View:
        commands = [("HELLO",), ("CLUSTER", "SLOTS"), ("CLUSTER", "INFO")]
        view = view_of(node, *await self.pool(node).exchange(commands, deadline))
        if not view.is_cluster and len(self.address.hosts) > 1:
            raise NotSent(f"{node} is no node of a cluster, though the URL names several hosts")
        return view

    async def _take(self, view: View) -> None:
        """Uses a map from now on."""
        self.reads += 1
        self._read_at = asyncio.get_running_loop().time()
        self._suspects.clear()
        former, self._view = self._view, view
        if former is None or former.owners != view.owners:
            self.version += 1
            await self._forget_strangers(view)

    async def _forget_strangers(self, view: View) -> None:
        kept = {*view.primaries, *view.replicas, *self.address.hosts}
        for node in [node for node, pool in self._pools.items() if pool.is_idle]:
            if node not in kept:
                await self._pools.pop(node).close()

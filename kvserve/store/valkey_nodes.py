"""The servers of a store: which has which keys, and the connections to each.

A cluster divides its keys into 16384 slots, and a map says which primary has which slot; any node
gives it away. A server alone has all keys. What to do with the map, `valkey_routes` knows.
"""

from __future__ import annotations

import asyncio

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ResponseError

from kvserve.errors import StoreUnavailable
from kvserve.store.valkey_address import Address, Node
from kvserve.store.valkey_pool import NoAnswer, NotSent, Pool, Reply

_UNKNOWN_HOSTS = (None, b"", b"?")  # a node that does not know its own name has the one we used


class Nodes:
    """The server, or the cluster's primaries, as far as is known.

    Args:
        address: from the store's URL.
        timeout_seconds: how long a call may take; may be changed at any time.
    """

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        self.address = address
        self.timeout_seconds = timeout_seconds
        self.is_cluster = False
        self.version = 0  # grows whenever keys may be elsewhere than before
        self.reads = 0  # how often the map was read
        self._owners: list[Node | None] = []  # by slot; a server alone is the only entry
        self._pools: dict[Node, Pool] = {}
        self._reading = asyncio.Lock()
        self._suspect: Node | None = None  # it failed: another may have taken its place

    @property
    def primaries(self) -> frozenset[Node]:
        """The servers that have keys."""
        return frozenset(owner for owner in self._owners if owner is not None)

    def owner(self, key: bytes) -> Node | None:
        """The server that has a key; None: the cluster has lost it."""
        return self._owners[key_slot(key) if self.is_cluster else 0]

    def pool(self, node: Node) -> Pool:
        """The connections to a server."""
        if node not in self._pools:
            self._pools[node] = Pool(node, self.address)
        return self._pools[node]

    def redirected(self, by: Node, error: AskError) -> Node:
        """Where a server sends us, in place of itself."""
        node = Node(str(error.host) or by.host, int(error.port))
        if node not in self.primaries:
            self.version += 1  # nobody listens to its changes yet
        return node

    def suspect(self, node: Node) -> None:
        """A server did not answer: before the next call, others are asked who has its slots."""
        self._suspect = node

    def deadline(self) -> float:
        """Until when a call that begins now may take, on the loop's clock."""
        return asyncio.get_running_loop().time() + self.timeout_seconds

    async def ready(self) -> None:
        """Makes sure that the map is there, and not known to be wrong.

        Raises:
            StoreUnavailable: no server answers.
        """
        if not self._owners or (self._suspect is not None and self.is_cluster):
            await self.refresh_since(self.reads, self.deadline())

    async def refresh_since(self, reads: int, deadline: float) -> None:
        """Reads the map, unless that was done after `reads` was counted.

        Raises:
            StoreUnavailable: no server answers.
        """
        async with self._reading:
            if self.reads == reads:
                await self._read(deadline)

    async def refresh(self) -> None:
        """Reads the map. What it says then is no older than this call.

        Raises:
            StoreUnavailable: no server answers.
        """
        async with self._reading:
            await self._read(self.deadline())

    async def close(self) -> None:
        """Closes all connections."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.close()

    async def _read(self, deadline: float) -> None:
        """Asks one server after the other, each for its share of the time that is left."""
        candidates = list(dict.fromkeys([*self.primaries, *self.address.hosts]))
        candidates.sort(key=lambda node: node == self._suspect)  # it may answer, and be wrong
        now = asyncio.get_running_loop().time
        failure: Exception = NotSent("the store has no address")
        while candidates:
            node = candidates.pop(0)
            share = (deadline - now()) / (len(candidates) + 1)
            try:
                hello, slots = await self.pool(node).exchange(
                    [("HELLO",), ("CLUSTER", "SLOTS")], now() + share
                )
                await self._take(node, hello, slots)
                return
            except (NotSent, NoAnswer) as error:
                failure = error
        raise StoreUnavailable(str(failure))

    async def _take(self, node: Node, hello: Reply, slots: Reply) -> None:
        """Makes the map of a server's answers."""
        if isinstance(hello, ResponseError):
            raise NotSent(f"{node} refused to say what it is: {hello}")
        is_cluster = dict(zip(hello[::2], hello[1::2], strict=True))[b"mode"] == b"cluster"
        if is_cluster and isinstance(slots, ResponseError):
            raise NotSent(f"{node} refused to give away who has which slot: {slots}")
        if not is_cluster and len(self.address.hosts) > 1:
            raise NotSent(f"{node} is no node of a cluster, though the URL names several hosts")
        owners: list[Node | None] = _owners(node, slots) if is_cluster else [node]
        self.reads += 1
        self._suspect = None
        if owners != self._owners:
            self._owners, self.is_cluster = owners, is_cluster
            self.version += 1
            await self._forget_strangers()

    async def _forget_strangers(self) -> None:
        kept = {*self.primaries, *self.address.hosts}
        for node in [node for node, pool in self._pools.items() if pool.is_idle]:
            if node not in kept:
                await self._pools.pop(node).close()


def _owners(asked: Node, slots: Reply) -> list[Node | None]:
    owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, (host, port, *_), *_ in slots:
        known = asked.host if host in _UNKNOWN_HOSTS else host.decode()
        owners[first : last + 1] = [Node(known, port)] * (last + 1 - first)
    return owners

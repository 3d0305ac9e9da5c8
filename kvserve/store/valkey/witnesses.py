"""Asks a cluster's replicas, as far as they are reachable, whether one has become a primary.

A replica announces nothing beforehand when an operator makes it a primary (`CLUSTER FAILOVER
TAKEOVER`), but it knows its new role before it takes the first write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Set

from kvserve.store.valkey.address import Address, Node
from kvserve.store.valkey.link import Link, LinkLost
from kvserve.store.valkey.marks import Marks
from kvserve.store.valkey.wire import Refused

_CALL_SECONDS = 0.25
_CALL_AGAIN_SECONDS = 1.0


class Witnesses:
    """Connections to replicas.

    Args:
        address: how to log in.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._links: dict[Node, Link] = {}
        self._silent_since: dict[Node, float] = {}  # replicas that did not answer, or late
        self._called_at: dict[Node, float] = {}
        self._calls: set[asyncio.Task[None]] = set()

    async def call(self, nodes: Set[Node]) -> None:
        """Connects to the replicas that are reachable."""
        await asyncio.gather(*map(self._call, nodes - self._links.keys()))

    async def check(
        self, nodes: frozenset[Node], marks: Marks, seconds: float, patience_seconds: float
    ) -> bool:
        """Asks the replicas; returns whether all that are reachable say that they still are.

        A replica that does not answer may be slow, or be cut off and have become a primary. So it
        counts as reachable, and as one that did not say so, until it has been silent for
        `patience_seconds`. A replica whose address refuses a connection is not reachable.

        Args:
            nodes: the replicas.
            marks: what the primaries said.
            seconds: how long a replica has for its answer.
            patience_seconds: see above.

        Raises:
            Changed: see `Marks.check_replica`.
        """
        now = time.monotonic()
        for node in self._silent_since.keys() - nodes:
            del self._silent_since[node]
        waited_for = self._silent(now, patience_seconds)
        await self.call(waited_for)
        self._call_in_background(nodes - self._links.keys() - waited_for, now)
        links = list(self._links.items())
        await asyncio.gather(*(self._check(node, link, marks, seconds) for node, link in links))
        return not self._silent(now, patience_seconds)

    def _silent(self, now: float, patience_seconds: float) -> set[Node]:
        since = self._silent_since.items()
        return {node for node, began in since if now - began < patience_seconds}

    def _call_in_background(self, nodes: Iterable[Node], now: float) -> None:
        for node in nodes:
            if now - self._called_at.get(node, 0) > _CALL_AGAIN_SECONDS:
                self._called_at[node] = now
                call = asyncio.get_running_loop().create_task(self._call(node))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)

    async def _check(self, node: Node, link: Link, marks: Marks, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await marks.check_replica(node, link)
        except (TimeoutError, LinkLost, Refused):
            link.close()
            self._links.pop(node, None)
            self._silent_since.setdefault(node, time.monotonic())

    async def _call(self, node: Node) -> None:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                link = await Link.open(node, self._address, lambda _: None, lambda: None)
        except TimeoutError:
            self._silent_since.setdefault(node, time.monotonic())
        except (LinkLost, Refused):
            self._silent_since.pop(node, None)
        else:
            self._silent_since.pop(node, None)
            self._links[node] = link

    def hang_up(self) -> None:
        """Ends all connections."""
        for call in self._calls:
            call.cancel()
        links, self._links = self._links, {}
        for link in links.values():
            link.close()
        self._called_at.clear()

    async def close(self) -> None:
        """Ends all connections, and waits until nothing is under way."""
        self.hang_up()
        if self._calls:
            await asyncio.wait(self._calls)
        self.hang_up()
        await asyncio.sleep(0)  # the loop ends the connections in its next turn

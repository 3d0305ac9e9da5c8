"""Asks a cluster's replicas, as far as they are reachable, whether one has become a primary.

A replica announces nothing beforehand when an operator makes it a primary (`CLUSTER FAILOVER
TAKEOVER`), but it knows its new role before it takes the first write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

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
        self._called_at: dict[Node, float] = {}
        self._calls: set[asyncio.Task[None]] = set()

    async def call(self, nodes: Iterable[Node]) -> None:
        """Connects to the replicas that are reachable."""
        now = time.monotonic()
        calls = []
        for node in nodes:
            if node not in self._links and now - self._called_at.get(node, 0) > _CALL_AGAIN_SECONDS:
                self._called_at[node] = now
                calls.append(self._call(node))
        await asyncio.gather(*calls)

    async def check(self, nodes: frozenset[Node], marks: Marks, seconds: float) -> None:
        """Asks the replicas; drops the connection to one that does not answer in time.

        Raises:
            Changed: see `Marks.check_replica`.
        """
        if nodes - self._links.keys():
            call = asyncio.get_running_loop().create_task(self.call(nodes))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        links = list(self._links.items())
        await asyncio.gather(*(self._check(node, link, marks, seconds) for node, link in links))

    async def _check(self, node: Node, link: Link, marks: Marks, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await marks.check_replica(node, link)
        except (TimeoutError, LinkLost, Refused):
            link.close()
            self._links.pop(node, None)

    async def _call(self, node: Node) -> None:
        with suppress(TimeoutError, LinkLost, Refused):
            async with asyncio.timeout(_CALL_SECONDS):
                self._links[node] = await Link.open(
                    node, self._address, lambda _: None, lambda: None
                )

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

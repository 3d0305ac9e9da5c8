"""Keeps a near cache coherent: listens to every primary, and reports until when it is fresh.

A table may serve its values until the moment that `on_fresh` was given. This freshness runs out,
whatever happens to the connections, to the servers or to this process, so no value that another
host has changed is served longer than the bound. Each beat extends it:

    at moment t a PING goes to all primaries, and when all have answered, a second one
    when all have answered that, every change before t was pushed: fresh until t + the bound

One PING is not enough: a server that executes a write and the PING in one turn of its event loop
answers the PING first, and pushes the invalidated keys at the end of the turn. The second PING
comes in a later turn, and its reply follows the pushes on the same connection.

The request in place of the second PING asks for more (`marks.py`). In a cluster it asks which
primary has which slot, and since which epoch. All primaries must agree, because one that is cut off
from the others keeps its old map, and a replica that replaced it by force need not have asked any
node. So replicas are asked, too, as far as they can be reached. A server alone is asked whether it
is still a primary with the same data, and whether databases were swapped, which it does not push.

If any of this has changed, or a connection is lost, following begins again: it connects to all
primaries of a map that is no older than the connections, declares all values of the table invalid,
and only then begins the first beat.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence

from kvserve.errors import StoreUnavailable
from kvserve.store.base import Key
from kvserve.store.valkey.address import Node
from kvserve.store.valkey.link import Link, LinkLost
from kvserve.store.valkey.marks import Changed, Marks
from kvserve.store.valkey.nodes import Nodes
from kvserve.store.valkey.wire import Refused
from kvserve.store.valkey.witnesses import Witnesses

_log = logging.getLogger(__name__)
_BEATS = 4  # within the bound, so that the next one makes up for a late one
_PATIENCE = 2  # so many bounds long a replica may be silent before it counts as unreachable
_SETTLE_ATTEMPTS = 5
_PAUSE_SECONDS_FIRST = 0.05
_PAUSE_SECONDS_MAX = 0.25


class Follower:
    """Follows the changes of all servers of a store.

    Args:
        nodes: the servers.
        staleness_seconds: the bound; may be changed at any time.
        on_invalid, on_fresh: see `SharedStore.follow`.
    """

    def __init__(
        self,
        nodes: Nodes,
        staleness_seconds: float,
        on_invalid: Callable[[Sequence[Key] | None], None],
        on_fresh: Callable[[int], None],
    ) -> None:
        self.staleness_seconds = staleness_seconds
        self._nodes = nodes
        self._on_invalid = on_invalid
        self._on_fresh = on_fresh
        self._prefix_bytes = len(nodes.address.prefix)
        self._links: dict[Node, Link] = {}
        self._heard_at: dict[Node, float] = {}
        self._marks = Marks(nodes)
        self._witnesses = Witnesses(nodes.address)
        self._broken = asyncio.Event()
        self._is_following = False

    def ages(self) -> dict[Node, float]:
        """The seconds since each server last confirmed that it had pushed all its changes."""
        now = time.monotonic()
        return {node: now - self._heard_at[node] for node in self._links if node in self._heard_at}

    async def run(self) -> None:
        """Follows until it is cancelled."""
        try:
            await self._run()
        finally:
            await self._witnesses.close()

    async def _run(self) -> None:
        pause = _PAUSE_SECONDS_FIRST
        while True:
            try:
                await self._follow()
            except (LinkLost, Refused, Changed, StoreUnavailable) as error:
                reason = str(error)
            except TimeoutError:
                reason = "a server did not answer in time"
            except Exception:
                _log.exception("the store's changes cannot be followed")
                reason = "a bug"
            finally:
                self._hang_up()
            if self._is_following:
                self._is_following = False
                pause = _PAUSE_SECONDS_FIRST
                _log.warning("the near cache is bypassed: %s", reason)
                self._on_invalid(None)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    async def _follow(self) -> None:
        version = await self._listen()
        self._on_invalid(None)  # changes of values loaded before now were not pushed
        while True:
            began = time.monotonic()
            await self._beat(version)
            if not self._is_following:
                self._is_following = True
                _log.info("the near cache follows %s", ", ".join(map(str, self._links)))
            rest = began + self.staleness_seconds / _BEATS - time.monotonic()
            try:
                async with asyncio.timeout(max(rest, 0)):
                    await self._broken.wait()
            except TimeoutError:
                continue
            raise LinkLost("a connection was lost")

    async def _listen(self) -> int:
        """Opens a link to every primary; returns the version of the map that names them.

        The map is read after the marks, so any change that it misses will change the marks.
        """
        self._broken.clear()
        async with asyncio.timeout(self._nodes.timeout_seconds):
            await self._nodes.refresh()
            for _ in range(_SETTLE_ATTEMPTS):
                version = self._nodes.version
                new = self._nodes.primaries - self._links.keys()
                await asyncio.gather(*map(self._open, new), self._witnesses.call(self._replicas))
                await self._marks.take(self._links)
                await self._nodes.refresh()
                if self._nodes.version == version:
                    return version
        raise Changed("the cluster keeps changing")

    @property
    def _replicas(self) -> frozenset[Node]:
        view = self._nodes.view
        return frozenset() if view is None else view.replicas

    async def _open(self, node: Node) -> None:
        link = await Link.open(node, self._nodes.address, self._tell, self._broken.set)
        try:
            await link.track(self._nodes.address.prefix)
        except BaseException:
            link.close()
            raise
        self._links[node] = link

    async def _beat(self, version: int) -> None:
        began = time.monotonic()
        staleness = self.staleness_seconds
        async with asyncio.timeout(staleness):
            await asyncio.gather(*(link.ask("PING") for link in self._links.values()))
            all_say_so, *_ = await asyncio.gather(
                self._witnesses.check(
                    self._replicas, self._marks, staleness / _BEATS, _PATIENCE * staleness
                ),
                *(self._confirm(node, link, began) for node, link in self._links.items()),
            )
        if self._nodes.version != version:
            raise Changed("the cluster has changed")
        if all_say_so:
            self._on_fresh(int((began + staleness) * 1000))

    async def _confirm(self, node: Node, link: Link, began: float) -> None:
        await self._marks.check(node, link)
        self._heard_at[node] = began

    def _tell(self, keys: Sequence[bytes] | None) -> None:
        if keys is not None and self._prefix_bytes:
            keys = [key[self._prefix_bytes :] for key in keys]
        self._on_invalid(keys)

    def _hang_up(self) -> None:
        links, self._links = self._links, {}
        for link in links.values():
            link.close()
        self._heard_at.clear()
        self._witnesses.hang_up()

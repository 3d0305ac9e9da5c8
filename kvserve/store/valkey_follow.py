"""Keeps a near cache coherent: listens to every primary, and says how long that can be relied on.

A table may serve what it holds until `on_fresh`'s moment. It is a lease: whatever happens to the
connections, to the servers or to this process, it runs out, so no value that others have changed is
served longer than the bound. Each beat extends it:

    at moment t a PING goes to all primaries, and when all have answered, a second one
    when all have answered that, every change before t was told: the lease is t + the bound

One PING is not enough: a server that executes a write and the PING in one turn of its event loop
answers the PING first, and pushes what was invalidated at the end of the turn. The second PING
comes in a later turn, and answers follow pushes on the same connection.

In a cluster, `CLUSTER INFO` takes the second PING's place: a primary that was cut off, a failover
and a slot that moves show in its state, epoch or size. Then, as after a lost connection, everything
begins anew: connections to all primaries of a map that is no older than the connections; all that
the table holds is declared invalid; only then the first beat.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence

from kvserve.errors import StoreUnavailable
from kvserve.store.base import Key
from kvserve.store.valkey_address import Node
from kvserve.store.valkey_link import Link, LinkLost, Refused
from kvserve.store.valkey_nodes import Nodes

_log = logging.getLogger(__name__)
_BEATS = 4  # within the bound: a late one is made good by the next
_SETTLE_ATTEMPTS = 5
_PAUSE_SECONDS_FIRST = 0.05
_PAUSE_SECONDS_MAX = 1.0
_MARKS = (b"cluster_state:", b"cluster_size:", b"cluster_current_epoch:")
_STATE_OK = b"cluster_state:ok"

Marks = frozenset[bytes]


class Changed(Exception):
    """The cluster is not what it was when we began to listen. Never leaves this file."""


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
        self._broken = asyncio.Event()
        self._is_following = False

    async def run(self) -> None:
        """Follows until it is cancelled."""
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
        version, marks = await self._listen()
        self._on_invalid(None)  # whatever was loaded while nobody listened
        while True:
            began = time.monotonic()
            await self._beat(version, marks)
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

    async def _listen(self) -> tuple[int, dict[Node, Marks]]:
        """Opens a link to every primary; the version of the map that names them, and their marks.

        The map is read after the marks, so whatever it misses will change them.
        """
        self._broken.clear()
        async with asyncio.timeout(self._nodes.timeout_seconds):
            await self._nodes.refresh()
            for _ in range(_SETTLE_ATTEMPTS):
                version = self._nodes.version
                for node in self._nodes.primaries - self._links.keys():
                    self._links[node] = await self._open(node)
                marks = await self._marks()
                await self._nodes.refresh()
                if self._nodes.version == version:
                    return version, marks
        raise Changed("the cluster keeps changing")

    async def _open(self, node: Node) -> Link:
        link = await Link.open(node, self._nodes.address, self._tell, self._broken.set)
        try:
            await link.track(self._nodes.address.prefix)
        except BaseException:
            link.close()
            raise
        return link

    async def _beat(self, version: int, marks: dict[Node, Marks]) -> None:
        began_ms = time.monotonic_ns() // 1_000_000
        staleness_ms = int(self.staleness_seconds * 1000)
        async with asyncio.timeout(self.staleness_seconds):
            await asyncio.gather(*(link.ask("PING") for link in self._links.values()))
            marks_now = await self._marks()
        if marks_now != marks or self._nodes.version != version:
            raise Changed("the cluster has changed")
        self._on_fresh(began_ms + staleness_ms)

    async def _marks(self) -> dict[Node, Marks]:
        """What each server says of its cluster; of a server alone, nothing."""
        words = ("CLUSTER", "INFO") if self._nodes.is_cluster else ("PING",)
        told = await asyncio.gather(*(link.ask(*words) for link in self._links.values()))
        if not self._nodes.is_cluster:
            return {}
        marks = {
            node: frozenset(line for line in bytes(text).split() if line.startswith(_MARKS))
            for node, text in zip(self._links, told, strict=True)
        }
        for node, lines in marks.items():
            if _STATE_OK not in lines:
                raise Changed(f"{node} says that its cluster is down")
        return marks

    def _tell(self, keys: Sequence[bytes] | None) -> None:
        if keys is not None and self._prefix_bytes:
            keys = [key[self._prefix_bytes :] for key in keys]
        self._on_invalid(keys)

    def _hang_up(self) -> None:
        links, self._links = self._links, {}
        for link in links.values():
            link.close()

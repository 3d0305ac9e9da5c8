"""The facts that must not change while a near cache relies on pushes: which server has which keys.

Servers do not push changes of these, so every beat asks for them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple

from kvserve.store.valkey.address import Node
from kvserve.store.valkey.link import Link
from kvserve.store.valkey.nodes import Nodes
from kvserve.store.valkey.view import View, cluster_view
from kvserve.store.valkey.wire import Refused

_SWAPS = re.compile(rb"^cmdstat_swapdb:calls=(\d+)", re.MULTILINE)
_ROLE = re.compile(rb"^role:(\w+)", re.MULTILINE)
_HISTORY = re.compile(rb"^master_replid:(\w+)", re.MULTILINE)


class Changed(Exception):
    """The servers' marks changed since we began to listen. Never leaves the store."""


class _Mark(NamedTuple):
    """The parts of a server's reply that must stay the same; what it does not say is empty."""

    epoch: int = 0
    size: int = 0
    claims: tuple[tuple[int, int, bytes], ...] = ()
    history: bytes = b""  # id of the data of a server alone; it changes if it followed a primary
    swaps: bytes = b""  # how often databases were swapped


class Marks:
    """The marks of all primaries.

    Args:
        nodes: the servers.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._mark = _Mark()

    async def take(self, links: Mapping[Node, Link]) -> None:
        """Notes the marks of the primaries.

        Raises:
            Changed: they do not agree, or one does not work.
        """
        told = await asyncio.gather(*(self._read(node, link) for node, link in links.items()))
        if any(mark != told[0] for mark in told):
            raise Changed("the nodes do not agree about their cluster")
        self._mark = told[0]

    async def check(self, node: Node, link: Link) -> None:
        """Raises Changed if a primary's mark is no longer the one that was noted."""
        if await self._read(node, link) != self._mark:
            raise Changed(f"{node} says that its cluster or its data has changed")

    async def check_replica(self, node: Node, link: Link) -> None:
        """Raises Changed if a replica has become a primary, or knows of newer ones."""
        view = await _view(node, link)
        if view.is_whole and (view.epoch > self._mark.epoch or node in view.primaries):
            raise Changed(f"{node} has heard of a newer configuration")

    async def _read(self, node: Node, link: Link) -> _Mark:
        if not self._nodes.is_cluster:
            return await _read_alone(node, link)
        view = await _view(node, link)
        if not view.is_whole:
            raise Changed(f"{node} says that its cluster is down")
        return _Mark(view.epoch, view.size, view.claims)


async def _view(node: Node, link: Link) -> View:
    slots, info = await asyncio.gather(link.ask("CLUSTER", "SLOTS"), link.ask("CLUSTER", "INFO"))
    return cluster_view(node, slots, info)


async def _read_alone(node: Node, link: Link) -> _Mark:
    replication, commands, _ = await asyncio.gather(
        _told(link, "replication"), _told(link, "commandstats"), link.ask("PING")
    )
    if _first(_ROLE, replication) not in (b"", b"master"):
        raise Changed(f"{node} has become a replica")
    return _Mark(history=_first(_HISTORY, replication), swaps=_first(_SWAPS, commands))


async def _told(link: Link, section: str) -> bytes:
    try:
        return bytes(await link.ask("INFO", section))
    except Refused:  # the user may not ask: docs/stores.md says what that means
        return b""


def _first(pattern: re.Pattern[bytes], told: bytes) -> bytes:
    found = pattern.search(told)
    return b"" if found is None else found[1]

"""Trusted writers for tests: clients of a server, and processes that are one and do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import kvserve
from support.crews import Member
from support.servers import Server


def direct(server: Server, **options: Any) -> kvserve.Client:
    """A client that writes into the table itself."""
    return server.connect(write="direct", **options)


def writers(server: Server) -> int:
    """How many processes do so now."""
    with server.connect() as cache:
        return int(cache.stats()["writers"])


@contextmanager
def staying(server: Server) -> Iterator[Member]:
    """A process that has written `kept` under `key`, and keeps its place until it is told."""

    def stay(pipe: Connection) -> None:
        with direct(server) as cache:
            cache.set("key", "kept")
            pipe.send("in")
            pipe.recv()

    member = Member(stay)
    try:
        assert member.hear() == "in"
        yield member
    finally:
        member.end()

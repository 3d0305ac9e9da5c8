"""The one place of a process among the writers: taken and left by many clients at any moment."""

from __future__ import annotations

import gc
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from unittest.mock import patch

import pytest
from support.servers import Server, StartServer
from support.trusted import direct, writers

import kvserve
from kvserve.client.writer import slot
from kvserve.errors import ServerUnavailable
from kvserve.limits import LEASE_SLOT_WRITER_FIRST
from kvserve.live import settings
from kvserve.table import segment
from kvserve.table.lease import Lease

INCARNATIONS_AT = 2048  # see struct kv_superblock in core/layout.h


@pytest.fixture
def server(make_server: StartServer) -> Server:
    """A small server that lets one process write into its table."""
    return make_server("--writers", "1", "--shards", "2")


@contextmanager
def slowly_left() -> Iterator[threading.Event]:
    """Whoever leaves waits before he closes the lease; says when it has come to that."""
    reached, go_on = threading.Event(), threading.Event()
    leave = Lease.leave

    def leave_slowly(lease: Lease) -> None:
        reached.set()
        go_on.wait(0.3)
        leave(lease)

    with patch.object(Lease, "leave", leave_slowly):
        yield reached
        go_on.set()


def incarnation(server: Server) -> int:
    """How often somebody joined in the first writer's slot."""
    with segment.attach(server.names.table, os.geteuid(), writable=False) as table:
        (number,) = struct.unpack_from("<Q", table, INCARNATIONS_AT + 8 * LEASE_SLOT_WRITER_FIRST)
    return int(number)


def test_who_connects_while_the_last_client_closes_gets_a_place(server: Server) -> None:
    """The descriptor that is closed late must not take the new slot's record lock along."""
    first = direct(server)
    with slowly_left() as reached:
        closing_it = threading.Thread(target=first.close)
        closing_it.start()
        assert reached.wait(10)
        second = direct(server)
        closing_it.join()
    with closing(second):
        assert writers(server) == 1
        assert second.set("key", 1) > 0
    assert writers(server) == 0


def test_a_client_that_was_dropped_gives_its_place_back(server: Server) -> None:
    cache = direct(server)
    cache.set("key", 1)
    assert writers(server) == 1
    del cache
    gc.collect()
    assert writers(server) == 0


@pytest.mark.parametrize("way", ["closed", "dropped"])
def test_places_are_left_once_nobody_changes_seats(server: Server, way: str) -> None:
    cache: kvserve.Client | None = direct(server)
    assert cache is not None
    with slot._slots._changing:  # this thread is just taking another one
        if way == "closed":
            cache.close()
        cache = None
        gc.collect()
        assert writers(server) == 1
    with direct(server) as another:
        assert another.set("key", 1) > 0
    assert writers(server) == 0


def test_nothing_is_joined_that_may_be_the_next_servers(server: Server) -> None:
    """Its lease file is another, and its rings may be others' of the same number."""
    attach_maps = slot.attach_maps
    attached = []

    def attach_while_the_server_ends(*arguments: object) -> object:
        with settings.writing(server.names) as page:
            page.retire()
        attached.append(True)
        return attach_maps(*arguments)  # type: ignore[arg-type]

    before = incarnation(server)
    with (
        patch.object(slot, "attach_maps", attach_while_the_server_ends),
        pytest.raises(ServerUnavailable, match="just"),
    ):
        direct(server)
    assert attached
    assert incarnation(server) == before

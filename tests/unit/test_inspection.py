"""Verifying a table that nobody serves: nothing of it may change, whatever state it is in."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator

import pytest
from support.leftovers import leftovers

from kvserve.errors import AlreadyServed, ForeignObject
from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path
from kvserve.parent.inspection import Inspection, inspect_kept
from kvserve.table import semaphores, table
from kvserve.table._core import LAYOUT
from kvserve.table.geometry import plan
from kvserve.table.lease import Lease

# Of the first shard's header, see core/layout.h.
LOCK = LAYOUT["superblock_bytes"]
ITEMS = LOCK + 168
DEAD_OWNER = 7 << 16 | 3  # the seventh process in lease slot 2


@pytest.fixture
def kept(names: Names) -> Iterator[Names]:
    """A table with an item, as a server that stopped leaves it."""
    geometry = plan(2**20, 128, 2**16, shards=2, workers=2)
    names.runtime_directory.mkdir(0o700)
    semaphores.create(names, geometry.shards, 0o600, None)
    table.create(names, geometry, 0o600, None)
    writer = table.Table(names, Lease.join(names.lease_file, 0))
    for number in range(100):
        writer.set(f"key {number}", 0, b"value", 0)
    writer.close()
    semaphores.unlink(names, geometry.shards)
    yield names
    table.remove(names)


def poke(names: Names, offset: int, number: int) -> None:
    """Writes 8 bytes of the table."""
    with memory_path(names.table).open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack("<Q", number))


def content(names: Names) -> list[bytes]:
    """Both segments, whole."""
    return [memory_path(name).read_bytes() for name in (names.table, names.hints)]


def test_a_sound_table(kept: Names) -> None:
    before = content(kept), leftovers(kept)
    assert inspect_kept(kept) == Inspection([], 0)
    assert (content(kept), leftovers(kept)) == before


def test_no_table(names: Names) -> None:
    assert inspect_kept(names) is None


def test_what_a_killed_process_left_is_mended_in_the_copy_alone(kept: Names) -> None:
    poke(kept, LOCK, 1 << 63 | DEAD_OWNER)  # with the mark that somebody waits
    poke(kept, ITEMS, 12_345)
    before = content(kept)
    assert inspect_kept(kept) == Inspection([], 1)
    assert content(kept) == before


def test_a_violation_is_told_and_left(kept: Names) -> None:
    poke(kept, ITEMS, 12_345)  # and nobody held the lock
    before = content(kept)
    found = inspect_kept(kept)
    assert found is not None
    assert (found.unrecovered, len(found.violations)) == (0, 1)
    assert found.violations[0].startswith("shard 0: V8 is violated")
    assert content(kept) == before


def test_a_table_that_no_server_would_take(kept: Names) -> None:
    poke(kept, 100, 2**63)  # in the geometry, under the checksum
    assert inspect_kept(kept) == Inspection(
        ["the table cannot be used: its superblock is damaged"], 0
    )


def test_half_a_table(kept: Names) -> None:
    memory_path(kept.hints).unlink()
    found = inspect_kept(kept)
    assert found is not None
    assert found.violations == ["the kept table has lost a part of it, its hints"]


def test_a_table_that_is_served_is_left_alone(kept: Names) -> None:
    with memory_path(kept.table).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(AlreadyServed):
            inspect_kept(kept)


def test_no_server_starts_meanwhile(kept: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def verify(self: table.PrivateCopy, shard: int) -> list[str]:
        with memory_path(kept.table).open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        refused.append(shard)
        return super(table.PrivateCopy, self).verify(shard)

    monkeypatch.setattr(table.PrivateCopy, "verify", verify, raising=False)
    assert inspect_kept(kept) == Inspection([], 0)
    assert refused == [0, 1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_table(kept: Names) -> None:
    path = memory_path(kept.table)
    os.chown(path, 12_345, -1)
    try:
        with pytest.raises(ForeignObject, match="belongs to uid 12345"):
            inspect_kept(kept)
    finally:
        os.chown(path, os.geteuid(), -1)

"""Versions across tables: one that somebody keeps is no version of another record, ever after."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path
from kvserve.table._core import LAYOUT, LAYOUT_VERSION

if TYPE_CHECKING:
    from support.servers import StartServer

JSON_MAX = 2**53  # what JavaScript and jq count to
AHEAD = 2**51  # a last version that the clock reaches in 2039
# See core/layout.h.
LAYOUT_VERSION_AT, CHECKSUM_AT = 8, 160
MAIN_HEAD, SEQUENCE = (LAYOUT["superblock_bytes"] + offset for offset in (136, 144))


def poke(names: Names, offset: int, value: bytes) -> None:
    with memory_path(names.table).open("r+b") as file:
        file.seek(offset)
        file.write(value)


def nothing(names: Names) -> None:
    """The table is as it was left."""


def damage(names: Names) -> None:
    poke(names, MAIN_HEAD, struct.pack("<Q", 2**40))


def make_old(names: Names) -> None:
    """As a kvserve of the layout before this one left it."""
    poke(names, LAYOUT_VERSION_AT, struct.pack("<I", LAYOUT_VERSION - 1))
    checksum = 0xCBF29CE484222325  # FNV-1a
    for byte in memory_path(names.table).read_bytes()[:CHECKSUM_AT]:
        checksum = (checksum ^ byte) * 0x100000001B3 % 2**64
    poke(names, CHECKSUM_AT, struct.pack("<Q", checksum))


def lose_the_hints(names: Names) -> None:
    memory_path(names.hints).unlink()


@pytest.mark.parametrize(
    ("flags", "before"),
    [
        (("--fresh",), nothing),
        (("--memory", "24MiB"), nothing),
        ((), damage),
        ((), make_old),
        ((), lose_the_hints),
    ],
    ids=["fresh", "other settings", "damaged", "older", "half"],
)
def test_a_version_of_a_table_that_is_gone_is_no_version(
    make_server: StartServer, names: Names, flags: tuple[str, ...], before: Callable[[Names], None]
) -> None:
    server = make_server("--shards", "2", names=names)
    with server.connect() as cache:
        cache.set("price", "old")
        old = cache.gets("price")[1]
        others = [cache.set(f"other {n}", 1) for n in range(20)]
    server.stop()
    before(names)
    with make_server("--shards", "2", *flags, names=names).connect() as cache:
        assert cache.get("price") is None
        for number in range(20):  # as many as make the numbers meet that begin with 1
            cache.set(f"other {number}", 2)
        new = cache.set("price", "new")
        assert not cache.cas("price", "mine", old)
        assert not cache.delete("price", old)
        assert cache.get("price") == "new"
        assert new > max(others), "the later version of a key is the larger one"
        assert cache.cas("price", "mine", new)
        assert max(cache.gets(key)[1] for key in ("price", "other 1")) < JSON_MAX


@pytest.mark.parametrize(
    ("flags", "before"),
    [
        (("--fresh",), nothing),
        (("--memory", "24MiB"), nothing),
        ((), damage),
        ((), make_old),
        ((), lose_the_hints),
    ],
    ids=["fresh", "other settings", "damaged", "older", "half"],
)
def test_the_order_stays_where_the_clock_went_back(
    make_server: StartServer, names: Names, flags: tuple[str, ...], before: Callable[[Names], None]
) -> None:
    make_server("--shards", "1", "--workers", "1", names=names).stop()
    poke(names, SEQUENCE, struct.pack("<Q", AHEAD))  # as if it was made when the clock was ahead
    before(names)
    again = make_server("--shards", "1", "--workers", "1", *flags, names=names)
    assert "is replaced by an empty one" in again.log or "as --fresh demands" in again.log
    with again.connect() as cache:
        assert AHEAD < cache.set("key", 1) < JSON_MAX


def test_a_new_table_begins_at_the_time(make_server: StartServer) -> None:
    began = time.time_ns() // 1_000_000 * 1024
    with make_server().connect() as cache:
        version = cache.set("key", 1)
        assert began < version <= time.time_ns() // 1_000_000 * 1024 + 1024

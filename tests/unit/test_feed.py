"""The change feed without a server: its segment, what is told of each change, and its watchers."""

from __future__ import annotations

import contextlib
import gc
import mmap
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.ways import own_table

from kvserve.errors import ClientClosed, ConfigError, ForeignObject, InvalidArgument, TableCorrupt
from kvserve.live import feed_segment
from kvserve.live.feed import Event, Pace, Watcher
from kvserve.names import Names
from kvserve.table._core import FEED_CAPACITY_MIN, FeedReader, feed_bytes, format_feed
from kvserve.table.geometry import plan
from kvserve.table.table import PrivateTable, Table

WORKERS = 2
FEED_SIZE = 64 * 1024
ALL = 10**6
GEOMETRY = plan(memory=2**20, item_size=64, max_value=2048, shards=4, workers=2)


@pytest.fixture
def table(names: Names) -> Iterator[Table]:
    """A table that tells its changes in ring 0 of a feed of two rings."""
    with own_table(names, GEOMETRY) as table:
        feed_segment.create(names, WORKERS, FEED_SIZE, 0o600, None)
        feed_segment.produce(names, table, 0)
        yield table
    feed_segment.remove(names)


Watch = Callable[..., Watcher]


@pytest.fixture
def watch(names: Names) -> Iterator[Watch]:
    """Makes watchers, which are closed afterwards."""
    made: list[Watcher] = []

    def find() -> mmap.mmap | None:
        try:
            return feed_segment.attach(names, os.geteuid())
        except FileNotFoundError:
            return None

    def make(**options: Any) -> Watcher:
        memory = find()
        assert memory is not None
        made.append(Watcher(memory, find, **options))
        return made[-1]

    yield make
    for watcher in made:
        watcher.close()


def told(events: list[Event]) -> list[tuple[str, str | bytes | None]]:
    """Kinds and keys."""
    return [(event.kind, event.key) for event in events]


def sweep_all(table: Table) -> None:
    """Collects all that has expired."""
    for shard in range(table.shards):
        table.sweep(shard, 0, 10**6)


def test_events_have_kind_key_version_and_time(table: Table, watch: Watch) -> None:
    watcher = watch()
    before = time.time()
    versions = [table.set("a", 0, b"1", 0), table.replace("a", 0, b"3", 0)]
    versions.append(table.cas("a", 0, b"4", 0, versions[1]))
    table.touch("a", 10**6)
    table.delete("a")
    table.incr(b"n", 5, 0, 0)
    table.incr(b"n", 1, None, 0)
    events = watcher.read()
    assert told(events) == [
        ("set", "a"), ("set", "a"), ("set", "a"), ("touch", "a"), ("delete", "a"),
        ("set", b"n"), ("set", b"n"),
    ]  # fmt: skip
    assert [event.version for event in events[:5]] == [*versions, versions[2], versions[2]]
    counter = table.read(b"n")
    assert counter is not None
    assert events[6].version == counter[2]
    # Cut off to milliseconds, and each of two clocks read a little after the other.
    assert before - 0.1 <= events[0].time <= events[-1].time <= time.time() + 0.1


def test_what_changes_nothing_is_not_told(table: Table, watch: Watch) -> None:
    version = table.set("a", 0, b"1", 0)
    watcher = watch()
    assert table.add("a", 0, b"2", 0) == 0
    assert table.cas("a", 0, b"2", 0, version + 1) == 0
    assert table.replace("b", 0, b"2", 0) == 0
    assert not table.delete("b")
    assert not table.delete_version("a", version + 1)
    assert not table.touch("b", 5)
    assert table.incr("b", 1, None, 0) is None
    sweep_all(table)
    assert watcher.read() == []
    assert table.delete_version("a", version)
    assert told(watcher.read()) == [("delete", "a")]


def test_expired_keys_are_told_when_they_are_found(table: Table, watch: Watch) -> None:
    watcher = watch()
    table.set("swept", 0, b"", 1)
    table.set("overwritten", 0, b"", 1)
    table.set("deleted", 0, b"", 1)
    time.sleep(0.01)
    table.set("overwritten", 0, b"", 0)
    assert not table.delete("deleted")
    sweep_all(table)
    assert told(watcher.read())[3:] == [
        ("expire", "overwritten"),
        ("set", "overwritten"),
        ("expire", "deleted"),
        ("expire", "swept"),
    ]


def test_evictions_are_told(table: Table, watch: Watch) -> None:
    watcher = watch()
    there: set[str | bytes | None] = set()
    kinds: set[str] = set()
    for number in range(3000):
        table.set(f"key {number}", 0, bytes(500), 0)
        for event in watcher.read():
            kinds.add(event.kind)
            (there.add if event.kind == "set" else there.remove)(event.key)
    assert kinds == {"set", "evict"}
    assert there == {f"key {n}" for n in range(3000) if table.read(f"key {n}") is not None}


def test_a_flush_of_all_shards_is_told_once(table: Table, watch: Watch) -> None:
    watcher = watch(prefix="a")
    table.set("a", 0, b"", 0)
    for shard in range(table.shards):
        table.flush(shard)
    table.set("b", 0, b"", 0)
    sweep_all(table)  # what a flush has ended is not told of again
    events = watcher.read()
    assert told(events) == [("set", "a"), ("flush", None)]
    assert events[1].version is None


def test_a_prefix_is_bytes_or_text(table: Table, watch: Watch) -> None:
    watchers = [watch(prefix=prefix) for prefix in ("é", "é".encode(), b"\xc3", "", "éa")]
    table.set("é", 0, b"", 0)
    table.set(b"\xc3\xa9b", 0, b"", 0)
    table.set("e", 0, b"", 0)
    assert [len(watcher.read()) for watcher in watchers] == [2, 2, 2, 3, 0]


@pytest.mark.parametrize("options", [{"prefix": 7}, {"since": "yesterday"}, {"since": None}])
@pytest.mark.usefixtures("table")
def test_wrong_arguments(watch: Watch, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        watch(**options)


def test_since(table: Table, watch: Watch) -> None:
    table.set("before", 0, b"", 0)
    now, oldest = watch(), watch(since="oldest")
    table.set("after", 0, b"", 0)
    assert told(now.read()) == [("set", "after")]
    assert told(oldest.read()) == [("set", "before"), ("set", "after")]
    assert now.read() == oldest.read() == []


def test_a_watcher_that_sleeps_is_told_how_many_it_lost(table: Table, watch: Watch) -> None:
    watcher, other = watch(), watch(since="oldest")
    for number in range(10_000):
        table.set(f"{number}", 0, b"", 0)
    events = watcher.read()
    assert events[0].kind == "lost"
    assert events[0].key is None
    assert told(events[1:3]) == [("set", f"{events[0].lost}"), ("set", f"{events[0].lost + 1}")]
    while more := watcher.read():
        events += more
    assert events[0].lost + len(events) - 1 == 10_000
    assert other.read()[0] == events[0]


def test_a_killed_producer_leaves_a_gap_and_a_closed_one_none(
    names: Names, table: Table, watch: Watch
) -> None:
    watcher = watch()
    table.set("a", 0, b"", 0)
    feed_segment.produce(names, table, 0)  # the first never closed it
    table.set("b", 0, b"", 0)
    table.close()
    events = watcher.read()
    assert told(events) == [("set", "a"), ("lost", None), ("set", "b")]
    assert events[1].lost == 0


def test_a_successor_of_one_that_closed_the_ring_tells_of_no_gap(names: Names) -> None:
    feed_segment.create(names, WORKERS, FEED_SIZE, 0o600, None)
    reader = FeedReader(feed_segment.attach(names, os.geteuid()), 0)
    for key in ("a", "b"):
        with own_table(names, GEOMETRY) as table:
            feed_segment.produce(names, table, 0)
            table.set(key, 0, b"", 0)
    rows, lost = reader.read(ALL)
    reader.close()
    feed_segment.remove(names)
    assert [row[:2] for row in rows] == [("set", "a"), ("set", "b")]
    assert lost == 0


def test_rings_are_merged_by_time_and_stay_in_order(names: Names, watch: Watch) -> None:
    with own_table(names, GEOMETRY) as table:
        feed_segment.create(names, WORKERS, FEED_SIZE, 0o600, None)
        watcher = watch()
        for number in range(6):
            feed_segment.produce(names, table, number % WORKERS)
            table.set(f"{number}", 0, b"", 0)
            time.sleep(0.005)
        keys = [event.key for event in watcher.read() if event.kind == "set"]
    feed_segment.remove(names)
    assert keys == [f"{number}" for number in range(6)]


def test_a_watcher_follows_to_the_next_feed(
    names: Names, table: Table, watch: Watch, eventually: Callable[..., None]
) -> None:
    watcher = watch()
    table.set("last words", 0, b"", 0)
    assert feed_segment.remove(names) == [names.feed]
    assert feed_segment.remove(names) == []
    assert told(watcher.read()) == [("set", "last words")]
    assert watcher.read() == []  # nobody there yet
    feed_segment.create(names, WORKERS + 1, FEED_SIZE, 0o600, None)
    feed_segment.produce(names, table, WORKERS)
    table.set("first words", 0, b"", 0)
    events: list[Event] = []
    eventually(lambda: events.extend(watcher.read()) or len(events) == 2)
    assert told(events) == [("lost", None), ("set", "first words")]
    assert events[0].lost == 0


def test_the_segment_is_the_owners_and_the_group_may_read(names: Names) -> None:
    feed_segment.create(names, WORKERS, FEED_SIZE, 0o660, os.getegid())
    path = Path("/dev/shm") / names.feed[1:]
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.stat().st_size == feed_segment.size_bytes(WORKERS, FEED_SIZE)
    with pytest.raises(ForeignObject, match="somebody else's"):
        feed_segment.create(names, WORKERS, FEED_SIZE, 0o600, None)
    path.chmod(0o644)
    with pytest.raises(ForeignObject, match="open to all users"):
        feed_segment.attach(names, os.geteuid())
    path.chmod(0o640)
    with pytest.raises(ForeignObject, match="belongs to uid"):
        feed_segment.attach(names, os.geteuid() + 1)
    feed_segment.remove(names)
    assert not path.exists()


def test_a_feed_that_is_none_is_refused_and_removed(names: Names) -> None:
    path = Path("/dev/shm") / names.feed[1:]
    path.write_bytes(bytes(8192))
    path.chmod(0o600)
    memory = feed_segment.attach(names, os.geteuid())
    with memory, pytest.raises(ForeignObject, match="not a kvserve feed"):
        Watcher(memory, lambda: None)
    assert feed_segment.remove(names) == [names.feed]


def test_ring_size() -> None:
    assert feed_segment.ring_capacity(FEED_CAPACITY_MIN) == FEED_CAPACITY_MIN
    assert feed_segment.ring_capacity(FEED_CAPACITY_MIN + 63) == FEED_CAPACITY_MIN
    with pytest.raises(ConfigError, match="feed_size"):
        feed_segment.ring_capacity(FEED_CAPACITY_MIN - 1)


def test_a_damaged_ring_ends_its_consumers_and_is_not_written_to(
    table: Table,
) -> None:
    memory = mmap.mmap(-1, feed_bytes(1, FEED_CAPACITY_MIN))
    format_feed(memory, 1, FEED_CAPACITY_MIN)
    reader = FeedReader(memory, 0)
    table._attach_feed(memory, 0)
    table.set("a", 0, b"", 0)
    place = memory.find(b"a", len(memory) - FEED_CAPACITY_MIN) - 32
    memory[place : place + 8] = b"\xff" * 8
    with pytest.raises(TableCorrupt, match="damaged"):
        reader.read(1)
    with pytest.raises(TableCorrupt, match="damaged"):
        FeedReader(memory, 0)
    with pytest.raises(ForeignObject, match="shape"):
        table._attach_feed(memory, 0)
    with pytest.raises(ForeignObject, match="no such ring"):
        FeedReader(memory, 1)
    reader.close()
    with pytest.raises(ClientClosed):
        reader.read(1)
    table.close()
    memory.close()  # nobody holds it


def test_pace_grows_to_its_bound_and_starts_again() -> None:
    pace = Pace()
    pauses = [pace.after(0) for _ in range(10)]
    assert pauses[:3] == [0.001, 0.002, 0.004]
    assert set(pauses[6:]) == {0.02}
    assert pace.after(1) == 0
    assert pace.after(0) == 0.001


class ClosesWhenCollected:
    """Closes a reader and its memory as garbage, in a cycle that only the collector finds."""

    def __init__(self, reader: FeedReader, memory: mmap.mmap) -> None:
        self.me, self.reader, self.memory = self, reader, memory

    def __del__(self) -> None:
        self.reader.close()
        self.memory.close()


def read_while_collected() -> None:
    """What a killed process tells by its signal."""
    capacity = FEED_SIZE
    memory = mmap.mmap(-1, feed_bytes(1, capacity))
    format_feed(memory, 1, capacity)
    with closing(PrivateTable(GEOMETRY)) as table:
        table._attach_feed(memory, 0)
        for number in range(1000):
            table.set(b"%d" % number, 0, b"value", 0)
    reader = FeedReader(memory, 0, True)
    gc.collect()
    gc.set_threshold(100)
    ClosesWhenCollected(reader, memory)
    with contextlib.suppress(ClientClosed):
        reader.read(ALL)


def test_a_reader_that_is_closed_while_it_reads_touches_nothing_more() -> None:
    child = multiprocessing.get_context("fork").Process(target=read_while_collected)
    child.start()
    child.join()
    assert child.exitcode == 0

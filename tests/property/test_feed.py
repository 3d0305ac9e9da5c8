"""The change feed against a list of all that was ever told, and against the table it tells of."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from property.test_table import ROOMY, CrampedMachine, RoomyMachine, TableMachine
from support.model import raw
from support.ways import own_table

from kvserve.names import Names
from kvserve.table._core import FEED_CAPACITY_MIN, FeedReader, feed_bytes, format_feed
from kvserve.table.geometry import Geometry

HEADER_BYTES = 32
KEY_SIZES = st.one_of(st.integers(1, 60), st.integers(1, 1024))
ALL = 2**30


def memory_of(capacity: int) -> mmap.mmap:
    """A feed of one ring that nobody else has."""
    memory = mmap.mmap(-1, feed_bytes(1, capacity))
    format_feed(memory, 1, capacity)
    return memory


@dataclass
class Told:
    """An event as the model knows it, and the place where it must lie."""

    kind: str
    key: bytes | None
    begin: int
    end: int


@dataclass
class Consumer:
    """A reader, and the number of the event that it must get next."""

    reader: FeedReader
    prefix: bytes
    next: int


class RingMachine(RuleBasedStateMachine):
    """One small ring, consumers that come and go, and a producer that dies now and then."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self.names = names
        self.capacity = 0
        self.consumers: list[Consumer] = []

    @initialize(capacity=st.integers(FEED_CAPACITY_MIN // 64, 130).map(lambda lines: 64 * lines))
    def begin(self, capacity: int) -> None:
        """Makes a table with room for all, which tells its changes."""
        self.held = own_table(self.names, ROOMY, 1)
        self.table = self.held.__enter__()
        self.capacity = capacity
        self.memory = memory_of(capacity)
        self.told = [Told("begin", None, 0, HEADER_BYTES)]
        self.table._attach_feed(self.memory, 0)
        self.table.set("there", 0, b"", 0)
        self.tell("set", b"there")

    def tell(self, kind: str, key: bytes | None) -> None:
        """The model's event: where it lies is what a ring without wrapped events makes of it."""
        begin = self.told[-1].end
        length = -(-(HEADER_BYTES + len(key or b"")) // 8) * 8
        rest = self.capacity - begin % self.capacity
        begin += rest if length > rest else 0
        self.told.append(Told(kind, key, begin, begin + length))

    @property
    def oldest(self) -> int:
        """The number of the oldest event that is left."""
        end = self.told[-1].end
        return next(n for n, told in enumerate(self.told) if end - told.begin <= self.capacity)

    @rule(size=KEY_SIZES, letter=st.sampled_from("ab"), count=st.integers(1, 40))
    def set_and_delete(self, size: int, letter: str, count: int) -> None:
        """Changes under a key of this size, so many in a row."""
        key = letter * size
        for turn in range(count):
            if turn % 2:
                assert self.table.delete(key)
            else:
                self.table.set(key, 0, b"", 0)
            self.tell("delete" if turn % 2 else "set", key.encode())
        if self.table.delete(key):
            self.tell("delete", key.encode())

    @rule()
    def touch(self) -> None:
        """A change that gives no new version."""
        if self.table.touch("there", 10**6):
            self.tell("touch", b"there")

    @rule()
    def flush(self) -> None:
        """A change of no key."""
        self.table.flush(0)
        self.tell("flush", None)

    @rule()
    def succeed(self) -> None:
        """The producer was killed, as far as the ring can tell."""
        self.table._attach_feed(self.memory, 0)
        self.tell("gap", None)

    @rule(from_oldest=st.booleans(), prefix=st.sampled_from([b"", b"a", b"bb"]))
    def come(self, from_oldest: bool, prefix: bytes) -> None:
        """One more consumer."""
        reader = FeedReader(self.memory, 0, from_oldest, prefix)
        at = max(1, self.oldest) if from_oldest else len(self.told)
        self.consumers.append(Consumer(reader, prefix, at))

    @precondition(lambda self: self.consumers)
    @rule(data=st.data(), most=st.one_of(st.integers(1, 5), st.just(ALL)))
    def read(self, data: st.DataObject, most: int) -> None:
        """A consumer gets exactly what it has not had, and is told exactly how much it missed."""
        consumer = data.draw(st.sampled_from(self.consumers))
        rows, lost = consumer.reader.read(most)
        first = max(consumer.next, self.oldest)
        assert lost == first - consumer.next
        wanted = []
        number = first
        while number < len(self.told) and len(wanted) < most:
            told = self.told[number]
            number += 1
            if told.key is None or told.key.startswith(consumer.prefix):
                wanted.append((told.kind, told.key))
        assert [(kind, None if key is None else raw(key)) for kind, key, _, _ in rows] == wanted
        consumer.next = number

    @precondition(lambda self: self.consumers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A consumer goes; nobody notices."""
        consumer = data.draw(st.sampled_from(self.consumers))
        consumer.reader.close()
        self.consumers.remove(consumer)

    def teardown(self) -> None:
        """Lets go of everything."""
        if self.capacity:
            for consumer in self.consumers:
                consumer.reader.close()
            self.held.__exit__(None, None, None)
            self.memory.close()


class Replaying(TableMachine):
    """A machine of the table's whose feed is carried out on a dictionary of versions."""

    def open(self, geometry: Geometry, seed: int) -> None:
        """As the table's machines do, with a feed that loses nothing."""
        super().open(geometry, seed)
        self.memory = memory_of(8 * 2**20)
        self.reader = FeedReader(self.memory, 0)
        self.versions: dict[bytes, int] = {}
        self.flushed = 0
        self.table._attach_feed(self.memory, 0)

    @rule()
    def restart(self) -> None:
        """The successor tells in the same ring, and of no gap, since nobody died."""
        super().restart()
        self.table._attach_feed(self.memory, 0)

    @invariant()
    def feed_tells_of_the_table(self) -> None:
        """Carried out in turn, the events give the keys that are there, with their versions.

        And those that have expired but were not found to have yet.
        """
        if self.cache is None:
            return
        rows, lost = self.reader.read(ALL)
        assert lost == 0
        for kind, key, version, _ in rows:
            assert kind != "gap"
            if kind == "flush":
                self.flushed += 1
                continue
            assert key is not None
            name = raw(key)
            if kind == "set":
                assert version > self.versions.get(name, 0)
                self.versions[name] = version
            elif kind == "touch":
                assert self.versions[name] == version
            else:
                assert self.versions.pop(name) == version
        self.drop_flushed()
        assert self.there().items() <= self.versions.items()

    @rule()
    def collect(self) -> None:
        """After a sweep nothing is left that has expired."""
        self.sweep_all(100)
        self.feed_tells_of_the_table()
        assert self.there() == self.versions

    def there(self) -> dict[bytes, int]:
        """The keys in the table and their versions."""
        return {raw(key): self.cache.gets(key)[1] for key in self.cache.scan()}

    def drop_flushed(self) -> None:
        """All shards are flushed together, and nothing else happens in the same step."""
        if self.flushed:
            assert self.flushed % self.geometry.shards == 0
            self.versions.clear()
            self.flushed = 0

    def teardown(self) -> None:
        """Compares all once more, and lets go of everything."""
        try:
            if self.cache is not None:
                self.collect()
        finally:
            super().teardown()
            if self.cache is not None:
                self.reader.close()
                self.memory.close()


class RoomyReplay(Replaying, RoomyMachine):
    """With room for everything."""


class CrampedReplay(Replaying, CrampedMachine):
    """With evictions all the time."""


@pytest.fixture
def run(names: Names) -> Callable[[type[RuleBasedStateMachine]], None]:
    """Runs a machine with this test's names."""

    def run_machine(machine: type[RuleBasedStateMachine]) -> None:
        run_state_machine_as_test(lambda: machine(names))  # type: ignore[call-arg]  # a factory

    return run_machine


def test_a_ring_is_the_list_of_its_events(run: Callable[..., None]) -> None:
    run(RingMachine)


def test_a_roomy_tables_feed_is_the_table(run: Callable[..., None]) -> None:
    run(RoomyReplay)


def test_a_cramped_tables_feed_is_the_table(run: Callable[..., None]) -> None:
    run(CrampedReplay)

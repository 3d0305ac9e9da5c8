"""The table against the model: with room enough the same, with too little never more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test
from property.cache_machine import FILLER, CacheMachine
from support.model import Model, raw
from support.ways import OverTable, own_table

from kvserve.limits import LEASE_SLOT_WRITER_FIRST
from kvserve.names import Names
from kvserve.table.geometry import Geometry, plan
from kvserve.table.lease import Lease
from kvserve.table.table import Table, kept

SEEDS = st.integers(0, 2**32 - 1)
# Far too small for what the machine stores, in different ways: logs, index, shards.
CRAMPED = st.sampled_from(
    [
        plan(memory=20 * 1024, item_size=16, max_value=1024, shards=1, workers=1),
        plan(memory=24 * 1024, item_size=128, max_value=1024, shards=1, workers=1),
        plan(memory=32 * 1024, item_size=1024, max_value=1024, shards=1, workers=1),
        plan(memory=64 * 1024, item_size=64, max_value=1024, shards=4, workers=1),
        plan(memory=128 * 1024, item_size=4096, max_value=4096, shards=2, workers=1),
    ]
)
ROOMY = plan(memory=2**20, item_size=64, max_value=2048, shards=4, workers=1)


class TableMachine(CacheMachine):
    """A new table for every walk, so that a walk can be replayed."""

    def __init__(self, names: Names) -> None:
        super().__init__(cache=None, value_bytes_max=0)
        self.names = names
        self.held = ExitStack()

    def open(self, geometry: Geometry, seed: int) -> None:
        """Makes the table; the seed decides where keys lie in it."""
        self.table = self.held.enter_context(own_table(self.names, geometry, seed))
        self.geometry = geometry
        self.cache = OverTable(self.table, geometry.shards)
        self.value_bytes_max = geometry.value_bytes_max
        self.model = Model(clock=lambda: 0.0, value_bytes_max=geometry.value_bytes_max)

    def sweep_all(self, share: int) -> None:
        """Sweeps every bucket of every shard, so many at a time."""
        for shard in range(self.geometry.shards):
            bucket = self.table.sweep(shard, 0, share)
            while bucket != 0:
                bucket = self.table.sweep(shard, bucket, share)

    @rule(share=st.sampled_from([1, 7, 10_000]))
    def sweep(self, share: int) -> None:
        """Collects the expired, which nobody can notice."""
        self.sweep_all(share)

    @rule()
    def recover(self) -> None:
        """Finds no lock of a dead owner, since nobody died."""
        assert self.table.recover() == 0

    @rule()
    def restart(self) -> None:
        """Leaves the table and finds it again as it was."""
        self.table.close()
        assert kept(self.names) == self.geometry
        # Closed by own_table, which knows it as its table.
        lease = Lease.join(self.names.lease_file, LEASE_SLOT_WRITER_FIRST)
        Table.__init__(self.table, self.names, lease)

    @invariant()
    def table_is_whole(self) -> None:
        """No invariant of the core is ever violated."""
        if self.cache is not None:
            for shard in range(self.geometry.shards):
                assert self.table.verify(shard) == []

    def teardown(self) -> None:
        """Compares all once more, and removes the table."""
        try:
            if self.cache is not None:
                for key in list(self.model.scan()):
                    self.look(key)
                self.table_is_whole()
        finally:
            self.held.close()


class RoomyMachine(TableMachine):
    """Nothing is evicted, so cache and model agree to the last item."""

    @initialize(seed=SEEDS)
    def begin(self, seed: int) -> None:
        """Makes a table with room for everything."""
        self.open(ROOMY, seed)

    @rule()
    def count(self) -> None:
        """After a sweep the table counts as many items as there are."""
        self.sweep_all(100)
        stats = [self.table.shard_stats(shard) for shard in range(self.geometry.shards)]
        assert sum(each["items"] for each in stats) == len(list(self.model.scan()))
        assert sum(each["evictions"] + each["index_evictions"] for each in stats) == 0

    @rule()
    def find_all(self) -> None:
        """One shard after another holds each key where `shard_of` says."""
        for key in self.model.scan():
            keys: list[Any] = []
            bucket: int | None = 0
            while bucket is not None:
                found, bucket = self.table.scan(self.table.shard_of(key), bucket, raw(key))
                keys += found
            assert key in keys


class CrampedMachine(TableMachine):
    """Everything is evicted all the time; fillers see to that."""

    @initialize(geometry=CRAMPED, seed=SEEDS)
    def begin(self, geometry: Geometry, seed: int) -> None:
        """Makes a table that is too small."""
        self.open(geometry, seed)
        self.forgets = True

    @rule(count=st.integers(1, 300), size=st.integers(0, 1024), reads=st.integers(0, 2))
    def fill(self, count: int, size: int, reads: int) -> None:
        """Stores many values under keys that the model does not know. None may be refused."""
        value = bytes(min(size, self.value_bytes_max))
        for number in range(count):
            key = f"{FILLER}{number}"
            assert self.cache.set(key, value) > 0
            for _ in range(reads):
                assert self.cache.get(key) == value

    @rule(count=st.integers(1, 200))
    def count_fillers(self, count: int) -> None:
        """Counters begin where they are told, or go on from where they were."""
        for number in range(count):
            key = f"{FILLER}counter {number}"
            before = self.cache.get(key, 0)
            assert self.cache.incr(key) == before + 1

    @rule(count=st.integers(1, 300))
    def delete_fillers(self, count: int) -> None:
        """Leaves dead records behind in the logs."""
        for number in range(0, count, 2):
            self.cache.delete(f"{FILLER}{number}")


@pytest.fixture
def run(names: Names) -> Callable[[type[TableMachine]], None]:
    """Runs a machine with this test's names."""

    def run_machine(machine: type[TableMachine]) -> None:
        run_state_machine_as_test(lambda: machine(names))  # type: ignore[arg-type]  # a factory

    return run_machine


def test_table_is_the_model(run: Callable[[type[TableMachine]], None]) -> None:
    run(RoomyMachine)


def test_keys_that_share_all_but_their_bytes_stay_apart(names: Names) -> None:
    """Sixteen bits of the hash are in the index. Of so many keys, some agree in all of them."""
    geometry = plan(memory=2**20, item_size=32, max_value=1024, shards=1, workers=1)
    with own_table(names, geometry, seed=1) as table:
        for number in range(7000):
            table.set(f"there {number:06}", 0, b"%d" % number, 0)
        for number in range(200_000):
            assert table.read(f"never {number:06}") is None
        for number in range(7000):
            found = table.read(f"there {number:06}")
            assert found is None or found[1] == b"%d" % number


def test_churn_wears_nothing_out(names: Names) -> None:
    """What the index takes for a full chain it gives back when the chain empties."""
    geometry = plan(memory=64 * 1024, item_size=1024, max_value=1024, shards=1, workers=1)
    with own_table(names, geometry, seed=1) as table:
        lost = []
        for _ in range(200):
            before = table.shard_stats(0)["index_evictions"]
            for number in range(500):
                table.set(f"key {number}", 0, b"", 0)
            for number in range(500):
                table.delete(f"key {number}")
            lost.append(table.shard_stats(0)["index_evictions"] - before)
            assert table.verify(0) == []
        assert lost[1:] == lost[:1] * 199


def test_cramped_table_forgets_but_never_lies(run: Callable[[type[TableMachine]], None]) -> None:
    run(CrampedMachine)

"""What do the table's own operations cost, without any request?"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvserve.names import Names
from kvserve.table import semaphores
from kvserve.table.geometry import plan
from kvserve.table.lease import Lease
from kvserve.table.table import Table, create, remove

pytestmark = pytest.mark.benchmark(group="table")
LOOPS = {"rounds": 30, "iterations": 10_000, "warmup_rounds": 3}
MODE = 0o600
KEY = b"key:00000001"
VALUE = b"x" * 100


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """A table that is full, so that each new key evicts."""
    directory: Path = tmp_path_factory.mktemp("table")
    names = Names(f"bench-{secrets.token_hex(4)}", directory)
    geometry = plan(64 * 2**20, 112, 2**20, 2, 1)
    create(names, geometry, MODE, None)
    semaphores.create(names, geometry.shards, MODE, None)
    opened = Table(names, Lease.join(names.lease_file, 1))
    for number in range(geometry.capacity_items * 5 // 4):
        opened.set(b"key:%08d" % number, 0, VALUE, 0)
    opened.set(KEY, 0, VALUE, 0)
    yield opened
    opened.close()
    remove(names)
    semaphores.unlink(names, geometry.shards)


def test_overwrite(benchmark: Any, table: Table) -> None:
    benchmark.pedantic(table.set, (KEY, 0, VALUE, 0), **LOOPS)


def test_new_key_in_a_full_table(benchmark: Any, table: Table) -> None:
    numbers = iter(range(10**8, 2 * 10**8))

    def insert() -> None:
        table.set(b"%012d" % next(numbers), 0, VALUE, 0)

    benchmark.pedantic(insert, **LOOPS)


def test_read(benchmark: Any, table: Table) -> None:
    table.set(KEY, 0, VALUE, 0)
    benchmark.pedantic(table.read, (KEY,), **LOOPS)


def test_incr(benchmark: Any, table: Table) -> None:
    benchmark.pedantic(table.incr, (b"counter", 1, 0, 0), **LOOPS)


def test_verify_a_shard(benchmark: Any, table: Table) -> None:
    assert benchmark.pedantic(table.verify, (0,), rounds=5) == []


def test_sweep_a_hundredth(benchmark: Any, table: Table) -> None:
    buckets = table.geometry()["buckets"] // 100
    benchmark.pedantic(table.sweep, (0, 0, buckets), rounds=100)

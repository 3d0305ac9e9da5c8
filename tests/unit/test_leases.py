"""What readers of the table leave to the workers: misses, and hits without a running lease."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support.ways import own_table, reading

from kvserve.errors import InternalError, UnreadableValue
from kvserve.names import Names
from kvserve.protocol import codec
from kvserve.table._core import ASK_WORKER, Reader
from kvserve.table.geometry import plan
from kvserve.table.table import Table

WORKERS = 2
GEOMETRY = plan(memory=2**20, item_size=64, max_value=2048, shards=4, workers=WORKERS)
FOR_LONG_MS = 10**6


def now_ms() -> int:
    """The monotonic clock, as workers read it."""
    return time.monotonic_ns() // 10**6


@pytest.fixture
def table(names: Names) -> Iterator[Table]:
    """A table with the keys `there`, `counter` and `over`, which has expired."""
    with own_table(names, GEOMETRY) as table:
        table.set("there", codec.BYTES, b"value", 0)
        table.incr("counter", 7, 0, 0)
        table.set("over", codec.BYTES, b"", 1)
        time.sleep(0.005)
        yield table


@pytest.fixture
def reader(table: Table) -> Iterator[Reader]:
    with reading(table) as reader:
        yield reader


def key_of_worker(table: Table, worker: int) -> str:
    """A key whose shard this worker serves, which is in the table."""
    key = next(f"key {n}" for n in range(100) if table.shard_of(f"key {n}") % WORKERS == worker)
    table.set(key, codec.BYTES, b"value", 0)
    return key


def answers(reader: Reader, key: str) -> list[object]:
    """What each way to read says of a key."""
    found, rest = reader._get_many_here([key])
    return [
        reader.get(key, "missing"),
        reader._gets_here(key),
        reader._ttl_ms(key),
        found.get(key, "missing") if key not in rest else ASK_WORKER,
    ]


def test_without_a_store_readers_answer_everything(table: Table, reader: Reader) -> None:
    version = table.read("there")
    assert version is not None
    assert answers(reader, "there") == [b"value", (b"value", version[2]), 0, b"value"]
    for key in ("nobody", "over"):
        assert answers(reader, key) == ["missing", None, None, "missing"]


@pytest.mark.parametrize("size", [1, 2000])
def test_a_damaged_text(table: Table, reader: Reader, size: int) -> None:
    table.set("damaged", codec.TEXT, b"\xff" * size, 0)
    for read in (reader.get, reader._gets_here):
        with pytest.raises(
            UnreadableValue, match=r"'damaged' cannot be read.* do not follow codec 1"
        ):
            read("damaged")
    assert reader.get_many(["damaged", "there"]) == {"there": b"value"}


def test_misses_ask_a_worker(table: Table, reader: Reader) -> None:
    table.set_read_policy(misses=True, freshness=False, workers=WORKERS)
    for key in ("nobody", "over"):
        assert answers(reader, key) == [ASK_WORKER] * 4
    assert reader.get("there") == b"value"
    table.flush(table.shard_of("there"))
    assert answers(reader, "there") == [ASK_WORKER] * 4
    table.set_read_policy(misses=False, freshness=False, workers=WORKERS)
    assert answers(reader, "there") == ["missing", None, None, "missing"]


@pytest.mark.parametrize("worker", range(WORKERS))
def test_hits_need_the_lease_of_their_worker(table: Table, reader: Reader, worker: int) -> None:
    own, other = key_of_worker(table, worker), key_of_worker(table, 1 - worker)
    table.set_read_policy(misses=True, freshness=True, workers=WORKERS)
    assert answers(reader, own) == [ASK_WORKER] * 4
    table.extend_freshness(worker, now_ms() + FOR_LONG_MS)
    assert answers(reader, own)[0] == b"value"
    assert ASK_WORKER not in answers(reader, own)
    assert answers(reader, other) == [ASK_WORKER] * 4
    assert answers(reader, "nobody") == [ASK_WORKER] * 4
    table.extend_freshness(worker, now_ms() - 1)
    assert answers(reader, own) == [ASK_WORKER] * 4


def test_a_lease_runs_out_and_never_late(table: Table, reader: Reader) -> None:
    table.set_read_policy(misses=True, freshness=True, workers=1)
    table.extend_freshness(0, now_ms() + FOR_LONG_MS)
    assert reader.get("there") == b"value"
    until_ms = now_ms() + 100
    table.extend_freshness(0, until_ms)
    while True:
        began_ms = time.monotonic_ns() / 10**6
        if reader.get("there") is ASK_WORKER:
            break
        assert began_ms < until_ms
    ended_ms = time.monotonic_ns() / 10**6
    assert ended_ms > until_ms - 50  # the slack for the clock of readers, not more


def test_new_workers_begin_without_leases(table: Table, reader: Reader) -> None:
    """The shards of a worker are others when there are more of them."""
    table.set_read_policy(misses=True, freshness=True, workers=WORKERS)
    for worker in range(WORKERS):
        table.extend_freshness(worker, now_ms() + FOR_LONG_MS)
    keys = [key_of_worker(table, worker) for worker in range(WORKERS)]
    assert [reader.get(key) for key in keys] == [b"value"] * WORKERS
    table.set_read_policy(misses=True, freshness=True, workers=1)
    assert [reader.get(key) for key in keys] == [ASK_WORKER] * WORKERS


def test_workers_themselves_read_everything(table: Table) -> None:
    table.set_read_policy(misses=True, freshness=True, workers=WORKERS)
    assert table.read("there") is not None
    assert table.read("nobody") is None
    assert table.ttl_ms("there") == 0
    assert table.ttl_ms("nobody") is None
    assert table.ttl_ms("over") is None


def test_what_cannot_be_is_refused(table: Table) -> None:
    for workers in (0, 65):
        with pytest.raises(InternalError):
            table.set_read_policy(misses=True, freshness=True, workers=workers)
    with pytest.raises(InternalError):
        table.extend_freshness(64, 1)
    table.extend_freshness(63, 3)  # so early on that the slack is longer


def test_delete_version(table: Table) -> None:
    version = table.set("a", codec.BYTES, b"1", 0)
    newer = table.set("a", codec.BYTES, b"2", 0)
    assert not table.delete_version("a", version)
    assert table.read("a") == (codec.BYTES, b"2", newer)
    assert table.delete_version("a", newer)
    assert table.read("a") is None
    assert not table.delete_version("a", newer)
    assert not table.delete_version("over", 1)
    assert [table.verify(shard) for shard in range(table.shards)] == [[]] * table.shards

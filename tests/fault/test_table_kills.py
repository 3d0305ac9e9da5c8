"""Writers of one table, which hold its locks themselves, are killed beside lock-free readers.

Workers seldom meet at a lock, since each has shards of its own. Here all writers fight for two
shards, so that most die inside a lock or waiting for it, several at once, and their successors must
take the lock from the dead.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from fault import payloads

from kvserve.names import Names
from kvserve.table import segment, semaphores
from kvserve.table._core import Reader
from kvserve.table.geometry import plan
from kvserve.table.lease import Lease
from kvserve.table.segment import boot_id
from kvserve.table.table import Table, create, remove

FORK = multiprocessing.get_context("fork")
KILLS = int(os.environ.get("KVSERVE_TEST_KILLS", "100"))
WRITERS = 4
KEYS = 20  # overwritten without pause, never deleted: never seen missing
CHURN = 20_000  # others that come and go, and keep both logs turning
MODE = 0o600


@pytest.fixture
def names(names: Names) -> Iterator[Names]:
    """A table of two small shards."""
    names.runtime_directory.mkdir()
    geometry = plan(2**20, 200, 8192, 2, 1)
    create(names, geometry, MODE, None)
    semaphores.create(names, geometry.shards, MODE, None)
    yield names
    remove(names)
    semaphores.unlink(names, geometry.shards)
    for path in names.runtime_directory.iterdir():
        path.unlink()
    names.runtime_directory.rmdir()


def write(names: Names, slot: int, seed: int, longest_ns: Any) -> None:
    """Overwrites the watched keys in turn with the churn, for ever."""
    chance = random.Random(seed)
    table = Table(names, Lease.join(names.lease_file, slot))
    while True:
        number = time.monotonic_ns()
        key = chance.randrange(KEYS)
        began = time.monotonic_ns()
        table.set(f"watched {key}", 0, payloads.make(number, chance.choice((20, 300, 3000))), 0)
        longest_ns.value = max(longest_ns.value, time.monotonic_ns() - began)
        for _ in range(3):
            name = f"churn {chance.randrange(CHURN)}"
            if chance.randrange(4):
                table.set(name, 0, bytes(chance.randrange(400)), chance.choice((0, 0, 50)))
            else:
                table.delete(name)
        table.incr("counter", 1, 0, 0)


def read(names: Names, done: Any, reads: Any) -> None:
    """The oracle: what is there throughout is never missing, torn, or older than before."""
    reader = Reader()
    maps = [segment.attach(names.table, os.geteuid(), writable=False),
            segment.attach(names.hints, os.geteuid(), writable=True)]  # fmt: skip
    reader._attach(*maps, boot_id())
    versions = dict.fromkeys(range(KEYS), 0)
    count = 0
    while not done.is_set():
        for key in range(KEYS):
            found = reader._gets_here(f"watched {key}")
            assert isinstance(found, tuple), f"watched {key}: {found}"
            value, version = found
            payloads.number_of(value)
            assert version >= versions[key]
            versions[key] = version
            reader.get("counter")
        count += KEYS
    reads.value = count
    reader._detach()


@pytest.mark.watchdog(120 + KILLS)
def test_writers_are_killed_inside_the_lock(names: Names, seed: int) -> None:
    chance = random.Random(seed)
    # Raw: a lock of multiprocessing has no owner, and would be held for ever by the first killed.
    longest = [FORK.RawValue("Q", 0) for _ in range(WRITERS)]
    done, reads = FORK.Event(), FORK.RawValue("Q", 0)

    def spawn(index: int) -> BaseProcess:
        arguments = (names, 1 + index, chance.getrandbits(32), longest[index])
        process = FORK.Process(target=write, args=arguments)
        process.start()
        return process

    table = Table(names, Lease.join(names.lease_file, 0))
    for key in range(KEYS):
        table.set(f"watched {key}", 0, payloads.make(1, 20), 0)
    writers = [spawn(index) for index in range(WRITERS)]
    reader = FORK.Process(target=read, args=(names, done, reads))
    reader.start()
    kills = 0
    while kills < KILLS:
        time.sleep(chance.uniform(0.001, 0.03))
        for index in chance.sample(range(WRITERS), chance.choice((1, 1, 2, WRITERS))):
            writers[index].kill()
            writers[index].join()
            kills += 1
            writers[index] = spawn(index)
        assert reader.exitcode is None, "the oracle found something"
    for writer in writers:
        writer.kill()
        writer.join()
    done.set()
    reader.join()
    assert reader.exitcode == 0
    table.recover()
    statistics = [table.shard_stats(shard) for shard in range(table.shards)]
    taken = sum(shard["lock_recoveries"] for shard in statistics)
    print(f"{kills} kills, {taken} locks taken from the dead, {reads.value} reads, "
          f"longest set {max(value.value for value in longest) / 1e6:.1f} ms")  # fmt: skip
    assert [table.verify(shard) for shard in range(table.shards)] == [[]] * table.shards
    for turn in range(5000):  # and it goes on working
        table.set(f"after {turn % 1000}", 0, bytes(turn % 700), 0)
    assert [table.verify(shard) for shard in range(table.shards)] == [[]] * table.shards
    table.close()

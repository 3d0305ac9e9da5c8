"""Workers are killed at random moments while watchers, some of them stopped now and then, read on.

Single-stepping (test_stepper.py) has every instruction; this has real processes, real caches and
rings that are lapped all the time.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from conftest import Eventually
from fault import payloads

from kvserve.limits import LEASE_SLOT_WORKER_FIRST
from kvserve.live import feed_segment
from kvserve.names import Names
from kvserve.table import semaphores
from kvserve.table._core import FeedReader
from kvserve.table.geometry import plan
from kvserve.table.lease import Lease
from kvserve.table.table import Table, create, remove

FORK = multiprocessing.get_context("fork")
KILLS = int(os.environ.get("KVSERVE_TEST_KILLS", "100"))
WORKERS = 2
FEED_SIZE = 16 * 1024
EVENT_BYTES_MIN = 32  # fewer than any event has
MODE = 0o600
WATCHERS = 2  # of each ring; the last is stopped now and then
BATCH = 10_000  # more than the ring holds, so that it is lapped in the middle of a batch, too

Spawn = Callable[..., BaseProcess]


@pytest.fixture
def names(names: Names) -> Iterator[Names]:
    """A table of one shard for each worker, and a feed."""
    names.runtime_directory.mkdir()
    geometry = plan(2**20, 200, 4096, WORKERS, WORKERS)
    create(names, geometry, MODE, None)
    semaphores.create(names, geometry.shards, MODE, None)
    feed_segment.create(names, WORKERS, FEED_SIZE, MODE, None)
    yield names
    feed_segment.remove(names)
    remove(names)
    semaphores.unlink(names, geometry.shards)
    for path in names.runtime_directory.iterdir():
        path.unlink()
    names.runtime_directory.rmdir()


def work(names: Names, worker: int, seed: int, done: Any) -> None:
    """Sets one key of the worker's shard after the other, for ever, and counts what is done."""
    chance = random.Random(seed)
    table = Table(names, Lease.join(names.lease_file, LEASE_SLOT_WORKER_FIRST + worker))
    feed_segment.produce(names, table, worker)
    while True:
        number = done.value + 1
        size = chance.choice((16, 40, 60, 900))
        while table.shard_of(payloads.make(number, size)) != worker:
            size += 1
        key = payloads.make(number, size)
        table.set(key, 0, b"", 0)
        done.value = number
        if chance.randrange(20) == 0:
            table.delete(key)


def watch(reader: FeedReader, over: Any, counts: Any) -> None:
    """Reads one ring to its end. No event is torn or out of turn, and what is missing was lost."""
    highest = missing = read = lost = gaps = 0
    repeats = False  # whether the next number may be one that was told already
    while True:
        is_over = over.value
        rows, missed = reader.read(BATCH)
        lost += missed
        missing += missed
        repeats |= missed > 0
        for kind, key, version, _ in rows:
            read += 1
            if kind == "gap":
                # The dead may have told of one that they did not live to count, or the reverse.
                gaps += 1
                repeats = True
                continue
            assert isinstance(key, bytes)
            number = payloads.number_of(key)
            assert version > 0
            if kind == "set":
                assert highest + (not repeats) <= number <= highest + missing + 1
                highest, missing, repeats = number, 0, False
        if is_over and not rows:
            break
    counts[:] = [read, lost, gaps, highest]
    reader.close()


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts processes, and ends those that still run when the test is over or has failed."""
    started: list[BaseProcess] = []

    def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
        started.append(FORK.Process(target=target, args=arguments))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.watchdog(120 + KILLS)
def test_workers_are_killed_while_they_tell(
    names: Names, spawn: Spawn, eventually: Eventually, seed: int
) -> None:
    chance = random.Random(seed)
    # Raw: a lock of multiprocessing has no owner, and would be held for ever by the first killed.
    done = [FORK.RawValue("Q", 0) for _ in range(WORKERS)]
    counts = [[FORK.RawArray("Q", 4) for _ in range(WATCHERS)] for _ in range(WORKERS)]
    over = FORK.RawValue("b", False)

    def spawn_worker(worker: int) -> BaseProcess:
        return spawn(work, names, worker, chance.getrandbits(32), done[worker])

    def spawn_watcher(worker: int, counts: Any) -> BaseProcess:
        # Here, before any worker starts: from the first event on, however late the process runs.
        reader = FeedReader(feed_segment.attach(names, os.geteuid()), worker, from_oldest=True)
        return spawn(watch, reader, over, counts)

    watchers = [[spawn_watcher(worker, row) for row in counts[worker]] for worker in range(WORKERS)]
    workers = [spawn_worker(worker) for worker in range(WORKERS)]
    kills = [0] * WORKERS
    while sum(kills) < KILLS:
        worker = chance.randrange(WORKERS)
        stopped = watchers[worker][-1].pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        if kills[worker] % 2 == 0:  # every other one has told more than the ring holds
            told = done[worker].value + FEED_SIZE // EVENT_BYTES_MIN
            eventually(lambda n=worker, told=told: done[n].value > told)
        time.sleep(chance.uniform(0.001, 0.03))
        workers[worker].kill()
        workers[worker].join()
        kills[worker] += 1
        workers[worker] = spawn_worker(worker)
        os.kill(stopped, signal.SIGCONT)
        assert all(each.exitcode is None for row in watchers for each in row), "see its traceback"
    for process in workers:
        process.kill()
        process.join()
    over.value = True
    for worker, row in enumerate(watchers):
        for process in row:
            process.join()
            assert process.exitcode == 0
        quick, slow = ([int(n) for n in each] for each in counts[worker])
        print(f"worker {worker}: {kills[worker]} kills, {done[worker].value} sets")
        print(f"  read, lost, gaps, last: {quick}, {slow}")
        # Two who lost different events agree on how many there were.
        assert quick[0] + quick[1] == slow[0] + slow[1]
        assert slow[1] > 0
        assert quick[3] == slow[3] >= done[worker].value
        assert 0 < quick[2] <= kills[worker]

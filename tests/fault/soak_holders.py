"""What the soak interrupts, cancels and forks while it kills: holders of locks, and computers.

Each is a client that writes as the others do, takes a lock, and computes values, again and again.
One has a signal handler that raises at any moment; one is asyncio tasks that are cancelled; one
forks while it holds a lock and computes, seen by Python and unseen, and its children leave their
parent's blocks; one is threads that share the lock objects. Beside what it wrote, each notes the
number of every lock that it got, which no two may share.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fault import payloads
from fault.interrupted import descriptors
from fault.journals import (
    KEYS,
    PATIENCE_SECONDS,
    Journal,
    connected,
    connected_async,
    start_number,
)
from support.crews import unseen_fork

import kvserve

TTL = 1.0  # seconds of locks and leases
LOCKS = 5
FORK_LOCK = LOCKS  # the number of the one in whose block is forked
TASKS = 5
SHARERS = 3  # threads, beside the main one
SIZES = (20, 100, 1000)  # all through the queue, which keeps the order of those given up
DESCRIPTORS_MAX = 64  # of a client with some sessions; one that leaks has more before long
THREADS_MAX = 64


class Interrupted(Exception):
    """What the signal handler raises."""


class Notes:
    """What a holder began and what was acknowledged.

    Args:
        directory: for the files.
        way: the holder's name, which is in those of its keys.
    """

    def __init__(self, directory: Path, way: str) -> None:
        self.way = way
        self.begun = Journal(directory / f"{way}.begun")
        self.done = Journal(directory / f"{way}.done")
        self.held = Journal(directory / f"{way}.held")
        self.struck = Journal(directory / f"{way}.struck")
        self.numbers = itertools.count(start_number(directory, way))

    def next(self) -> tuple[str, int, int, str]:
        """The key, its number, the value's number, and the value of a new write, now begun."""
        number = next(self.numbers)
        index = number % KEYS
        self.begun.add(index, number)
        value = payloads.make(number, SIZES[number % len(SIZES)])
        return f"{self.way} {index}", index, number, value


def turn(cache: kvserve.Client, notes: Notes) -> None:
    """One write, one lock, one computation."""
    key, index, number, value = notes.next()
    with suppress(kvserve.ServerError):
        cache.set(key, value)
        notes.done.add(index, number)
    which = number % LOCKS
    with suppress(kvserve.ServerError), cache.lock(f"soak {which}", ttl=TTL, timeout=0.5) as lock:
        notes.held.add(which, lock.fencing)
    with suppress(kvserve.ServerError):
        cache.get_or_set(f"computed {number % 5}", lambda: number, ttl=0.05, claim_ttl=TTL)


def interrupted(name: str, way: str, directory: Path) -> None:
    """Is given up at random moments, for ever."""

    def give_up(*_: object) -> None:
        raise Interrupted

    notes = Notes(directory, way)
    chance = random.Random(way)
    signal.signal(signal.SIGALRM, give_up)
    with connected(name) as cache:
        while True:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.02))
                for _ in range(50):
                    turn(cache, notes)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                notes.struck.add(0, 1)
            assert descriptors() < DESCRIPTORS_MAX
            assert len(list(Path("/proc/self/task").iterdir())) < THREADS_MAX


def cancelled(name: str, way: str, directory: Path) -> None:
    """Tasks that are cancelled at random moments, for ever."""
    notes = Notes(directory, way)
    chance = random.Random(way)

    async def turn_async(cache: kvserve.AsyncClient) -> None:
        key, index, number, value = notes.next()
        with suppress(kvserve.ServerError):
            await cache.set(key, value)
            notes.done.add(index, number)
        which = number % LOCKS
        with suppress(kvserve.ServerError):
            async with cache.lock(f"soak {which}", ttl=TTL, timeout=0.5) as lock:
                notes.held.add(which, lock.fencing)
        with suppress(kvserve.ServerError):
            await cache.get_or_set(f"computed {number % 5}", lambda: number, 0.05, claim_ttl=TTL)

    async def strike(cache: kvserve.AsyncClient) -> None:
        while True:
            task = asyncio.create_task(turn_async(cache))
            await asyncio.sleep(chance.uniform(0, 0.02))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            if task.cancelled():
                notes.struck.add(0, 1)
            assert descriptors() < DESCRIPTORS_MAX
            assert len(asyncio.all_tasks()) < THREADS_MAX

    async def main() -> None:
        async with await connected_async(name) as cache:
            await asyncio.gather(*(strike(cache) for _ in range(TASKS)))

    asyncio.run(main())


def forking(name: str, way: str, directory: Path) -> None:
    """Forks in the middle of a block and a computation, for ever."""
    notes = Notes(directory, way)
    forks = itertools.cycle((os.fork, unseen_fork))
    with connected(name) as cache:
        while True:
            turn(cache, notes)
            child = fork_within(cache, next(forks), notes)
            if child == 0:
                end_child(name, notes)
            if child is not None:
                reap(child)
                notes.struck.add(0, 1)
            assert descriptors() < DESCRIPTORS_MAX


def fork_within(cache: kvserve.Client, fork: Callable[[], int], notes: Notes) -> int | None:
    """What the fork returned, after its block and its factory are left; None: there was none."""
    forked: list[int] = []

    def compute() -> int:
        forked.append(fork())
        return forked[0]

    try:
        with cache.lock("fork", ttl=TTL, timeout=0.5) as lock:
            notes.held.add(FORK_LOCK, lock.fencing)
            cache.get_or_set("forked", compute, ttl=0.001, claim_ttl=TTL)
            if forked == [0]:
                assert not lock.held
    except kvserve.LockLost:
        pass  # as a child must be told, and its parent may be
    except kvserve.ServerError:
        pass
    return forked[0] if forked else None


def end_child(name: str, notes: Notes) -> Any:
    """A child's last deed: a write, by a client of its own."""
    status = 1
    try:
        key, index, number, value = notes.next()
        with connected(name) as cache, suppress(kvserve.ServerError):
            cache.set(key, value)
            notes.done.add(index, number)
        status = 0
    finally:
        os._exit(status)


def reap(child: int) -> None:
    """Waits for a child, which must end well."""
    give_up = time.monotonic() + 2 * PATIENCE_SECONDS
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0, f"a forked child ended with status {status}"
            return
        assert time.monotonic() < give_up, "a forked child hangs"
        time.sleep(0.001)


def sharing(name: str, way: str, directory: Path) -> None:
    """Threads that share lock objects, one of them given up at random moments, for ever."""

    def give_up(*_: object) -> None:
        raise Interrupted

    notes = Notes(directory, way)
    chance = random.Random(way)
    signal.signal(signal.SIGALRM, give_up)
    failed: list[BaseException] = []
    with connected(name) as cache:
        locks = [cache.lock(f"soak {which}", ttl=TTL, timeout=0.5) for which in range(LOCKS)]

        def take_turns() -> None:
            with suppress_into(failed):
                for which in itertools.cycle(range(LOCKS)):
                    with suppress(kvserve.ServerError, kvserve.LockLost):
                        if locks[which].acquire(blocking=which % 2 == 0):
                            notes.held.add(which, locks[which].fencing)
                            locks[which].release()

        for _ in range(SHARERS):
            threading.Thread(target=take_turns, daemon=True).start()
        while not failed:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.02))
                for which, lock in enumerate(locks):
                    with suppress(kvserve.ServerError, kvserve.LockLost), lock:
                        notes.held.add(which, lock.fencing)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                notes.struck.add(0, 1)
            assert descriptors() < 2 * DESCRIPTORS_MAX  # each thread has sessions of its own
            assert len(list(Path("/proc/self/task").iterdir())) < THREADS_MAX
        raise failed[0]


@contextmanager
def suppress_into(failed: list[BaseException]) -> Iterator[None]:
    """Keeps what is raised in a thread."""
    try:
        yield
    except BaseException as error:
        failed.append(error)


HOLDERS = {
    "interrupted": interrupted,
    "cancelled": cancelled,
    "forking": forking,
    "sharing": sharing,
}

"""Locks in real processes: one at a time, fenced, renewed, lost, and free when the holder dies."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from conftest import Eventually
from support.crews import KINDS, TIMEOUT, Journal, Member, together
from support.servers import Server

import kvserve
from kvserve.client.recipes.claims import Claim
from kvserve.errors import (
    InvalidArgument,
    InvalidTTL,
    LockLost,
    LockTimeout,
    MisuseError,
    OutcomeUnknown,
    ServerUnavailable,
)

LOCK_KEY = "kvserve:lock:job"
SHORT = 0.5  # seconds that a lock lasts
TURNS = 15


def enter(path: Path, journal: Journal, fencing: int) -> None:
    """Fails if another one is inside."""
    path.touch(exist_ok=False)
    journal.write(fencing)


@pytest.mark.parametrize("kind", KINDS)
def test_one_at_a_time_with_growing_numbers(
    kind: str, served: Server, journal: Journal, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"

    def block(_: int) -> None:
        with served.connect(timeout=TIMEOUT) as cache:
            for _ in range(TURNS):
                with cache.lock("job", ttl=60) as lock:
                    enter(inside, journal, lock.fencing)
                    time.sleep(0.001)
                    inside.unlink()

    async def run_tasks() -> None:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as cache:

            async def task() -> None:
                for _ in range(TURNS):
                    async with cache.lock("job", ttl=60) as lock:
                        enter(inside, journal, lock.fencing)
                        await asyncio.sleep(0.001)
                        inside.unlink()

            await asyncio.gather(task(), task())

    def work(number: int) -> None:
        block(number) if kind == "blocking" else asyncio.run(run_tasks())

    together(8, work)
    numbers = [int(line) for line in journal.lines]
    assert len(numbers) == 8 * TURNS * (1 if kind == "blocking" else 2)
    assert numbers == sorted(set(numbers))


def hold(kind: str, name: str, pipe: Connection, **how: Any) -> None:
    """Takes the lock, says so, and what became of it by the time it is told to give it up."""
    if kind == "blocking":
        with kvserve.connect(name, timeout=TIMEOUT) as cache:
            lock = cache.lock("job", **how)
            pipe.send(lock.acquire())
            pipe.recv()
            held = lock.held
            try:
                lock.release()
            except LockLost:
                return pipe.send((held, "lost"))
            return pipe.send((held, "released"))

    async def main() -> None:
        async with await kvserve.connect_async(name, timeout=TIMEOUT) as cache:
            lock = cache.lock("job", **how)
            pipe.send(await lock.acquire())
            await asyncio.to_thread(pipe.recv)
            held = lock.held
            try:
                await lock.release()
            except LockLost:
                return pipe.send((held, "lost"))
            return pipe.send((held, "released"))

    return asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_lock_of_a_killed_holder_is_free_after_its_ttl(
    kind: str, served: Server, cache: kvserve.Client
) -> None:
    holder = Member(lambda pipe: hold(kind, served.name, pipe, ttl=SHORT))
    try:
        fencing = holder.hear()
        holder.signal(signal.SIGKILL)
        assert (cache.ttl(LOCK_KEY) or 0.0) <= SHORT
        with cache.lock("job") as lock:
            assert lock.fencing > fencing
    finally:
        holder.end()


@pytest.mark.parametrize("kind", KINDS)
def test_held_lock_is_renewed(
    kind: str, served: Server, cache: kvserve.Client, eventually: Eventually
) -> None:
    ttl = 3.0  # renewed every second, so that one may be two seconds late
    holder = Member(lambda pipe: hold(kind, served.name, pipe, ttl=ttl))
    try:
        holder.hear()
        for _ in range(2):
            eventually(lambda: (cache.ttl(LOCK_KEY) or ttl) < ttl / 2 + 1)
            eventually(lambda: (cache.ttl(LOCK_KEY) or 0.0) > ttl / 2 + 1)
        with pytest.raises(LockTimeout, match="'job'"):
            cache.lock("job").acquire(timeout=0.1)
        holder.tell()
        assert holder.hear() == (True, "released")
    finally:
        holder.end()
    assert LOCK_KEY not in cache


@pytest.mark.parametrize("kind", KINDS)
def test_lock_that_is_not_renewed_runs_out(
    kind: str, served: Server, cache: kvserve.Client
) -> None:
    holder = Member(lambda pipe: hold(kind, served.name, pipe, ttl=SHORT, renew=False))
    try:
        holder.hear()
        with cache.lock("job"):
            holder.tell()
            assert holder.hear() == (False, "lost")
            assert LOCK_KEY in cache  # what is lost is not taken from its new owner
    finally:
        holder.end()


@pytest.mark.parametrize("kind", KINDS)
def test_holder_that_was_stopped_beyond_its_ttl_knows(
    kind: str, served: Server, cache: kvserve.Client
) -> None:
    holder = Member(lambda pipe: hold(kind, served.name, pipe, ttl=SHORT))
    try:
        fencing = holder.hear()
        holder.signal(signal.SIGSTOP)
        holder.tell()
        with cache.lock("job") as lock:
            assert lock.fencing > fencing
            holder.signal(signal.SIGCONT)
            assert holder.hear() == (False, "lost")
            assert lock.held
    finally:
        holder.end()


def test_number_that_was_drawn_too_late_is_not_used(served: Server, cache: kvserve.Client) -> None:
    """One that is stopped between its lock and its number must not come out with the greater."""
    first = cache.lock("job", ttl=SHORT, renew=False)
    draw = first._draw

    async def stopped_before(claim: Claim) -> int:
        time.sleep(2 * SHORT)
        with served.connect() as other, other.lock("job") as second:
            numbers.append(second.fencing)
        first._draw = draw  # type: ignore[method-assign]
        first._ttl = 3600  # of the next attempt, which is not too late
        return await draw(claim)

    numbers: list[int] = []
    first._draw = stopped_before  # type: ignore[method-assign]
    numbers.append(first.acquire())
    assert first.held
    numbers.append(first.fencing)
    with served.connect() as other, pytest.raises(LockTimeout):
        other.lock("job").acquire(timeout=0)
    assert numbers == sorted(numbers)
    first.release()


def test_child_of_a_holder_does_not_hold(cache: kvserve.Client) -> None:
    def child(pipe: Connection) -> list[Any]:
        told: list[Any] = [lock.held]
        try:
            lock.release()
        except LockLost as error:
            told.append(str(error))
        try:
            lock.acquire(timeout=0)
        except LockTimeout:
            told.append("timeout")
        pipe.send(told)
        pipe.recv()
        return [lock.acquire(timeout=TIMEOUT) > 0, lock.held, lock.release()]

    with cache.lock("job", ttl=60) as lock:
        member = Member(child)
        try:
            assert member.hear() == [
                False,
                "the lock is held by the process that forked this one, not by this one",
                "timeout",
            ]
            assert lock.held
            lock.release()
            member.tell()
            assert member.hear() == [True, True, None]
            lock.acquire()
        finally:
            member.end()


def test_numbers_grow_when_the_last_was_evicted_or_the_clock_set_back(
    cache: kvserve.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = []
    for turn in range(8):
        if turn == 4:
            monkeypatch.setattr(time, "time_ns", lambda: numbers[0] - 3600 * 10**9)
        with cache.lock("job") as lock:
            numbers.append(lock.fencing)
        if turn < 3:
            assert cache.delete("kvserve:fence:job")
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < 2**63


def test_a_lock_object_has_one_holder(cache: kvserve.Client) -> None:
    lock, other = cache.lock("job"), cache.lock("job")
    with pytest.raises(MisuseError):
        lock.release()
    with pytest.raises(MisuseError):
        _ = lock.fencing
    assert lock.acquire() == lock.fencing
    with pytest.raises(MisuseError, match="reentrant"):
        lock.acquire()
    with pytest.raises(LockTimeout):
        other.acquire(timeout=0.01)
    assert (lock.held, other.held) == (True, False)
    lock.release()
    with pytest.raises(MisuseError):
        lock.release()
    with other, pytest.raises(LockTimeout):
        cache.lock("job", timeout=0.01).acquire()
    with cache.lock("job"), cache.lock("another job"):
        pass


def test_what_went_wrong_inside_matters_more_than_the_lock(cache: kvserve.Client) -> None:
    def work(error: Exception | None) -> None:
        with cache.lock("job"):
            cache.delete(LOCK_KEY)
            if error:
                raise error

    with pytest.raises(RuntimeError, match="mine"):
        work(RuntimeError("mine"))
    with pytest.raises(LockLost):
        work(None)


def test_lost_lock_is_noticed_by_its_renewal(cache: kvserve.Client, eventually: Eventually) -> None:
    lock = cache.lock("job", ttl=3 * SHORT)
    lock.acquire()
    cache.delete(LOCK_KEY)  # as an eviction would
    eventually(lambda: lock._hold._until_ms == 0)  # it was told so; its time was not just up
    assert not lock.held
    with pytest.raises(LockLost):
        lock.release()


def test_cancelled_waiter_leaves_nothing(served: Server, cache: kvserve.Client) -> None:
    """Wherever it is cancelled: waiting, or with its request under way."""

    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:
            for turn in range(60):
                lock = client.lock("job", ttl=3600)
                task = asyncio.create_task(lock.acquire())
                for _ in range(turn % 20):
                    await asyncio.sleep(0)
                if not task.cancel():
                    await lock.release()
                    continue
                await asyncio.wait([task])
                async with client.lock("job", timeout=TIMEOUT):  # else it would take an hour
                    pass

    asyncio.run(main())
    assert LOCK_KEY not in cache


@pytest.mark.parametrize("lost", ["add", "cas", "delete"])
def test_lost_reply_is_no_lost_lock(
    lost: str, cache: kvserve.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome is unknown to the request; the record tells it."""
    method = getattr(cache, lost)
    calls = []

    def without_reply(*arguments: Any) -> Any:
        done = method(*arguments)
        calls.append(arguments)
        if len(calls) == 1:
            raise OutcomeUnknown("the worker died before it replied")
        return done

    with cache.lock("job") as earlier:
        pass  # so that the next number replaces one
    monkeypatch.setattr(cache, lost, without_reply)
    with cache.lock("job", ttl=3600, timeout=TIMEOUT) as lock:
        assert lock.fencing > earlier.fencing
    assert calls
    assert LOCK_KEY not in cache


def test_lock_in_a_namespace_is_another_and_survives_clear(cache: kvserve.Client) -> None:
    eu = cache.namespace("eu")
    with cache.lock("job"), cache.lock("eu:job"), eu.lock("job") as lock:
        eu.clear()
        assert lock.held
        with pytest.raises(LockTimeout):
            cache.namespace("eu").lock("job").acquire(timeout=0)


def test_without_a_server_there_is_no_lock(server: Server) -> None:
    with server.connect() as cache:
        server.stop()
        with pytest.raises(ServerUnavailable):
            cache.lock("job").acquire()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": ""}, InvalidArgument),
        ({"name": b"job"}, InvalidArgument),
        ({"ttl": None}, InvalidArgument),
        ({"ttl": float("inf")}, InvalidArgument),
        ({"ttl": 0}, InvalidTTL),
        ({"timeout": -1}, InvalidArgument),
        ({"timeout": "1"}, InvalidArgument),
        ({"timeout": float("nan")}, InvalidArgument),
    ],
)
def test_bad_arguments(cache: kvserve.Client, arguments: Any, error: Any) -> None:
    with pytest.raises(error):
        cache.lock(**{"name": "job"} | arguments)


def test_token_names_the_holder(cache: kvserve.Client) -> None:
    with cache.lock("job"):
        assert cache.get(LOCK_KEY).startswith(f"{os.getpid()}-")

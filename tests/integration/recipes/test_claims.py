"""How long a lock or a lease is held: shared objects, ended threads, forks, no threads, silence.

What interrupts a holder is in tests/fault/test_holders.py.
"""

from __future__ import annotations

import _thread
import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from conftest import Eventually
from support.crews import KINDS, TIMEOUT, Member, unseen_fork
from support.servers import Server

import kvserve
from kvserve.client.recipes.claims import now_ms
from kvserve.errors import (
    LimitError,
    LockLost,
    LockTimeout,
    MisuseError,
)

LOCK_KEY = "kvserve:lock:job"
TTL = 0.6


def threads() -> int:
    """How many this process has, of every kind."""
    return len(list(Path("/proc/self/task").iterdir()))


def is_gone(cache: kvserve.Client, key: str = LOCK_KEY) -> Callable[[], bool]:
    """Whether a key is no more."""
    return lambda: key not in cache


def test_dropped_lock_is_over_after_its_ttl(cache: kvserve.Client, eventually: Eventually) -> None:
    before = threads()
    lock = cache.lock("job", ttl=3600)
    lock.acquire()
    eventually(lambda: threads() == before + 1)
    del lock
    eventually(lambda: threads() == before)  # at once, not when its renewal is due
    assert cache.touch(LOCK_KEY, TTL)
    cache.lock("short", ttl=TTL).acquire()
    eventually(is_gone(cache))
    eventually(is_gone(cache, "kvserve:lock:short"))


def test_lock_of_an_ended_thread_is_over_after_its_ttl(
    cache: kvserve.Client, eventually: Eventually
) -> None:
    before = threads()
    bound, free = cache.lock("job", ttl=TTL), cache.lock("free", ttl=TTL, thread_bound=False)

    def take() -> None:
        bound.acquire()
        free.acquire()

    for start in (lambda: _thread.start_new_thread(take, ()), threading.Thread(target=take).start):
        start()
        eventually(lambda: free.held)
        eventually(is_gone(cache))
        assert not bound.held
        assert free.held  # and so it was renewed
        assert threads() <= before + 1
        free.release()  # in another thread than the one that acquired it
        eventually(lambda: threads() == before)


def test_only_the_thread_that_has_it_releases_a_lock(cache: kvserve.Client) -> None:
    lock = cache.lock("job", ttl=60)
    lock.acquire()
    errors: list[str] = []

    def strange() -> None:
        with pytest.raises(MisuseError) as raised:
            lock.release()
        errors.append(str(raised.value))

    thread = threading.Thread(target=strange)
    thread.start()
    thread.join()
    assert "thread_bound=False" in errors[0]
    assert lock.held
    lock.release()


@pytest.mark.parametrize("kind", KINDS)
def test_max_hold_ends_renewal(
    kind: str, served: Server, cache: kvserve.Client, eventually: Eventually
) -> None:
    began = now_ms()
    if kind == "blocking":
        lock = cache.lock("job", ttl=TTL, max_hold=2 * TTL)
        lock.acquire()
        eventually(is_gone(cache))
        assert not lock.held
        with pytest.raises(LockLost):
            lock.release()
    else:

        async def main() -> None:
            async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:
                lock = client.lock("job", ttl=TTL, max_hold=2 * TTL)
                await lock.acquire()
                while lock.held:
                    await asyncio.sleep(0.01)
                with pytest.raises(LockLost):
                    await lock.release()

        asyncio.run(main())
    assert now_ms() - began > 1.2 * TTL * 1000  # it was renewed before


@pytest.mark.parametrize("timeout", [None, 0.1], ids=["client's", "own"])
def test_an_asyncio_lock_is_renewed_beyond_the_time_that_its_acquisition_had(
    served: Server, timeout: float | None
) -> None:
    """What renews it is begun within that call, and has no deadline of it."""

    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=0.3) as cache:
            lock = cache.lock("outlives", ttl=0.4)
            await lock.acquire(timeout=timeout)
            key = "kvserve:lock:outlives"
            _, first = await cache.gets(key)
            seen = {first}
            while len(seen) < 6:  # each renewal is another version, the first come within 0.3 s
                assert lock.held
                _, version = await cache.gets(key)
                assert version is not None
                seen.add(version)
                await asyncio.sleep(0.02)
            await lock.release()

    asyncio.run(main())


def test_threads_that_share_an_object_take_turns(cache: kvserve.Client) -> None:
    lock = cache.lock("job", ttl=60)
    inside: list[int] = []
    numbers: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            with lock:
                inside.append(number)
                time.sleep(0.001)
                assert inside == [number]
                numbers.append(lock.fencing)
                assert lock.held
                inside.clear()

    crew = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert len(numbers) == 30
    assert numbers == sorted(set(numbers))
    assert LOCK_KEY not in cache


def test_tasks_that_share_an_object_take_turns(served: Server, cache: kvserve.Client) -> None:
    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:
            lock = client.lock("job", ttl=60)
            inside: list[int] = []

            async def work(number: int) -> None:
                for _ in range(5):
                    async with lock:
                        inside.append(number)
                        await asyncio.sleep(0.001)
                        assert inside == [number]
                        inside.clear()
                        with pytest.raises(MisuseError, match="not reentrant"):
                            await lock.acquire()

            await asyncio.gather(*map(work, range(6)))

            async def wait() -> None:
                with pytest.raises(LockTimeout):
                    await lock.acquire(timeout=0.05)
                with pytest.raises(LockTimeout):
                    await asyncio.wait_for(client.lock("job").acquire(timeout=0), TIMEOUT)

            async with lock:
                await asyncio.create_task(wait())
                assert lock.held
            await asyncio.wait_for(lock.acquire(), TIMEOUT)  # in a task of its own, before 3.12
            await lock.release()

    asyncio.run(main())
    assert LOCK_KEY not in cache


def test_lost_lock_of_a_shared_object_is_not_released_for_its_new_holder(
    cache: kvserve.Client,
) -> None:
    lock = cache.lock("job", ttl=3600, timeout=TIMEOUT)
    lock.acquire()
    cache.delete(LOCK_KEY)
    steps = [threading.Event(), threading.Event()]
    told: list[bool] = []

    def take() -> None:
        with lock:
            steps[0].set()
            steps[1].wait()
            told.append(lock.held)

    thread = threading.Thread(target=take)
    thread.start()
    steps[0].wait()
    with pytest.raises(LockLost):
        lock.release()
    assert LOCK_KEY in cache
    steps[1].set()
    thread.join()
    assert told == [True]
    assert LOCK_KEY not in cache


def test_where_no_thread_can_be_started(
    cache: kvserve.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    with pytest.raises(LimitError, match=r"'job'.*can't start.*renew=False"):
        cache.lock("job", ttl=3600).acquire()
    assert LOCK_KEY not in cache
    with cache.lock("job", ttl=3600, renew=False) as lock:
        assert lock.held
    assert cache.get_or_set("key", lambda: 1, claim_ttl=3600) == 1
    assert list(cache.scan("kvserve:l")) == []


AT_EXIT = """
import atexit, kvserve
cache = kvserve.connect(timeout=20)
def end():
    try:
        with cache.lock("job", ttl=3600):
            print("held")
    except kvserve.LimitError:
        print("refused")
    print(cache.get_or_set("key", lambda: "computed", claim_ttl=3600))
atexit.register(end)
"""


def test_while_the_process_ends(served: Server, cache: kvserve.Client) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", AT_EXIT],
        env=os.environ | {"KVSERVE_NAME": served.name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.stdout.split() in (["held", "computed"], ["refused", "computed"])
    assert list(cache.scan("kvserve:l")) == []


@pytest.mark.parametrize("fork", [os.fork, unseen_fork])
def test_forked_child_neither_renews_nor_releases(
    served: Server, fork: Callable[[], int], tmp_path: Path
) -> None:
    """It leaves its parent's factory and block by an exception, or by returning."""
    report = tmp_path / "child"

    def work(pipe: Connection, *, raises: bool) -> Any:
        parent = os.getpid()

        def compute() -> str:
            if fork() == 0:
                if raises:
                    raise RuntimeError("the child's")
                return "child's"
            os.wait()
            return "parent's"

        cache = kvserve.connect(served.name, timeout=TIMEOUT)
        lock = cache.lock("job", ttl=60)
        told: list[Any] = []
        try:
            with lock:
                told.append(cache.get_or_set("key", compute, claim_ttl=60))
                told += [os.getpid() == parent, lock.held]
                told += [key in cache for key in (LOCK_KEY, "kvserve:claim:key")]
        except (RuntimeError, LockLost) as error:
            told.append(str(error))
        if os.getpid() != parent:
            report.write_text(repr(told))
            os._exit(0)
        pipe.send(told)
        return report.read_text()

    lost = "the lock is held by the process that forked this one, not by this one"
    for raises, said in (
        (True, ["the child's"]),
        (False, ["child's", False, False, True, True, lost]),
    ):
        member = Member(lambda pipe, raises=raises: work(pipe, raises=raises))
        try:
            assert member.hear() == ["parent's", True, True, True, False]
            assert member.hear() == repr(said)
        finally:
            member.end()
        with served.connect() as cache:
            assert cache.get("key") == "parent's"
            assert list(cache.scan("kvserve:l")) == []
            cache.flush()

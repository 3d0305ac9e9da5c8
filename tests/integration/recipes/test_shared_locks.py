"""Locks that threads and tasks share, in threading.Lock's form: `acquire(False)`, `locked()`."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from support.crews import FORKS, KINDS, TIMEOUT, Fork, Member, together
from support.servers import Server, StartServer, stopped

import kvserve
from kvserve.errors import InvalidArgument, LockLost, LockTimeout, MisuseError

LOCK_KEY = "kvserve:lock:job"
TTL = 0.6


class Mutexes:
    """One lock object for each key, which all threads share; as dogpile.cache keeps them."""

    def __init__(self, cache: kvserve.Client) -> None:
        self._cache = cache
        self._guard = threading.Lock()
        self._made: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        with self._guard:
            return self._made.setdefault(key, self._cache.lock(key, ttl=60, thread_bound=False))


def add_one(path: Path) -> None:
    """Adds to a number in a file, which two at once would do wrong."""
    number = int(path.read_text() or 0)
    time.sleep(0.0005)
    path.write_text(str(number + 1))


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of so many threads returned; raises what one raised."""
    answers: list[Any] = [None] * count

    def run(number: int) -> None:
        try:
            answers[number] = work(number)
        except BaseException as error:
            answers[number] = error

    crew = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def test_one_object_a_key_for_threads_of_several_processes(served: Server, tmp_path: Path) -> None:
    files = {key: tmp_path / key for key in ("a", "b")}
    for path in files.values():
        path.touch()

    def work(_: int) -> int:
        with served.connect(timeout=TIMEOUT) as cache:
            mutexes = Mutexes(cache)

            def take_turns(number: int) -> int:
                tries = 0
                for turn in range(6):
                    key = "ab"[(number + turn) % 2]
                    mutex = mutexes[key]
                    while turn % 3 == 0 and not mutex.acquire(False):
                        tries += 1
                        time.sleep(0.001)
                    if turn % 3 == 1:
                        assert mutex.acquire(True) is True
                    elif turn % 3 == 2:
                        mutex.acquire()
                    add_one(files[key])
                    mutex.release()
                return tries

            return sum(in_threads(5, take_turns))

    together(3, work)
    assert [path.read_text() for path in files.values()] == ["45", "45"]


def test_tasks_of_one_object_take_turns_with_those_of_another(
    served: Server, tmp_path: Path
) -> None:
    path = tmp_path / "number"
    path.touch()

    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:
            lock = client.lock("job", ttl=60)

            async def take_turns(number: int) -> None:
                for turn in range(6):
                    if turn % 2:
                        while not await lock.acquire(blocking=False):
                            await asyncio.sleep(0.001)
                    else:
                        assert await lock.acquire(True) is True
                    number = int(path.read_text() or 0)
                    await asyncio.sleep(0.0005)
                    path.write_text(str(number + 1))
                    await lock.release()

            await asyncio.gather(*map(take_turns, range(5)))

    together(3, lambda _: asyncio.run(main()))
    assert path.read_text() == "90"


class Blocking:
    """The lock of an asyncio client as if it were a blocking one, in one task."""

    def __init__(self, stack: ExitStack, server: Server, options: dict[str, Any]) -> None:
        self._runner = stack.enter_context(asyncio.Runner())
        client = self._run(kvserve.connect_async(server.name, timeout=TIMEOUT, **options))
        stack.callback(lambda: self._run(client.close()))
        self._client = client

    def _run(self, coroutine: Any) -> Any:
        return self._runner.run(coroutine)

    def lock(self, name: str, **options: Any) -> Any:
        """The lock, of which each method runs to its end."""
        return _Lock(self._run, self._client.lock(name, **options))


class _Lock:
    def __init__(self, run: Callable[..., Any], lock: Any) -> None:
        self._run, self._lock = run, lock

    def acquire(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self._lock.acquire(*args, **kwargs))

    def release(self) -> Any:
        return self._run(self._lock.release())

    def locked(self) -> Any:
        return self._run(self._lock.locked())


@pytest.fixture(scope="module", params=["writers", "store"])
def other(
    request: pytest.FixtureRequest,
    make_module_server: StartServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Server, dict[str, Any]]:
    """A server with trusted writers, and one with a store behind it, and a client's options."""
    path = tmp_path_factory.mktemp("store") / "cache.db"
    flags = {"writers": ("--writers", "8"), "store": ("--store", f"sqlite:///{path}")}
    options = {"write": "direct"} if request.param == "writers" else {}
    return make_module_server(*flags[request.param]), options


@pytest.fixture(params=KINDS)
def way(request: pytest.FixtureRequest, other: tuple[Server, dict[str, Any]]) -> Iterator[Any]:
    """A client of each kind."""
    server, options = other
    with ExitStack() as stack:
        if request.param == "blocking":
            yield stack.enter_context(server.connect(timeout=TIMEOUT, **options))
        else:
            yield Blocking(stack, server, options)


def test_answers_of_acquire(way: Any, other: tuple[Server, Any]) -> None:
    lock = way.lock("job", ttl=60)
    with other[0].connect(timeout=TIMEOUT) as cache:
        for blocking in ((), (None,), (True,), (False,), (True, 5), (True, -1), (False, -1)):
            assert not lock.locked()
            answer = lock.acquire(*blocking)
            assert type(answer) is (bool if blocking and blocking[0] is not None else int)
            assert answer
            late = cache.lock("job", ttl=60)
            assert (lock.locked(), late.locked(), late.held) == (True, True, False)
            assert late.acquire(False) is False
            assert late.acquire(blocking=True, timeout=0.01) is False
            with pytest.raises(LockTimeout):
                late.acquire(timeout=0.01)
            with pytest.raises(MisuseError):
                late.release()  # a False answer is no hold
            lock.release()
        with cache.lock("job", ttl=60):
            assert lock.locked()
            assert lock.acquire(False) is False
            assert lock.acquire(True, 0.01) is False
            with pytest.raises(LockTimeout):
                lock.acquire(timeout=0)
            assert not cache.lock("another job").locked()
            assert not cache.namespace("eu").lock("job").locked()
        assert lock.acquire(timeout=math.inf) > 1
        lock.release()
    for arguments in ((5,), (0,), ("yes",), (False, 5), (False, math.nan), (True, -2), (True, "1")):
        with pytest.raises(InvalidArgument):
            lock.acquire(*arguments)
    assert not lock.locked()


def test_its_holder_is_told_without_waiting(cache: kvserve.Client) -> None:
    lock = cache.lock("job", ttl=60)
    assert lock.acquire(False) is True
    assert lock.acquire(False) is False  # as threading.Lock answers
    with pytest.raises(MisuseError, match="reentrant"):
        lock.acquire(True)
    assert in_threads(1, lambda _: lock.acquire(False)) == [False]
    assert lock.fencing > 1
    lock.release()
    with pytest.raises(MisuseError):
        lock.release()


def test_its_holder_waits_for_another_thread_that_is_to_release_it(
    cache: kvserve.Client,
) -> None:
    """As dogpile.cache does it: a thread begins to create a value, and another one ends it."""
    lock = cache.lock("job", ttl=60, thread_bound=False)
    assert lock.acquire(False)
    assert lock.acquire(True, 0.01) is False
    with pytest.raises(MisuseError, match="reentrant"):
        lock.acquire(timeout=0.01)
    first = lock.fencing
    ended = threading.Timer(0.05, lock.release)
    ended.start()
    assert lock.acquire(True, TIMEOUT) is True
    ended.join()
    assert lock.held
    assert lock.fencing > first
    in_threads(1, lambda _: lock.release())
    assert not lock.locked()
    with pytest.raises(MisuseError):
        lock.release()


def test_of_all_that_try_at_once_one_has_it(served: Server) -> None:
    with served.connect(timeout=TIMEOUT) as cache:
        lock = cache.lock("job", ttl=60, thread_bound=False)
        for _ in range(20):
            barrier = threading.Barrier(8)

            def attempt(_: int, barrier: threading.Barrier = barrier) -> bool:
                barrier.wait()
                return bool(lock.acquire(False))

            assert sorted(in_threads(8, attempt)) == [False] * 7 + [True]
            lock.release()  # by another thread than the one that took it


def test_looking_at_a_lock_asks_no_worker(server: Server) -> None:
    with server.connect(timeout=TIMEOUT) as cache, ExitStack() as stack:
        lock = cache.lock("job", ttl=60)
        lock.acquire()
        for pid in server.worker_pids:
            stack.enter_context(stopped(pid))
        assert (lock.locked(), cache.lock("free").locked()) == (True, False)

        async def main() -> list[bool]:
            async with await kvserve.connect_async(server.name, timeout=TIMEOUT) as client:
                return [await client.lock(name).locked() for name in ("job", "free")]

        assert asyncio.run(main()) == [True, False]
        assert cache.lock("job").acquire(blocking=False) is False  # nor does a try that fails


@pytest.mark.parametrize("kind", KINDS)
def test_killed_holder_among_those_that_share(kind: str, served: Server) -> None:
    """The others of its process die with it; another process gets the lock when the ttl is over."""

    def work(pipe: Connection) -> None:
        with served.connect(timeout=TIMEOUT) as cache:
            lock = cache.lock("job", ttl=TTL)
            assert lock.acquire(True)
            for _ in range(3):
                threading.Thread(target=lock.acquire, daemon=True).start()
            pipe.send("held")
            pipe.recv()

    async def work_async(pipe: Connection) -> None:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as cache:
            lock = cache.lock("job", ttl=TTL)
            assert await lock.acquire(True)
            waiting = [asyncio.create_task(lock.acquire()) for _ in range(3)]
            await asyncio.sleep(2 * TTL)  # it is renewed meanwhile
            pipe.send("held")
            await asyncio.gather(*waiting)

    with served.connect(timeout=TIMEOUT) as cache:
        lock = cache.lock("job", ttl=60)
        member = Member(work if kind == "blocking" else lambda pipe: asyncio.run(work_async(pipe)))
        try:
            assert member.hear() == "held"
            assert lock.locked()
            assert lock.acquire(False) is False
            member.signal(signal.SIGKILL)
            assert lock.acquire(blocking=True, timeout=TIMEOUT) is True
            assert lock.locked()
            lock.release()
            assert not lock.locked()
        finally:
            member.end()


@pytest.mark.parametrize("fork", FORKS)
def test_fork_while_a_thread_holds_a_shared_lock(fork: str, served: Server) -> None:
    """Python cannot fork in C while another of its threads waits to run: there nobody waits."""
    make: Fork = FORKS[fork]
    with served.connect(timeout=TIMEOUT) as cache:
        lock = cache.lock("job", ttl=60, thread_bound=False)
        assert lock.acquire(False)
        waiting = threading.Thread(target=lock.acquire)
        if make is os.fork:
            waiting.start()

        def child(pipe: Connection) -> list[Any]:
            pipe.send("begun")
            told = [lock.held, lock.locked(), lock.acquire(False), lock.acquire(True, 0.01)]
            try:
                lock.release()
            except LockLost:
                told.append("lost")
            pipe.send(told)
            pipe.recv()
            told = [lock.acquire(True, TIMEOUT), lock.held, lock.locked()]
            lock.release()
            return told

        member = Member(child, make)
        try:
            assert member.hear() == "begun"
            assert member.hear() == [False, True, False, False, "lost"]
            assert lock.held
            lock.release()
            if make is os.fork:
                waiting.join()
                assert lock.held  # by the thread that waited
                lock.release()
            member.tell()
            assert member.hear() == [True, True, True]
        finally:
            member.end()
        assert not lock.locked()

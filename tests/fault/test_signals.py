"""A signal during any request: one that is noticed nowhere, a handler that raises, or forks."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import uvloop
from conftest import Eventually
from fault.interrupted import (
    ASYNC_KINDS,
    KINDS,
    LARGE,
    descriptors,
    get,
    large,
    set_and_count,
)
from support.servers import Server, StartServer, impatient, stopped

import kvserve

SIGNALS = 150
INTERVAL_SECONDS = 0.001
ROOMS = ("client", "transport", "live", "table", "runtime.py", "objects.py")
TRACED = tuple(str(Path(kvserve.__file__).parent / room) for room in ROOMS)
# A handler may raise in a destructor, which can only print that; and a file that it makes us drop
# is closed by its own, which Python warns of.
unraisable = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Interrupted(Exception):
    """What a signal handler raises: a watchdog of the application, for one."""


@contextmanager
def handling(handle: Callable[..., object]) -> Iterator[None]:
    """Installs a handler of the timer's signal, and stops the timer in the end."""
    previous = signal.signal(signal.SIGALRM, handle)
    try:
        yield
    finally:
        # First, or a handler that waits to be run would begin the timer again.
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def counting_signals() -> Iterator[list[int]]:
    """A signal every millisecond; yields the list of those that were handled."""
    handled: list[int] = []
    with handling(lambda number, _: handled.append(number)):
        signal.setitimer(signal.ITIMER_REAL, INTERVAL_SECONDS, INTERVAL_SECONDS)
        yield handled


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """The server of all tests that leave its workers alone."""
    return make_module_server("--shards", "2")


@pytest.fixture
def cache(served: Server) -> Iterator[kvserve.Client]:
    """A client that asks a worker whatever it is asked."""
    with served.connect(timeout=30, read="worker") as cache:
        cache.flush()
        cache.set("kept", "kept")
        yield cache


@pytest.mark.parametrize("work", KINDS)
def test_a_signal_that_is_handled_is_not_noticed(
    cache: kvserve.Client, work: Callable[[kvserve.Client, int], None]
) -> None:
    with counting_signals() as handled:
        for turn in itertools.count():
            work(cache, turn)
            if len(handled) >= SIGNALS:
                break


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_nor_is_it_on_an_event_loop(served: Server, run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=30, read="worker") as cache:
            await cache.set("kept", "kept")
            turn = 0
            with counting_signals() as handled:
                while len(handled) < SIGNALS:
                    turn += 1
                    for work in ASYNC_KINDS.values():
                        await work(cache, turn)

    run(main())


def test_signals_do_not_prolong_a_deadline(make_server: StartServer) -> None:
    """Neither while a queue is full nor while a reply does not come."""
    server = make_server("--workers", "1")
    with server.connect(timeout=20) as cache:
        cache.ping()
        with stopped(server.worker_pids[0]), impatient(cache), counting_signals() as handled:
            for _ in range(4):
                with pytest.raises(kvserve.RequestTimeout):
                    cache.set("key", 1)
            with pytest.raises(kvserve.ServerBusy):
                cache.set("key", 1)
            with pytest.raises(kvserve.ServerError):
                cache.set("key", LARGE)
        assert len(handled) > 10
        cache.ping()


def test_signals_while_a_queue_is_full(make_server: StartServer, eventually: Eventually) -> None:
    """Whoever waits for room goes on when there is some."""
    server = make_server("--workers", "1")
    clients = [server.connect(timeout=30) for _ in range(8)]  # twice what the queue holds
    for client in clients:
        client.ping()
    (worker,) = server.worker_pids
    with stopped(worker), counting_signals() as handled:
        threads = [threading.Thread(target=client.incr, args=("key",)) for client in clients]

        def resume() -> None:
            eventually(lambda: len(handled) > 100)
            os.kill(worker, signal.SIGCONT)

        threads.append(threading.Thread(target=resume))
        for thread in threads:
            thread.start()
        assert clients[0].incr("key", 100) is not None  # in the thread that handles signals
        for thread in threads:
            thread.join()
    assert len(handled) > 100
    assert clients[0].get("key") == 8 + 100
    for client in clients:
        client.close()


@unraisable
@pytest.mark.parametrize("work", KINDS)
def test_a_handler_that_raises(
    cache: kvserve.Client, work: Callable[[kvserve.Client, int], None], seed: int
) -> None:
    """At random moments; the next request is not answered by the reply to the one given up."""
    moments = random.Random(seed)

    def give_up(*_: object) -> None:
        raise Interrupted

    given_up = 0
    with handling(give_up):
        for turn in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.00001, 0.002))
                for _ in range(250):
                    work(cache, turn)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                given_up += 1
            set_and_count(cache, turn)
            assert cache.get("large") in (None, LARGE)
            get(cache, turn)
    assert given_up > 100
    assert cache.verify() == []


@contextmanager
def raising_at(number: int) -> Iterator[list[str]]:
    """Raises at the so-and-so-manieth point where Python may run a signal handler in the client.

    Yields the list of where it did: at one place at most.

    That is where a function begins, and where a call of C has returned, its result not yet stored.
    """
    points = itertools.count()
    raised: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if not frame.f_code.co_filename.startswith(TRACED) or event not in ("call", "c_return"):
            return
        if next(points) == number:
            raised.append(f"{frame.f_code.co_qualname}, {event}")
            raise Interrupted

    sys.setprofile(profile)
    try:
        yield raised
    finally:
        sys.setprofile(None)


@unraisable
@pytest.mark.parametrize("work", KINDS)
def test_a_handler_that_raises_at_any_point(
    cache: kvserve.Client, work: Callable[[kvserve.Client, int], None], eventually: Eventually
) -> None:
    """None leaves a session in disorder, nor a descriptor behind."""
    set_and_count(cache, 0)
    work(cache, 0)
    cache.ping()
    before = descriptors()
    for number in itertools.count():
        with suppress(Interrupted), raising_at(number) as raised:
            work(cache, number)
        if not raised:
            break
        set_and_count(cache, number)
        assert cache.get("large") in (None, LARGE)
        get(cache, number)
        cache.ping()
        if descriptors() > before:
            gc.collect()  # of a client that came to be and was never closed
        assert descriptors() <= before, raised
    assert number > 20
    cache.ping()
    sessions = sum(map(len, cache._workers._idle.values()))
    eventually(lambda: sum(each["sessions"] for each in cache.stats()["workers"]) == sessions)


@pytest.mark.parametrize("work", KINDS)
def test_a_handler_that_forks(
    cache: kvserve.Client, work: Callable[[kvserve.Client, int], None]
) -> None:
    """In the middle of a request. The child, which ends in the handler, uses the client there."""
    children: list[int] = []

    def fork(*_: object) -> None:
        if pid := os.fork():
            children.append(pid)
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            return
        status = 1
        try:
            large(cache, 0)
            get(cache, 0)
            cache.close()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    with handling(fork):
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        for turn in itertools.count():
            work(cache, turn)
            if len(children) >= 30:
                break
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert statuses == [0] * len(children)
    set_and_count(cache, turn)


@unraisable
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("kind", ASYNC_KINDS)
def test_a_handler_that_raises_at_any_point_of_a_task_or_callback(
    served: Server, run: Callable[..., Any], kind: str
) -> None:
    """What was read or written by half is given up with its session; what may be is sent again."""

    async def main() -> None:
        in_callbacks: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: in_callbacks.append(what))
        async with await kvserve.connect_async(served.name, timeout=30, read="worker") as cache:
            await cache.set("kept", "kept")
            await cache.ping()
            before = descriptors()
            for number in itertools.count():
                with suppress(Interrupted, kvserve.OutcomeUnknown), raising_at(number) as raised:
                    await ASYNC_KINDS[kind](cache, number)
                if not raised:
                    break
                await cache.set("mine", number)
                assert await cache.get("mine") == number
                assert await cache.get("large") in (None, LARGE)
                await cache.ping()
                if descriptors() > before:
                    gc.collect()
                assert descriptors() <= before, raised
            assert number > 30
            assert in_callbacks

    run(main())

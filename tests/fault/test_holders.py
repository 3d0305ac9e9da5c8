"""No lock and no lease outlives its holder: interrupted at every point, cancelled, dropped, ended.

Each interrupted call has a lock or key of its own, and all objects are kept, so that it is not the
garbage collector who tidies up. In the end every record is gone by its ttl, which cannot be if one
was renewed, and no thread or task is left that would renew it.

KVSERVE_TEST_STRIDE=1 interrupts at every step, as `make test-soak` does; else it is every ninth,
from one that is chosen at random.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import uvloop
from conftest import Eventually
from fault.test_cancels import cancelled_after, cancelled_at
from fault.test_signals import Interrupted, handling
from support.servers import Server, StartServer

import kvserve

TTL = 1.0  # seconds
STRIDE = int(os.environ.get("KVSERVE_TEST_STRIDE", "9"))
CLIENT = str(Path(kvserve.__file__).parent / "client")
# Here it is each instruction that is interrupted, elsewhere each function.
SINGLE_STEPPED = tuple(
    str(Path(CLIENT) / "recipes" / f"{name}.py")
    for name in ("locks", "claims", "single_flight", "ports", "waits", "aio", "memoize")
)
unraisable = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# A coroutine that is interrupted before its first step was not awaited.
unawaited = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """The server of all tests here."""
    return make_module_server("--writers", "2", "--memory", "32MiB")


@pytest.fixture
def cache(served: Server) -> Iterator[kvserve.Client]:
    """A client of an empty cache."""
    with served.connect() as cache:
        cache.flush()
        yield cache


def held(cache: kvserve.Client) -> list[str]:
    """The names of all locks and leases that are held."""
    kinds = ("kvserve:lock:", "kvserve:claim:")
    return [key for kind in kinds for key in cache.scan(kind)]


def threads() -> int:
    """How many this process has, of every kind."""
    return len(list(Path("/proc/self/task").iterdir()))


# What is interrupted. Each has a name of its own each time, and keeps its objects in a list.


def block(cache: kvserve.Client, name: str, kept: list[Any]) -> None:
    kept.append(cache.lock(name, ttl=TTL, timeout=0))
    with kept[-1]:
        pass


def by_hand(cache: kvserve.Client, name: str, kept: list[Any]) -> None:
    kept.append(cache.namespace("eu").lock(name, ttl=TTL, timeout=0, thread_bound=False))
    kept[-1].acquire()
    kept[-1].release()


def by_answer(cache: kvserve.Client, name: str, kept: list[Any]) -> None:
    kept.append(cache.lock(name, ttl=TTL))
    assert kept[-1].acquire(blocking=False)
    kept[-1].release()


def compute(cache: kvserve.Client, name: str, _: list[Any]) -> None:
    assert cache.get_or_set(name, lambda: name, ttl=60, claim_ttl=TTL) == name


def memoized(cache: kvserve.Client, name: str, kept: list[Any]) -> None:
    @cache.namespace("eu").memoize(60, claim_ttl=TTL)
    def twice(text: str) -> str:
        return 2 * text

    kept.append(twice)
    assert twice(name) == 2 * name


KINDS = (block, by_hand, by_answer, compute, memoized)


async def block_async(cache: kvserve.AsyncClient, name: str, kept: list[Any]) -> None:
    kept.append(cache.lock(name, ttl=TTL, timeout=0))
    async with kept[-1]:
        await asyncio.sleep(0)


async def by_hand_async(cache: kvserve.AsyncClient, name: str, kept: list[Any]) -> None:
    kept.append(cache.namespace("eu").lock(name, ttl=TTL, timeout=0))
    await kept[-1].acquire()
    await kept[-1].release()


async def by_answer_async(cache: kvserve.AsyncClient, name: str, kept: list[Any]) -> None:
    kept.append(cache.lock(name, ttl=TTL))
    assert await kept[-1].acquire(blocking=False)
    await kept[-1].release()


async def compute_async(cache: kvserve.AsyncClient, name: str, _: list[Any]) -> None:
    async def factory() -> str:
        await asyncio.sleep(0)
        return name

    assert await cache.get_or_set(name, factory, ttl=60, claim_ttl=TTL) == name


async def memoized_async(cache: kvserve.AsyncClient, name: str, kept: list[Any]) -> None:
    @cache.namespace("eu").memoize(60, claim_ttl=TTL)
    async def twice(text: str) -> str:
        return 2 * text

    kept.append(twice)
    assert await twice(name) == 2 * name


ASYNC_KINDS = (block_async, by_hand_async, by_answer_async, compute_async, memoized_async)
CANCELS: dict[str, Callable[..., Any]] = {
    "waiting": lambda work, number: cancelled_at(work, number, when="waiting", tidies_up=True),
    "woken": lambda work, number: cancelled_at(work, number, when="woken", tidies_up=True),
    "turns": cancelled_after,
}


def steps() -> Iterator[int]:
    """The numbers of those at which to interrupt."""
    first = random.randrange(STRIDE)
    print(f"every step from {first} by {STRIDE}")
    return itertools.count(first, STRIDE)


@contextmanager
def raising_at(number: int) -> Iterator[list[str]]:
    """Raises at the so-and-so-manieth step of the client: where a function begins and, where locks
    and leases are taken and given up, at each instruction of Python.

    Yields the list of where it did: at one place at most.
    """
    points = itertools.count()
    raised: list[str] = []

    def step(frame: FrameType, event: str, _: object) -> Any:
        if event != "exception" and next(points) == number:
            raised.append(f"{frame.f_code.co_qualname}, {event}, line {frame.f_lineno}")
            raise Interrupted
        return step

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(CLIENT):
            return None
        frame.f_trace_opcodes = True
        further = step(frame, event, argument)
        return further if frame.f_code.co_filename in SINGLE_STEPPED else None

    sys.settrace(trace)
    try:
        yield raised
    finally:
        sys.settrace(None)


@unraisable
@unawaited
@pytest.mark.parametrize(
    ("work", "write"),
    [*((work, "worker") for work in KINDS), (block, "direct"), (compute, "direct")],
)
def test_exception_at_every_step_leaves_nothing_that_is_renewed(
    served: Server, eventually: Eventually, work: Callable[..., None], write: Any
) -> None:
    with served.connect(write=write) as cache:
        cache.flush()
        interrupt_at_every_step(cache, eventually, work)


def interrupt_at_every_step(
    cache: kvserve.Client, eventually: Eventually, work: Callable[..., None]
) -> None:
    kept: list[Any] = []
    before = threads()
    work(cache, "warm", kept)
    for number in steps():
        with suppress(Interrupted), raising_at(number) as raised:
            work(cache, f"name {number}", kept)
        if not raised:
            break
    assert number > 200
    eventually(lambda: threads() <= before)
    eventually(lambda: not held(cache))
    for again in range(0, number, STRIDE):  # none is taken for a factory that waits for itself
        work(cache, f"name {again}", kept)


@unraisable
@unawaited
@pytest.mark.parametrize("work", [block, compute, memoized])
def test_signal_handler_that_raises_at_random(
    cache: kvserve.Client, eventually: Eventually, work: Callable[..., None]
) -> None:
    """As celery's soft time limit, an alarm, or Ctrl-C."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    kept: list[Any] = []
    before = threads()

    def give_up(*_: object) -> None:
        raise Interrupted

    given_up = 0
    with handling(give_up):
        for turn in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.00001, 0.002))
                for again in range(250):
                    work(cache, f"turn {turn}, {again}", kept)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                given_up += 1
    assert given_up > 150
    eventually(lambda: threads() <= before)
    eventually(lambda: not held(cache))
    assert cache.verify() == []


@unraisable
@unawaited
@pytest.mark.parametrize("work", [block, compute])
def test_exception_thrown_at_a_thread_at_random(
    cache: kvserve.Client, eventually: Eventually, work: Callable[..., None]
) -> None:
    """As by PyThreadState_SetAsyncExc. The threads live on, so they are not what ends renewal."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    kept: list[Any] = []
    over = threading.Event()
    struck: set[int] = set()

    def run(victim: int) -> None:
        with suppress(Interrupted):
            for turn in itertools.count():
                work(cache, f"thread {victim}, {turn}", kept)
        struck.add(victim)
        over.wait()

    victims = []
    for number in range(40):
        victims.append(threading.Thread(target=run, args=(number,)))
        victims[-1].start()
        time.sleep(moments.uniform(0.001, 0.005))
        while victims[-1].is_alive() and number not in struck:  # a destructor may have swallowed it
            thread = ctypes.c_ulong(victims[-1].ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Interrupted))
            victims[-1].join(0.02)
    eventually(lambda: not held(cache))
    over.set()
    for thread in victims:
        thread.join()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("work", ASYNC_KINDS)
@pytest.mark.parametrize("cancel", CANCELS)
def test_task_cancelled_at_every_await_leaves_nothing_that_is_renewed(
    served: Server, run: Callable[..., Any], work: Callable[..., Any], cancel: str
) -> None:
    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=30) as cache:
            await cache.flush()
            kept: list[Any] = []
            await work(cache, "warm", kept)
            for number in itertools.count():
                at_point = work(cache, f"name {number}", kept)
                if not await CANCELS[cancel](at_point, number):
                    break
            assert number > 2
            await nothing_left(cache)
            for again in range(number):
                await work(cache, f"name {again}", kept)

    run(main())


async def nothing_left(cache: kvserve.AsyncClient) -> None:
    """Waits until no lock or lease is held, and until no other task is there."""
    for kind in ("kvserve:lock:", "kvserve:claim:"):
        while [key async for key in cache.scan(kind)]:
            await asyncio.sleep(0.01)
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.01)


@unraisable
@unawaited
@pytest.mark.parametrize("work", ASYNC_KINDS)
def test_exception_at_every_step_of_a_task_leaves_nothing_that_is_renewed(
    served: Server, work: Callable[..., Any]
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with await kvserve.connect_async(served.name, timeout=30) as cache:
            await cache.flush()
            kept: list[Any] = []
            await work(cache, "warm", kept)
            for number in steps():
                with suppress(Interrupted), raising_at(number) as raised:
                    await work(cache, f"name {number}", kept)
                if not raised:
                    break
            assert number > 200
            await nothing_left(cache)
            for again in range(0, number, STRIDE):
                await work(cache, f"name {again}", kept)

    asyncio.run(main())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_task_that_its_own_factory_cancels(served: Server, run: Callable[..., Any]) -> None:
    """It is told at its next await, which is where the value is stored, or the lock released."""

    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=30) as cache:
            await cache.flush()

            def cancelled() -> str:
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_soon(task.cancel)
                return "value"

            async def locked() -> None:
                async with cache.lock("job", ttl=3600):
                    cancelled()

            for work in (cache.get_or_set("key", cancelled, claim_ttl=3600), locked()):
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.create_task(work)
            await nothing_left(cache)  # long before the hour is over

    run(main())

"""A handler that raises between any two instructions of ours: nothing stays open, or is renamed."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from fault.interrupted import descriptors
from support.servers import Server, StartServer
from support.trusted import direct

import kvserve

OURS = str(Path(kvserve.__file__).parent)
POINTS = 40  # of each kind, where they are spread evenly; all of them in a thorough run
THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
# A handler may raise in a destructor, which can only print that.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Interrupted(Exception):
    """What an application's handler raises: celery's soft limit, for one."""


class Late(TimeoutError):
    """What many raise from SIGALRM; an OSError that the system did not make."""


@contextmanager
def interrupted_at(number: int, error: type[BaseException]) -> Iterator[list[str]]:
    """Raises before the so-and-so-manieth instruction of ours; -1: never.

    Yields one place for each instruction there was; the last is where it raised.
    """
    places: list[str] = []

    def in_frame(frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode":
            places.append(f"{frame.f_code.co_qualname}, line {frame.f_lineno}")
            if len(places) == number + 1:
                sys.settrace(None)
                raise error
        return in_frame

    def on_call(frame: FrameType, _: str, __: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = True
        return in_frame

    sys.settrace(on_call)
    try:
        yield places
    finally:
        sys.settrace(None)


def connect(server: Server) -> None:
    with server.connect(read="worker") as cache:
        cache.incr("number")


def connect_direct(server: Server) -> None:
    with direct(server) as cache:
        cache.set("key", 1)


def connect_async(server: Server) -> None:
    async def main() -> None:
        # It logs what a callback raised, and the log of the tests keeps that.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with await kvserve.connect_async(server.name, timeout=30) as cache:
            await cache.incr("number")

    asyncio.run(main())


def watch(server: Server) -> None:
    with server.connect() as cache:
        assert list(cache.watch(timeout=0.001)) == []


KINDS = (connect, connect_direct, connect_async, watch)


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    return make_module_server("--writers", "1", "--shards", "2")


def open_things(server: Server) -> tuple[int, int, int]:
    """Descriptors, mappings and FIFOs that are there."""
    maps = Path("/proc/self/maps").read_text().count(server.name)
    return descriptors(), maps, len(list(server.names.clients_directory.iterdir()))


@pytest.mark.parametrize("error", [Interrupted, Late, KeyboardInterrupt])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_open(
    served: Server, kind: Callable[[Server], None], error: type[BaseException]
) -> None:
    """Nor does the exception become another one."""
    kind(served)
    with interrupted_at(-1, error) as places:
        kind(served)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    points = range(len(places))
    chosen = points if THOROUGH else random.Random(seed).sample(points, min(POINTS, len(points)))
    gc.collect()
    before = open_things(served)
    for number in sorted(chosen):
        raised: BaseException | None = None
        try:
            with interrupted_at(number, error) as places:
                kind(served)
        except BaseException as found:
            raised = found
        was_reached = len(places) > number
        if was_reached and raised is not None:
            # What is raised in a callback of the event loop ends the session, no more.
            in_callback = kind is connect_async and isinstance(raised, kvserve.OutcomeUnknown)
            assert type(raised) is error or in_callback, places[-1]
        raised = None
        if open_things(served) != before:
            gc.collect()
        assert open_things(served) == before, places[-1]


def pipeline(cache: kvserve.Client) -> None:
    with cache.pipeline() as p:
        for n in range(5):
            p.set(f"key {n}", n).incr(f"key {n}").get(f"key {n}").cas(f"key {n}", 1, 1)
    assert len(p.results) == 20


def many(cache: kvserve.Client) -> None:
    cache.set_many({f"key {n}": n for n in range(5)})
    assert cache.get_many([f"key {n}" for n in range(5)])
    assert cache.delete_many([f"key {n}" for n in range(5)]) == 5


def limit(cache: kvserve.Client) -> None:
    cache.limiter("often", rate=1000, per=1).hit("who")


def flush(cache: kvserve.Client) -> None:
    cache.flush()
    assert cache.verify() == []


@pytest.mark.parametrize("error", [Interrupted, Late, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("work", [pipeline, many, limit, flush])
@pytest.mark.parametrize("write", ["worker", "direct"])
def test_the_exception_is_the_callers(
    served: Server, write: Any, work: Callable[[kvserve.Client], None], error: type[BaseException]
) -> None:
    """No answer of a writer's own executor, nor a kvserve error, takes its place."""
    with served.connect(write=write) as cache:
        work(cache)
        with interrupted_at(-1, error) as places:
            work(cache)
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        points = range(len(places))
        some = points if THOROUGH else random.Random(seed).sample(points, min(40, len(points)))
        for number in sorted(some):
            raised = None
            try:
                with interrupted_at(number, error) as places:
                    work(cache)
            except BaseException as found:
                raised = found
            assert type(raised) is error or len(places) <= number, (raised, places[-1])
            work(cache)

"""Cancelled awaits, at every point where a request waits and after every turn of the loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

import pytest
import uvloop
from conftest import Eventually
from fault.interrupted import ASYNC_KINDS, descriptors
from support.servers import Server, StartServer, stopped

import kvserve


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """The server of all tests that leave its workers alone."""
    return make_module_server("--shards", "2")


class Suspended:
    """A coroutine that tells its own task, by `at(future)`, of each future that it waits for.

    Args:
        work: the coroutine.
        at: is told.
        tidies_up: whether it may wait once more after it was cancelled.
    """

    def __init__(
        self, work: Coroutine[Any, Any, None], at: Callable[[Any], None], *, tidies_up: bool
    ) -> None:
        self._work = work
        self._at = at
        self._tidies_up = tidies_up

    def __await__(self) -> Generator[Any, None, None]:
        thrown: BaseException | None = None
        with suppress(StopIteration):
            while True:
                if thrown is None:
                    future = self._work.send(None)
                else:
                    future = self._work.throw(thrown)
                    assert self._tidies_up, "a cancelled request went on waiting"
                    thrown = None
                self._at(future)
                try:
                    yield future
                except BaseException as error:
                    thrown = error


async def cancelled_at(
    work: Coroutine[Any, Any, None], number: int, *, when: str, tidies_up: bool = False
) -> bool:
    """Cancels work at the so-and-so-manieth point where it waits; returns whether it came so far.

    Args:
        work: what a task of its own does.
        number: from 0.
        when: `waiting`: before that for which it waits is there; `woken`: when it is there, and
            the task has not been told.
        tidies_up: whether it may wait once more after that.
    """
    points = itertools.count()

    def at(future: Any) -> None:
        if next(points) == number:
            if when == "waiting" or future is None:  # of a mere turn of the loop
                asyncio.get_running_loop().call_soon(task.cancel)
            else:
                future.add_done_callback(lambda _: task.cancel())

    async def main() -> None:
        await Suspended(work, at, tidies_up=tidies_up)

    task = asyncio.ensure_future(main())
    with suppress(asyncio.CancelledError):
        await task
    return task.cancelled()


async def cancelled_after(work: Coroutine[Any, Any, None], turns: int) -> bool:
    """Cancels work after so many turns of the event loop; returns whether it was not over yet."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return task.cancelled()


CANCELS = {
    "waiting": lambda work, number: cancelled_at(work, number, when="waiting"),
    "woken": lambda work, number: cancelled_at(work, number, when="woken"),
    "turns": cancelled_after,
}


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("kind", ASYNC_KINDS)
@pytest.mark.parametrize("cancel", CANCELS)
def test_cancelled_await_at_every_point(
    served: Server, run: Callable[..., Any], kind: str, cancel: str
) -> None:
    """Nobody else is disturbed, neither beside it nor afterwards, and nothing is left behind."""

    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=30, read="worker") as cache:
            await cache.flush()
            await cache.set("kept", "kept")
            before = descriptors()
            for number in itertools.count():
                beside = [asyncio.ensure_future(cache.incr("beside")) for _ in range(2)]
                was_cancelled = await CANCELS[cancel](ASYNC_KINDS[kind](cache, number), number)
                assert await asyncio.gather(*beside) == [2 * number + 1, 2 * number + 2]
                await cache.set("mine", number)
                assert await cache.get("mine") == number
                assert await cache.get("kept") == "kept"
                assert descriptors() <= before, f"at point {number}"
                if not was_cancelled:
                    break
            assert number > 0
            await ASYNC_KINDS[kind](cache, number)

    run(main())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_cancelled_await_at_a_worker_that_takes_nothing(
    make_server: StartServer, run: Callable[..., Any], eventually: Eventually
) -> None:
    """In a full queue, with half of a frame written, and while it is greeted."""
    server = make_server("--workers", "1")

    async def main() -> None:
        async with await kvserve.connect_async(server.name, timeout=30, read="worker") as cache:
            await cache.set("kept", "kept")
            before = descriptors()
            for turn in range(1, 20):
                with stopped(server.worker_pids[0]):
                    works = [cache.incr("number") for _ in range(8)]  # the queue holds four
                    works += [work(cache, turn) for work in ASYNC_KINDS.values()]
                    tasks = [asyncio.ensure_future(work) for work in works]
                    for _ in range(turn):
                        await asyncio.sleep(0)
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    assert all(task.cancelled() for task in tasks)
                await asyncio.gather(*(work(cache, turn) for work in ASYNC_KINDS.values()))
                assert await cache.get("kept") == "kept"
                assert descriptors() <= before
            assert (await cache.stats())["workers"][0]["bad_requests"] == 0

    run(main())
    eventually(lambda: not any(server.names.clients_directory.iterdir()))

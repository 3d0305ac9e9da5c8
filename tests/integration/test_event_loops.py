"""One asyncio client and many event loops: one after another, several at once, closed."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from conftest import Eventually
from support.servers import Server, StartServer

import kvserve
from kvserve.names import Names

NEW_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
NewLoop = Callable[[], asyncio.AbstractEventLoop]
WRITES = [{"write": "worker"}, {"write": "direct"}]


@pytest.fixture(params=list(NEW_LOOPS))
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    """Makes a loop of one kind."""
    return NEW_LOOPS[request.param]


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """The module's server."""
    return make_module_server("--writers", "8")


def run(new_loop: NewLoop, work: Any) -> Any:
    """What `asyncio.run` does, on a loop of this kind."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(work)


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def fifos(names: Names) -> list[Path]:
    """The files of sessions that clients have."""
    return list(names.clients_directory.iterdir())


@pytest.mark.parametrize("options", WRITES)
def test_loops_that_end_and_begin(
    served: Server, new_loop: NewLoop, options: dict[str, Any]
) -> None:
    """Made without a loop; used in fifty, none of which closes it. Nothing piles up, although a
    program may keep the closed loops."""
    kept: list[asyncio.AbstractEventLoop] = []

    def new_kept_loop() -> asyncio.AbstractEventLoop:
        kept.append(new_loop())
        return kept[-1]

    cache = kvserve.async_client(served.name, timeout=20, **options)

    async def count() -> int | None:
        await cache.set("text", "x" * 100)
        assert await cache.get_many(["text"]) == {"text": "x" * 100}
        await cache.ping()
        return await cache.incr("turns")

    run(new_loop, cache.delete("turns"))
    run(new_kept_loop, count())
    gc.collect()
    before = descriptors()
    files = len(fifos(served.names))
    for turn in range(2, 50):
        assert run(new_kept_loop, count()) == turn
    assert descriptors() <= before
    assert len(fifos(served.names)) <= files
    assert all(loop.is_closed() for loop in kept)
    run(new_loop, cache.close())
    with pytest.raises(kvserve.ClientClosed):
        run(new_loop, count())


def test_loops_of_several_threads_at_once(served: Server, new_loop: NewLoop) -> None:
    cache = kvserve.async_client(served.name, timeout=20)
    together = threading.Barrier(4)
    faults: list[BaseException] = []

    async def count() -> None:
        for _ in range(100):
            await asyncio.gather(*(cache.incr("together") for _ in range(3)))

    def work() -> None:
        try:
            together.wait()
            run(new_loop, count())
            run(new_loop, count())
        except BaseException as error:
            faults.append(error)

    run(new_loop, cache.delete("together"))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert run(new_loop, cache.get("together")) == 4 * 2 * 300
    run(new_loop, cache.close())


def test_close_ends_the_sessions_of_all_loops(
    served: Server, new_loop: NewLoop, eventually: Eventually
) -> None:
    """Also of a loop that runs in another thread, where a request then is refused."""
    cache = kvserve.async_client(served.name, timeout=20)
    before = len(fifos(served.names))
    other = new_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(cache.ping(), other).result(20)
    idle = new_loop()
    idle.run_until_complete(cache.ping())
    assert len(fifos(served.names)) >= before + 4
    run(new_loop, cache.close())
    eventually(lambda: len(fifos(served.names)) <= before)
    with pytest.raises(kvserve.ClientClosed):
        asyncio.run_coroutine_threadsafe(cache.ping(), other).result(20)
    other.call_soon_threadsafe(other.stop)
    thread.join()
    for loop in (idle, other):
        loop.close()


def test_a_closed_loop_is_not_kept(served: Server) -> None:
    """Neither by sessions, nor by a lock that was held when the loop ended, nor by memoize."""
    cache = kvserve.async_client(served.name, timeout=20)
    lock = cache.lock("left", ttl=0.5)

    @cache.memoize(ttl=60)
    async def double(number: int) -> int:
        return 2 * number

    async def leave() -> weakref.ref[asyncio.AbstractEventLoop]:
        await lock.acquire()
        assert await double(4) == 8
        return weakref.ref(asyncio.get_running_loop())

    ended = asyncio.run(leave())
    gc.collect()
    assert ended() is None

    async def go_on() -> None:
        assert await double(4) == 8
        async with cache.lock("left", ttl=5, timeout=20):
            pass
        await cache.close()

    asyncio.run(go_on())


def test_a_lock_serves_a_loop_after_another(served: Server) -> None:
    cache = kvserve.async_client(served.name, timeout=20)
    lock = cache.lock("turns", ttl=0.3, timeout=20)

    async def hold() -> bool:
        async with lock:
            await asyncio.sleep(0.5)  # beyond the ttl: it is renewed in this loop
            return lock.held

    assert [asyncio.run(hold()) for _ in range(3)] == [True] * 3
    asyncio.run(cache.close())


def test_after_a_loop_was_closed_under_a_request(served: Server, new_loop: NewLoop) -> None:
    """Its request never gets an answer, and disturbs no later one."""
    cache = kvserve.async_client(served.name, timeout=20)
    loop = new_loop()
    task = loop.create_task(cache.set("late", 1))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del task

    async def go_on() -> Any:
        await cache.set("late", 2)
        return await cache.get("late")

    assert run(new_loop, go_on()) == 2
    run(new_loop, cache.close())

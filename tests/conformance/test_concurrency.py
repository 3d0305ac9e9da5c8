"""Many at once: threads, tasks, forks and processes, on one key and on one client."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import Popen
from typing import Any

import pytest
from support import ways
from support.servers import Server

import kvserve

TURNS = 200

COUNT = """
import sys
from support import ways
way, name, key, turns = sys.argv[1:]
cache = ways.connect(way, name)
for _ in range(int(turns)):
    cache.incr(f"{key} count")
    while True:
        numbers, version = cache.gets(f"{key} list", [])
        if cache.cas(f"{key} list", [*numbers, len(numbers)], version):
            break
    cache.update(f"{key} sums", lambda had: [had[0] + 1, [*had[1], len(had[1])]], [0, []])
cache.close()
"""
KEEP = """
import sys
from support import ways
way, name, key = sys.argv[1:]
cache = ways.connect(way, name)
turn = 0
while cache.get(f"{key} on") is not None:
    turn += 1
    if turn % 2:
        cache.replace(key, turn, keep_ttl=True)
    else:
        cache.update(key, lambda had: [had])
cache.close()
"""
READ_WHILE_CLOSING = """
import sys, threading, time
import kvserve
name = sys.argv[1]
with kvserve.connect(name, timeout=20) as cache:
    cache.set("key", [(number, (number,)) for number in range(300)])
def read(cache):
    try:
        while True:
            cache.get("key")
            cache.get_many(["key"] * 10)
            cache.gets("key")
    except kvserve.ClientClosed:
        pass
for turn in range(30):
    cache = kvserve.connect(name, timeout=20)
    threads = [threading.Thread(target=read, args=(cache,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.001 * (turn % 7))
    cache.close()
    for thread in threads:
        thread.join()
"""


@contextmanager
def started(code: str, *arguments: str, count: int = 1) -> Iterator[list[Popen[bytes]]]:
    """Other Python processes, which are over at the end."""
    command = [sys.executable, "-X", "faulthandler", "-c", code, *arguments]
    running = [Popen(command) for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            process.wait()


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Runs the work in so many threads; raises what any of them raised."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.ways(*ways.SERVED)
def test_processes_lose_no_count_and_no_swap(
    cache: Any, way: str, served: Server, key: str
) -> None:
    cache.set(f"{key} list", [])
    turns = TURNS // 4
    with started(COUNT, way, served.name, key, str(turns), count=4) as processes:
        pass
    assert [process.returncode for process in processes] == [0] * 4
    assert cache.get(f"{key} count") == 4 * turns
    assert cache.get(f"{key} list") == list(range(4 * turns))
    assert cache.get(f"{key} sums") == [4 * turns, list(range(4 * turns))]


@pytest.mark.ways("direct", "writer", "async-writer", "worker-fifo")
def test_a_kept_ttl_is_the_one_that_was_given_last(
    cache: Any, way: str, served: Server, key: str
) -> None:
    """A change that read the ttl before it has the shard would undo the touch in between."""
    cache.set(f"{key} on", True)
    cache.set(key, 0, 10_000)
    with started(KEEP, way, served.name, key, count=3) as processes:
        try:
            while not isinstance(cache.get(key), list):
                assert [each.poll() for each in processes] == [None] * 3
            for turn in range(4 * TURNS):
                ttl = 20_000 + 100 * turn
                assert cache.touch(key, ttl) is True
                for _ in range(3):
                    assert ttl - 50 < cache.ttl(key) <= ttl
        finally:
            cache.delete(f"{key} on")
    assert [process.returncode for process in processes] == [0] * 3


@pytest.mark.ways(*ways.CLIENTS)
def test_threads_share_a_client(cache: Any, key: str) -> None:
    def work(number: int) -> None:
        for turn in range(TURNS):
            cache.incr(f"{key} count")
            cache.set(f"{key} {number}", [number, turn])
            assert cache.get(f"{key} {number}") == [number, turn]
            assert cache.get_many([f"{key} {number}"]) == {f"{key} {number}": [number, turn]}

    in_threads(work, 8)
    assert cache.get(f"{key} count") == 8 * TURNS


@pytest.mark.ways(*ways.CLIENTS)
def test_versions_never_go_back_and_values_are_whole(cache: Any, key: str) -> None:
    """Readers beside a writer that never pauses: never a miss, nothing torn, nothing old again."""
    sizes = [1, 100, 5000, 70_000]
    cache.set(key, bytes(sizes[0]))
    done = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            for turn in range(TURNS):
                cache.set(key, bytes([turn % 256]) * sizes[turn % 4])
            done.set()
            return
        last = 0
        while not done.is_set():
            value, version = cache.gets(key)
            assert version >= last
            assert len(value) in sizes
            assert value == value[:1] * len(value)
            last = version

    in_threads(work, 4)


@pytest.mark.parametrize("way", ways.ASYNC_CLIENTS)
def test_tasks_share_a_client(served: Server, way: str, key: str) -> None:
    async def work(cache: kvserve.AsyncClient, number: int) -> None:
        for turn in range(TURNS // 4):
            await cache.incr(f"{key} count")
            value = bytes([number]) * (turn * 997 % 60_000)
            await cache.set(f"{key} {number}", value)
            assert await cache.get(f"{key} {number}") == value

    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=20) as cache:
            await asyncio.gather(*(work(cache, number) for number in range(50)))
            assert await cache.get(f"{key} count") == 50 * (TURNS // 4)

    with asyncio.Runner(loop_factory=ways.LOOPS[way]) as runner:
        runner.run(main())


@pytest.mark.parametrize("way", ways.ASYNC_CLIENTS)
def test_cancelled_task_disturbs_no_other(served: Server, way: str, key: str) -> None:
    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=20, read="worker") as cache:
            await cache.set(key, "right")
            for turn in range(TURNS):
                victim = asyncio.ensure_future(cache.set(f"{key} other", bytes(turn * 700)))
                for _ in range(turn % 5):
                    await asyncio.sleep(0)
                victim.cancel()
                assert await cache.get(key) == "right"

    with asyncio.Runner(loop_factory=ways.LOOPS[way]) as runner:
        runner.run(main())


@pytest.mark.parametrize("way", ways.CLIENTS)
def test_client_goes_on_in_a_forked_child(served: Server, way: str, key: str) -> None:
    """Both use it at once afterwards, and neither gets an answer that is the other's."""
    cache = ways.connect(way, served.name)
    cache.set(key, "before")
    child = os.fork()
    try:
        for turn in range(TURNS):
            cache.set(f"{key} {child == 0}", [child == 0, turn])
            assert cache.get(f"{key} {child == 0}") == [child == 0, turn]
            cache.incr(f"{key} count")
        assert cache.get(key) == "before"
    except BaseException:
        if child == 0:
            os._exit(1)
        raise
    finally:
        if child == 0:
            os._exit(0)
        status = os.waitpid(child, 0)[1]
    assert status == 0
    assert cache.get(f"{key} count") == 2 * TURNS
    cache.close()


def test_closing_while_other_threads_read(served: Server) -> None:
    """They get ClientClosed. In a process of its own, since it was a crash once."""
    with started(READ_WHILE_CLOSING, served.name) as processes:
        pass
    assert processes[0].returncode == 0

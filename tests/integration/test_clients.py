"""Clients in threads, forks and event loops, all at work on one server."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from support.servers import Server, StartServer, count_once

import kvserve

PROCESSES = 4
INCREMENTS = 1000
LARGE = ["--memory", "64MiB", "--max-value", "1MiB"]
FORK = multiprocessing.get_context("fork")


def run_in_processes(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Runs `work(number, *arguments)` in so many forked processes; fails if one fails."""
    processes = [FORK.Process(target=work, args=(n, *arguments)) for n in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count


def count_up(_: int, name: str) -> None:
    with kvserve.connect(name, timeout=20) as cache:
        for _ in range(INCREMENTS):
            cache.incr("counter")


def test_four_processes_count_to_four_thousand(server: Server) -> None:
    run_in_processes(PROCESSES, count_up, server.name)
    with server.connect() as cache:
        assert cache.get("counter") == PROCESSES * INCREMENTS


def use_inherited(number: int, cache: kvserve.Client) -> None:
    for _ in range(100):
        cache.incr("counter")
        cache.set(f"mine {number}", number)
        assert cache.get(f"mine {number}") == number


def test_client_is_used_on_both_sides_of_a_fork(server: Server) -> None:
    with server.connect() as cache:
        assert cache.incr("counter") == 1
        run_in_processes(PROCESSES, use_inherited, cache)
        assert cache.incr("counter") == 2 + PROCESSES * 100


def test_fork_in_the_middle_of_a_request(server: Server) -> None:
    """Another thread's session is forked while it waits; neither process reads the other's."""
    with server.connect() as cache:
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                cache.incr("counter")

        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(20):
            run_in_processes(1, use_inherited, cache)
        stop.set()
        thread.join()
        assert cache.verify() == []
        assert cache.get("mine 0") == 0


def test_spawned_process_connects_for_itself(server: Server) -> None:
    process = multiprocessing.get_context("spawn").Process(target=count_once, args=(server.name,))
    process.start()
    process.join()
    assert process.exitcode == 0
    with server.connect() as cache:
        assert cache.get("counter") == 1


def test_threads_share_a_client(server: Server) -> None:
    problems: list[BaseException] = []
    with server.connect() as cache:

        def work(number: int) -> None:
            try:
                for turn in range(200):
                    cache.set(f"thread {number}", [number, turn])
                    assert cache.get(f"thread {number}") == [number, turn]
                    cache.incr("counter")
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert cache.get("counter") == 8 * 200


def small_requests(number: int, name: str, stop: Any) -> None:
    with kvserve.connect(name, timeout=20, read="worker") as cache:
        turn = 0
        while not stop.is_set():
            turn += 1
            cache.set(f"small {number}", turn)
            assert cache.get(f"small {number}") == turn


def test_large_values_by_fifo_beside_eight_clients_by_queue(make_server: StartServer) -> None:
    server = make_server(*LARGE)
    large = os.urandom(2**20)
    stop = FORK.Event()
    others = [FORK.Process(target=small_requests, args=(n, server.name, stop)) for n in range(8)]
    for other in others:
        other.start()
    try:
        with server.connect(read="worker") as cache:
            for turn in range(20):
                value = large[turn:] + large[:turn]
                cache.set("large", value)
                assert cache.get("large") == value
    finally:
        stop.set()
        for other in others:
            other.join()
    assert [other.exitcode for other in others] == [0] * 8


@pytest.mark.parametrize("read", ["direct", "worker"])
def test_batches_of_a_thousand_and_of_megabytes(make_server: StartServer, read: Any) -> None:
    server = make_server(*LARGE)
    with server.connect(read=read) as cache:
        small = {f"key {number}": number for number in range(1000)}
        cache.set_many(small)
        assert cache.get_many(small) == small
        large = {f"large {number}": os.urandom(2**20 - number) for number in range(12)}
        cache.set_many(large)
        assert cache.get_many(large) == large
        assert cache.delete_many([*small, *large, "nobody"]) == len(small) + len(large)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_tasks_share_a_client(server: Server, run: Callable[..., Any]) -> None:
    async def work(cache: kvserve.AsyncClient, number: int) -> None:
        for turn in range(20):
            await cache.set(f"task {number}", (number, turn))
            assert await cache.get(f"task {number}") == (number, turn)
            await cache.incr("counter")

    async def main() -> None:
        async with await kvserve.connect_async(server.name, timeout=30, read="worker") as cache:
            await asyncio.gather(*(work(cache, number) for number in range(100)))
            assert await cache.get("counter") == 2000

    run(main())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_cancelled_await_disturbs_nobody(server: Server, run: Callable[..., Any]) -> None:
    """A reply that nobody awaits any more must never answer another request."""

    async def main() -> None:
        large = b"x" * 200_000
        async with await kvserve.connect_async(server.name, timeout=20, read="worker") as cache:
            await cache.set("large", large)
            for turn in range(200):
                tasks = [
                    asyncio.ensure_future(cache.set("cut", large)),
                    asyncio.ensure_future(cache.get("large")),
                    asyncio.ensure_future(cache.set("small", turn)),
                ]
                for _ in range(turn % 7):
                    await asyncio.sleep(0)
                tasks[turn % 3].cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await cache.set("mine", turn)
                assert await cache.get("mine") == turn
            assert await cache.get("large") == large

    run(main())


def test_a_pipeline_answers_in_order(server: Server) -> None:
    with server.connect() as cache:
        with cache.pipeline() as p:
            for number in range(500):
                p.set(f"key {number}", number).incr(f"key {number}")
        assert p.results[1::2] == [number + 1 for number in range(500)]


def test_many_attach_and_detach_and_leave_no_descriptor(server: Server) -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only the number counts

    with server.connect() as cache:
        cache.ping()
    before = open_descriptors()
    for _ in range(200):
        with server.connect() as cache:
            cache.set("key", 1)
            assert cache.get("key") == 1
    assert open_descriptors() == before


@pytest.mark.parametrize("keys", ["one key", b"one key", 5, None])
@pytest.mark.parametrize("method", ["get_many", "delete_many"])
def test_one_key_is_no_list_of_keys(server: Server, method: str, keys: Any) -> None:
    async def ask() -> None:
        async with await kvserve.connect_async(server.name, timeout=20) as cache:
            await getattr(cache, method)(keys)

    with server.connect() as cache, pytest.raises(kvserve.InvalidArgument, match="list of keys"):
        getattr(cache, method)(keys)
    with pytest.raises(kvserve.InvalidArgument, match="list of keys"):
        asyncio.run(ask())


@pytest.mark.parametrize("values", [[("a", 1)], "ab", None])
def test_set_many_takes_a_mapping(server: Server, values: Any) -> None:
    async def ask() -> None:
        async with await kvserve.connect_async(server.name, timeout=20) as cache:
            await cache.set_many(values)

    with server.connect() as cache, pytest.raises(kvserve.InvalidArgument, match="a dict of keys"):
        cache.set_many(values)
    with pytest.raises(kvserve.InvalidArgument, match="a dict of keys"):
        asyncio.run(ask())

"""Servers and workers that go while a client is connected: each call ends soon, in the true error.

Whoever kills a server leaves its queues behind, in which nobody looks any more.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Eventually
from support.servers import Server, StartServer

import kvserve
from kvserve.protocol import commands
from kvserve.protocol.messages import decode_request
from kvserve.transport.mqueue import ReceivingQueue

CALLS = 40  # several times what a queue holds
LONG = 60.0  # so that whoever waits for a deadline runs into the watchdog
MIB = 2**20
LARGE = b"x" * (12 * MIB)  # longer than any frame of a server of small values


def calls(cache: kvserve.Client) -> list[Callable[[], Any]]:
    """Every kind of call that asks a worker."""

    def pipeline() -> None:
        with cache.pipeline() as p:
            p.set("key", 1).incr("number")

    return [
        lambda: cache.set("key", 1),
        lambda: cache.set("key", b"x" * 100_000),
        lambda: cache.incr("number"),
        lambda: cache.set_many({f"key {n}": n for n in range(20)}),
        lambda: cache.get_many(["key", "none"]),
        pipeline,
        cache.ping,
    ]


def async_calls(cache: kvserve.AsyncClient) -> list[Callable[[], Any]]:
    return [
        lambda: cache.set("key", 1),
        lambda: cache.set("key", b"x" * 100_000),
        lambda: cache.incr("number"),
        lambda: cache.set_many({f"key {n}": n for n in range(20)}),
        lambda: cache.get_many(["key", "none"]),
        lambda: cache.pipeline().set("key", 1).incr("number").execute(),
        cache.ping,
    ]


def test_a_killed_server_is_not_waited_for(server: Server) -> None:
    with server.connect(timeout=LONG, read="worker") as cache:
        for call in calls(cache):
            call()
        server.kill_everything()
        for _ in range(CALLS):
            for call in calls(cache):
                with pytest.raises(kvserve.ServerUnavailable, match="no kvserve server named"):
                    call()


def test_nor_is_it_on_an_event_loop(server: Server) -> None:
    async def main() -> None:
        cache = await kvserve.connect_async(server.name, timeout=LONG, read="worker")
        async with cache:
            for call in async_calls(cache):
                await call()
            server.kill_everything()
            for _ in range(CALLS):
                for call in async_calls(cache):
                    with pytest.raises(kvserve.ServerUnavailable, match="no kvserve server named"):
                        await call()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_server_is_killed_under_who_waits_for_room(make_server: StartServer, kind: str) -> None:
    """For a session's hello: nobody has opened the FIFOs, so none of them tells of the death."""
    server = make_server("--workers", "1")
    (worker,) = server.worker_pids
    os.kill(worker, signal.SIGSTOP)
    clients = [server.connect(timeout=LONG) for _ in range(CALLS)]
    errors: list[BaseException] = []

    def ask(client: kvserve.Client) -> None:
        try:
            client.ping()
        except kvserve.KvserveError as error:
            errors.append(error)

    def ask_async() -> None:
        async def main() -> None:
            client = await kvserve.connect_async(server.name, timeout=LONG)
            async with client:
                await client.ping()

        try:
            asyncio.run(main())
        except kvserve.KvserveError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    if kind == "asyncio":
        threads = [threading.Thread(target=ask_async) for _ in clients]
    for thread in threads:
        thread.start()
    while not any(path.name.endswith("reply") for path in server.names.clients_directory.iterdir()):
        pass
    server.kill_everything()
    for thread in threads:
        thread.join()
    assert [type(error) for error in errors] == [kvserve.ServerUnavailable] * CALLS
    for client in clients:
        client.close()


def restarted_with_smaller_values(make_server: StartServer, server: Server) -> None:
    server.stop()
    smaller = make_server("--memory", "128MiB", "--max-value", "64KiB", names=server.names)
    assert smaller.alive


def test_a_server_that_takes_smaller_values_now(make_server: StartServer) -> None:
    """It is told once, in the caller's error, and what else is in a batch is done."""
    server = make_server("--memory", "128MiB", "--max-value", "16MiB")
    with server.connect(timeout=LONG) as cache:
        cache.set("key", LARGE)
        p = cache.pipeline().set("before", 1).set("key", LARGE).set("after", 2)
        restarted_with_smaller_values(make_server, server)
        with pytest.raises(kvserve.ValueTooLarge, match="now"):
            cache.set("key", LARGE)
        with pytest.raises(kvserve.ValueTooLarge):
            cache.set("key", b"x" * 100_000)  # a worker sees that
        results = p.execute(raise_on_error=False)
        assert [type(result) for result in results] == [int, kvserve.ValueTooLarge, int]
        with pytest.raises(kvserve.ValueTooLarge):
            cache.set_many({"key": LARGE, "other": 1})
        assert cache.get_many(["before", "after"]) == {"before": 1, "after": 2}
        requests = sum(each["requests"] for each in cache.stats()["workers"])
        assert requests < 40


def test_and_an_asyncio_client_of_it(make_server: StartServer) -> None:
    server = make_server("--memory", "128MiB", "--max-value", "16MiB")

    async def main() -> None:
        async with await kvserve.connect_async(server.name, timeout=LONG) as cache:
            await cache.set("key", LARGE)
            p = cache.pipeline().set("before", 1).set("key", LARGE).set("after", 2)
            await asyncio.to_thread(restarted_with_smaller_values, make_server, server)
            with pytest.raises(kvserve.ValueTooLarge, match="now"):
                await cache.set("key", LARGE)
            results = await p.execute(raise_on_error=False)
            assert [type(result) for result in results] == [int, kvserve.ValueTooLarge, int]
            with pytest.raises(kvserve.ValueTooLarge):
                await cache.set_many({"key": LARGE, "other": 1})

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_hello_that_a_dying_worker_took_is_sent_again(
    make_server: StartServer, kind: str
) -> None:
    """And a worker takes a second hello of a session for the first."""
    server = make_server("--workers", "1")
    (worker,) = server.worker_pids
    queue = ReceivingQueue(server.names.worker_queue(0), os.geteuid())
    os.kill(worker, signal.SIGSTOP)
    numbers: list[Any] = []

    def ask() -> None:
        with server.connect(timeout=LONG) as cache:
            numbers.append(cache.incr("number"))

    async def ask_async() -> None:
        async with await kvserve.connect_async(server.name, timeout=LONG) as cache:
            numbers.append(await cache.incr("number"))

    thread = threading.Thread(
        target=ask if kind == "blocking" else lambda: asyncio.run(ask_async())
    )
    thread.start()
    hellos = []
    while len(hellos) < 3:
        if frame := queue.receive():
            hellos.append(frame)
    queue.close()
    assert hellos == [hellos[0]] * 3
    assert decode_request(hellos[0]).command is commands.HELLO
    os.kill(worker, signal.SIGCONT)
    thread.join()
    assert numbers == [1]


def test_a_second_hello_is_taken_for_the_first(
    make_server: StartServer, eventually: Eventually
) -> None:
    server = make_server("--workers", "1")
    with server.connect(timeout=LONG, read="worker") as cache:
        cache.set("key", 1)
        ((channel,),) = cache._workers._idle.values()
        # The one that the server was waited for with may be ending still.
        eventually(lambda: cache.stats()["workers"][0]["sessions"] == 1)
        for _ in range(3):
            _, frame, sender = channel.session.hello(time.monotonic() + LONG)
            assert sender.offer(frame, 1)
            assert cache.get("key") == 1
        assert cache.stats()["workers"][0]["sessions"] == 1

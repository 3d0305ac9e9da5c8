"""What clients hold and give back, and what they may ask of a worker at once."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import resource
import threading
from pathlib import Path

import pytest
from conftest import Eventually
from support.servers import Server, StartServer

import kvserve


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_dropped_client_leaves_nothing(server: Server, eventually: Eventually) -> None:
    with server.connect() as cache:
        cache.ping()
        before = descriptors()
        for _ in range(10):
            dropped = server.connect()
            dropped.ping()
            del dropped
        gc.collect()
        assert descriptors() == before
        eventually(lambda: sum(worker["sessions"] for worker in cache.stats()["workers"]) == 2)
    assert not any(server.names.clients_directory.iterdir())


def test_closing_beside_writing_threads(server: Server) -> None:
    """They get ClientClosed, or the answer to what they had sent; never anything raw."""
    problems: list[BaseException] = []

    def work(cache: kvserve.Client) -> None:
        try:
            while True:
                cache.set("key", b"x" * 20_000)
                cache.incr("counter")
        except kvserve.ClientClosed:
            pass
        except BaseException as error:
            problems.append(error)

    before = descriptors()
    for _ in range(10):
        cache = server.connect()
        threads = [threading.Thread(target=work, args=(cache,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        cache.close()
        for thread in threads:
            thread.join()
    assert problems == []
    assert descriptors() == before


def test_flush_reaches_the_workers_of_a_later_server(make_server: StartServer) -> None:
    server = make_server("--workers", "1", "--shards", "2")
    with server.connect() as cache:
        cache.set_many({f"key {number}": number for number in range(200)})
        server.stop()
        make_server("--workers", "2", "--shards", "2", names=server.names)
        cache.flush()
        assert list(cache.scan()) == []
        assert cache.verify() == []


def test_many_large_replies_at_once(make_server: StartServer) -> None:
    """The worker may refuse some, and says so; it cuts off nobody who reads."""
    server = make_server("--workers", "1", "--memory", "64MiB", "--max-value", "1MiB")

    async def main() -> None:
        large = os.urandom(2**20)
        async with await kvserve.connect_async(server.name, read="worker", timeout=30) as cache:
            await cache.set("large", large)
            outcomes = await asyncio.gather(
                *(cache.get("large") for _ in range(120)),
                *(cache.incr("counter") for _ in range(10)),
                return_exceptions=True,
            )
            for outcome in outcomes:
                assert outcome == large or isinstance(outcome, int | kvserve.ServerBusy)
            assert sum(outcome == large for outcome in outcomes) >= 50
            assert await cache.get("large") == large
            assert (await cache.stats())["workers"][0]["cut_off_clients"] == 0

    asyncio.run(main())


def test_a_batch_of_values_that_together_exceed_a_frame(make_server: StartServer) -> None:
    server = make_server("--workers", "1", "--memory", "128MiB", "--max-value", "7MiB")
    values = {"first": bytes(4_100_000), "second": bytes(7_000_000), "third": bytes(6_000_000)}
    with server.connect(read="worker", timeout=20) as cache:
        cache.set_many(values)
        with cache.pipeline() as p:
            p.get("first").get("second").get("third")
        assert p.results == list(values.values())


def test_forked_clients_count_their_hits_apart(server: Server) -> None:
    hits = 20_000
    with server.connect() as cache:
        cache.set("key", 1)
        before = cache.stats()["hits"]
        pids = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                for _ in range(hits):
                    cache.get("key")
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        assert cache.stats()["hits"] - before == 3 * hits


def test_a_client_says_why_it_cannot_be_pickled(server: Server) -> None:
    with server.connect() as cache, pytest.raises(TypeError, match="connect in each process"):
        pickle.dumps(cache)


def test_no_descriptor_left_for_a_session(server: Server) -> None:
    with server.connect() as cache:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))  # none is left below that
        try:
            with pytest.raises(kvserve.LimitError, match="ulimit -n"):
                cache.set("key", 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        cache.set("key", 1)
        assert cache.get("key") == 1

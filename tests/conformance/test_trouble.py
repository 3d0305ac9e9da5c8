"""A worker that does not answer, and servers that come and go: errors tell the truth."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import ways
from support.servers import Server, StartServer, impatient, stopped

import kvserve
from kvserve.errors import (
    OutcomeUnknown,
    RequestTimeout,
    ServerBusy,
    ServerError,
    ServerUnavailable,
)

Eventually = Callable[[Callable[[], object]], None]
PATIENT = 20.0
WRITERS = ("direct", "worker-fifo", "async")  # all others write as one of these
TRUSTING = ("--writers", "2")
SMALL_TABLE = (*TRUSTING, "--shards", "2", "--memory", "16MiB", "--max-value", "16KiB")


@pytest.fixture
def server(make_server: StartServer) -> Server:
    """A small server that lets some write into its table."""
    return make_server(*TRUSTING)


def connected(way: str, server: Server, timeout: float = PATIENT) -> closing[Any]:
    """A client with a session with each worker."""
    cache = ways.connect(way, server.name, timeout=timeout)
    try:
        cache.ping()
    except BaseException:
        cache.close()
        raise
    return closing(cache)


@contextmanager
def unanswered(cache: Any, worker: int) -> Iterator[None]:
    """A worker that is alive and does nothing, and a client that does not wait for it for long."""
    client = cache._client if isinstance(cache, ways.OverAsync) else cache
    with stopped(by_worker(cache, "pid")[worker]), impatient(client, 0.1):
        yield


def by_worker(cache: Any, figure: str) -> list[Any]:
    """A figure of each worker, in the order of their indexes."""
    workers = sorted(cache.stats()["workers"], key=lambda worker: worker["index"])
    return [worker[figure] for worker in workers]


def key_of_worker(cache: Any, worker: int) -> str:
    """A key that this worker serves: one that makes its count of requests go up the most."""
    for number in range(1000):
        key = f"key {number}"
        before = by_worker(cache, "requests")
        cache.set(key, 0)
        after = by_worker(cache, "requests")
        moved = [after[index] - before[index] for index in range(len(after))]
        if moved[worker] > min(moved):
            return key
    raise AssertionError(f"no key of worker {worker} among a thousand")


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("way", ways.ASKING)
def test_unanswered_request_ends_in_the_error_that_is_true(server: Server, way: str) -> None:
    with connected(way, server) as cache:
        key = key_of_worker(cache, 0)
        cache.set(key, 1)
        with unanswered(cache, 0):
            with pytest.raises((RequestTimeout, ServerBusy)):
                cache.set(key, 2)
            with pytest.raises((OutcomeUnknown, ServerBusy)):
                cache.incr(key)
            with pytest.raises((OutcomeUnknown, ServerBusy)):
                cache.cas(key, 5, 1)
            if way not in ("worker-queue", "worker-fifo"):
                assert cache.get(key) == 1  # a hit needs no worker
        cache.ping()
        assert cache.get(key) == 1  # none is executed after its deadline


@pytest.mark.parametrize("way", ways.ASKING)
def test_late_answer_is_not_taken_for_another(server: Server, way: str) -> None:
    with connected(way, server) as cache:
        key = key_of_worker(cache, 0)
        with unanswered(cache, 0):
            for _ in range(3):
                with pytest.raises(ServerError):
                    cache.incr(key, 1000)
        cache.set(key, 7)
        assert cache.incr(key) == 8
        assert cache.gets(key)[0] == 8


@pytest.mark.parametrize("way", ways.ASKING)
def test_answer_after_the_deadline_is_dropped(server: Server, way: str) -> None:
    """The worker was not late to begin: its answer comes when the client has gone on."""
    values = {f"key {number}": number for number in range(16_000)}
    with connected(way, server) as cache:
        client = cache._client if isinstance(cache, ways.OverAsync) else cache
        cache.set_many(values)
        for turn in range(20):
            with impatient(client, 0.002 * (1 + turn % 10)):
                with suppress(ServerError):
                    cache.set_many(values)  # takes about as long
                for number in range(10):
                    with suppress(ServerError):
                        assert cache.incr(f"count {turn} {number}", number) == number
            assert cache.incr(f"count {turn}", turn) == turn


@pytest.mark.parametrize("way", ways.ASKING)
def test_full_queue_is_busy_and_changed_nothing(server: Server, way: str) -> None:
    """ServerBusy promises that; other errors do not."""
    with connected(way, server) as cache:
        mine, theirs = key_of_worker(cache, 0), key_of_worker(cache, 1)
        cache.set(mine, 0)
        with unanswered(cache, 1):
            for _ in range(12):  # more than its queue holds
                with pytest.raises(ServerError):
                    cache.set(theirs, bytes(10_000) if way == "worker-fifo" else 1)
            pipeline = cache.pipeline()
            pipeline.incr(mine)
            pipeline.incr(theirs)
            with pytest.raises(ServerError) as refusal:
                pipeline.__exit__(None, None, None)
        cache.ping()
        if refusal.type is ServerBusy:
            assert cache.get(mine) == 0
        else:
            assert refusal.type is OutcomeUnknown


@pytest.mark.parametrize("way", ["worker-queue", "async"])
def test_busy_after_a_death_does_not_promise_that_nothing_was_changed(
    server: Server, way: str, eventually: Eventually
) -> None:
    """The worker may have executed it before it died; its successor's queue stays full."""
    with connected(way, server, 2.0) as cache, connected(way, server) as other:
        key = key_of_worker(other, 0)
        cache.set(key, 0)
        pid = by_worker(other, "pid")[0]
        errors: list[BaseException] = []
        with stopped(server.pid), unanswered(other, 0):

            def ask() -> None:
                try:
                    cache.set(key, 1)
                except ServerError as error:
                    errors.append(error)

            asking = threading.Thread(target=ask)
            asking.start()
            while not (errors and isinstance(errors[-1], ServerBusy)):  # until its queue is full
                try:
                    other.set(key, 2)
                except ServerError as error:
                    errors.append(error)
            errors.clear()
            os.kill(pid, signal.SIGKILL)
            asking.join()
        assert [type(error) for error in errors] == [RequestTimeout]
        eventually(lambda: len(server.worker_pids) == 2)


@pytest.mark.parametrize("way", ways.SERVED)
def test_failures_cost_no_descriptors(server: Server, way: str) -> None:
    with connected(way, server) as cache:
        with unanswered(cache, 1):
            for turn in range(14):
                with pytest.raises(ServerError):
                    cache.flush()
                if turn == 6:
                    before = descriptors()
            assert descriptors() <= before
        cache.ping()


@pytest.mark.parametrize("way", ways.SERVED)
def test_client_survives_a_restart(make_server: StartServer, way: str) -> None:
    server = make_server(*TRUSTING)
    with connected(way, server) as cache:
        cache.set("key", "kept")
        server.stop()
        with pytest.raises(ServerUnavailable):
            cache.set("key", "lost")
        if way not in ("worker-queue", "worker-fifo"):
            assert cache.get("key") == "kept"  # from the table that was kept
        make_server(*TRUSTING, names=server.names)
        assert cache.get("key") == "kept"
        cache.set("key", "new")
        assert cache.get("key") == "new"


@pytest.mark.parametrize("way", ["worker-queue", "async"])
def test_a_batch_after_a_restart_goes_to_the_workers_of_today(
    make_server: StartServer, tmp_path: Path, way: str
) -> None:
    """Behind a table with a store, each key must have one worker that writes it."""
    flags = ("--shards", "4", "--store", f"sqlite:///{tmp_path / 'cache.db'}", "--workers")
    server = make_server(*flags, "1")
    values = {f"key {number}": number for number in range(100)}
    with connected(way, server) as cache:
        cache.set_many(values)
        for workers in ("2", "3", "4"):
            server.stop()
            server = make_server(*flags, workers, names=server.names)
            if workers == "2":
                cache.set_many(values)
            elif workers == "3":
                assert cache.delete_many(values) == 100
            else:
                with cache.pipeline() as pipeline:
                    for key in values:
                        pipeline.incr(key)
            figures = by_worker(cache, "operations")
            assert all(max(own["set"], own["delete"], own["incr"]) > 0 for own in figures)


@pytest.mark.parametrize("way", ways.SERVED)
def test_client_follows_to_a_fresh_table(make_server: StartServer, way: str) -> None:
    server = make_server(*TRUSTING)
    with connected(way, server) as cache:
        cache.set("key", "old")
        server.stop()
        make_server("--fresh", *SMALL_TABLE, names=server.names)
        assert cache.get("key") is None
        cache.set("key", "new")
        assert cache.get("key") == "new"
        assert list(cache.scan()) == ["key"]


@pytest.mark.parametrize("way", ways.SERVED)
def test_scan_over_a_restart_with_fewer_shards(make_server: StartServer, way: str) -> None:
    server = make_server(*TRUSTING, "--shards", "4", "--memory", "32MiB", "--max-value", "16KiB")
    stored = {f"key {number}": number for number in range(5000)}
    with connected(way, server) as cache:
        cache.set_many(stored)
        if way in ways.LOOPS:
            seen = cache.run(restart_while_scanning(cache._client, make_server, server))
        else:
            scan = cache.scan()
            seen = [next(scan)]
            server.stop()
            make_server("--fresh", *SMALL_TABLE, names=server.names)
            seen += scan
        # The table is empty now: only what the first one had can be seen, and nothing again.
        assert set(seen) < set(stored)
        assert len(seen) == len(set(seen))


async def restart_while_scanning(
    cache: kvserve.AsyncClient, make_server: StartServer, server: Server
) -> list[Any]:
    """The same for the asyncio client."""
    seen = []
    async for key in cache.scan():
        seen.append(key)
        if len(seen) == 1:
            server.stop()
            make_server("--fresh", *SMALL_TABLE, names=server.names)
    return seen


@pytest.mark.parametrize("way", WRITERS)
def test_killed_worker_is_not_noticed_by_what_can_be_repeated(
    server: Server, way: str, eventually: Eventually
) -> None:
    with connected(way, server) as cache:
        for turn in range(4):
            os.kill(by_worker(cache, "pid")[turn % 2], signal.SIGKILL)
            cache.set_many({f"key {number}": turn for number in range(20)})
            for number in range(20):
                assert cache.set(f"key {number}", [turn]) > 0
                assert cache.get(f"key {number}") == [turn]
            eventually(lambda: len(server.worker_pids) == 2)
        assert cache.verify() == []


@pytest.mark.parametrize("way", WRITERS)
def test_killed_worker_never_counts_twice(server: Server, way: str) -> None:
    counted = unknown = 0
    with connected(way, server) as cache:
        for turn in range(400):
            if turn % 100 == 50:
                os.kill(by_worker(cache, "pid")[turn // 100 % 2], signal.SIGKILL)
            try:
                cache.incr("count")
                counted += 1
            except OutcomeUnknown:
                unknown += 1
        assert counted <= cache.get("count") <= counted + unknown

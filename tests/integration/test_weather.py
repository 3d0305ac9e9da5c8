"""Bad weather: workers and servers that die, stop or start anew under their clients, bad frames."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from conftest import Eventually
from support.servers import Server, StartServer, impatient, stopped

import kvserve
from kvserve.client.session import Session
from kvserve.manifest import Manifest
from kvserve.protocol import commands
from kvserve.protocol.messages import PROTOCOL_VERSION, Reply
from kvserve.transport.mqueue import SendingQueue

ROUNDS = 25


def test_reads_and_writes_stay_correct_while_workers_die(server: Server, seed: int) -> None:
    """What is acknowledged is there; what is counted is exact, or said to be unknown."""
    stop = threading.Event()
    problems: list[BaseException] = []
    counted = {"sure": 0, "unknown": 0}
    chance = random.Random(seed)

    def count() -> None:
        try:
            with server.connect(timeout=20) as cache:
                while not stop.is_set():
                    try:
                        cache.incr("counter")
                        counted["sure"] += 1
                    except kvserve.OutcomeUnknown:
                        counted["unknown"] += 1
        except BaseException as error:
            problems.append(error)

    def write(read: Any) -> None:
        try:
            with server.connect(timeout=20, read=read) as cache:
                turn = 0
                while not stop.is_set():
                    turn += 1
                    cache.set(f"{read} key", [read, turn] * 20)
                    assert cache.get(f"{read} key") == [read, turn] * 20
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=arguments) for work, arguments in (
        (count, ()), (write, ("direct",)), (write, ("worker",)))]  # fmt: skip
    for thread in threads:
        thread.start()
    for _ in range(ROUNDS):
        time.sleep(chance.uniform(0.01, 0.1))
        with suppress(ProcessLookupError, IndexError):
            os.kill(chance.choice(server.worker_pids), signal.SIGKILL)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    with server.connect(timeout=20) as cache:
        total = cache.get("counter")
        assert counted["sure"] <= total <= counted["sure"] + counted["unknown"]
        assert cache.verify() == []


def test_stopped_worker(make_server: StartServer, eventually: Eventually) -> None:
    """Hits go on, requests end at their deadline, and the late ones are never executed."""
    server = make_server("--workers", "1")
    with server.connect(timeout=20) as cache:
        cache.set("key", "value")
        with stopped(server.worker_pids[0]), impatient(cache):
            assert cache.get("key") == "value"
            with pytest.raises(kvserve.RequestTimeout):
                cache.set("key", "late")
            with pytest.raises(kvserve.OutcomeUnknown):
                cache.incr("counter")
            for _ in range(2):  # its queue takes four
                with pytest.raises(kvserve.RequestTimeout):
                    cache.set("key", "late")
            with pytest.raises(kvserve.ServerBusy):
                cache.set("key", "late")
        cache.ping()
        assert cache.get("key") == "value"
        assert cache.get("counter") is None
        eventually(lambda: cache.stats()["workers"][0]["late_requests"] == 4)


def test_async_client_at_a_stopped_worker(make_server: StartServer) -> None:
    server = make_server("--workers", "1")

    async def main() -> None:
        async with await kvserve.connect_async(server.name, timeout=20) as cache:
            await cache.set("key", "value")
            with stopped(server.worker_pids[0]), impatient(cache):
                assert await cache.get("key") == "value"
                results = await asyncio.gather(
                    *(cache.set("key", number) for number in range(20)), return_exceptions=True
                )
                kinds = {type(result) for result in results}
                assert kinds == {kvserve.RequestTimeout, kvserve.ServerBusy}
                with pytest.raises(kvserve.KvserveError):
                    await cache.incr("counter")
            await cache.ping()
            assert await cache.get("key") == "value"

    asyncio.run(main())


@pytest.mark.parametrize("read", ["direct", "worker"])
def test_client_follows_its_server(make_server: StartServer, read: Any) -> None:
    first = make_server()
    with first.connect(read=read) as cache:
        cache.set("key", "value")
        first.stop()
        if read == "direct":
            assert cache.get("key") == "value"
        with pytest.raises(kvserve.ServerUnavailable, match="kvserve serve --name"):
            cache.set("key", "nobody takes it")
        again = make_server("--workers", "1", names=first.names)
        assert cache.get("key") == "value"
        assert cache.incr("counter") == 1
        again.stop()
        make_server("--fresh", names=first.names)
        assert cache.get("key") is None
        assert cache.set("key", "new") > 0
        assert cache.get("key") == "new"


def test_async_client_follows_its_server(make_server: StartServer) -> None:
    first = make_server()

    async def main() -> None:
        async with await kvserve.connect_async(first.name, timeout=20) as cache:
            await cache.set("key", "value")
            first.stop()
            assert await cache.get("key") == "value"
            with pytest.raises(kvserve.ServerUnavailable):
                await cache.set("key", "nobody takes it")
            make_server("--fresh", names=first.names)
            assert await cache.get("key") is None
            assert await cache.incr("counter") == 1

    asyncio.run(main())


def bad_frames() -> dict[str, bytes]:
    """Frames that are no requests, by what is wrong with them."""
    return {
        "empty": b"",
        "random": random.Random(5).randbytes(300),
        "no array": msgpack.packb({"a": 1}),
        "too short": msgpack.packb([1, 2, 3]),
        "no ids": msgpack.packb([PROTOCOL_VERSION, "a", None, 2, 0, []]),
        "unknown version": msgpack.packb([99, 5, 1, 2, 2**63, []]),
        "unknown command": msgpack.packb([PROTOCOL_VERSION, 5, 1, 200, 2**63, []]),
        "wrong arguments": msgpack.packb(
            [PROTOCOL_VERSION, 5, 1, commands.SET.code, 2**63, ["key"]]
        ),
        "wrong types": msgpack.packb([PROTOCOL_VERSION, 5, 1, commands.GET.code, 2**63, [7]]),
        "strange client": msgpack.packb([PROTOCOL_VERSION, 5, 1, commands.PING.code, 2**63, []]),
        "cut": msgpack.packb([PROTOCOL_VERSION, 5, 1, commands.PING.code, 2**63, []])[:-2],
    }


def test_bad_frames_are_counted_and_do_no_harm(make_server: StartServer) -> None:
    server = make_server("--workers", "1")
    with server.connect() as cache:
        cache.set("key", "value")
        queue = SendingQueue(server.names.worker_queue(0), os.geteuid())
        for frame in bad_frames().values():
            while not queue.offer(frame, 2):  # as urgent as the question for the figures
                time.sleep(0.001)
        queue.close()
        worker = cache.stats()["workers"][0]
        assert worker["bad_requests"] == len(bad_frames()) - 1
        assert worker["unknown_sessions"] == 1
        assert cache.get("key") == "value"
        assert cache.incr("counter") == 1


@pytest.fixture
def greeted(make_server: StartServer) -> Iterator[tuple[Server, Session]]:
    """An open session of which each frame is ours to choose."""
    server = make_server("--workers", "1")
    manifest = Manifest.read(server.names)
    session = Session(server.names, manifest, 0, manifest.queue_message_bytes)
    _, frame, sender = session.hello(time.monotonic() + 10)
    assert sender.offer(frame, 2)
    assert replies_of(session)
    yield server, session
    session.close()


def replies_of(session: Session) -> list[Reply]:
    """Waits for the next replies."""
    waiting = select.poll()
    waiting.register(session.reply_descriptor, select.POLLIN)
    assert waiting.poll(30_000)
    return session.replies()


@pytest.mark.parametrize("by", ["queue", "fifo"])
@pytest.mark.parametrize(
    ("code", "arguments", "error"),
    [
        (200, [], kvserve.ProtocolError),
        (commands.SET.code, ["key"], kvserve.ProtocolError),
        (commands.SET.code, ["", 0, b"", 0], kvserve.InvalidKey),
        (commands.SET.code, ["k" * 1025, 0, b"", 0], kvserve.InvalidKey),
        (commands.SET.code, ["key", 9, b"", 0], kvserve.InvalidValue),
        (commands.SET.code, ["key", 1, b"\xff", 0], kvserve.InvalidValue),
        (commands.SET.code, ["key", 2, b"short", 0], kvserve.InvalidValue),
        (commands.SET.code, ["key", 0, b"", -1], kvserve.InvalidTTL),
        (commands.SET.code, ["key", 0, b"", 2**63], kvserve.InvalidTTL),
        (commands.SET.code, ["key", -(2**40), b"", 0], kvserve.InvalidValue),
        (commands.CAS.code, ["key", 0, b"", 0, -1], kvserve.InvalidArgument),
        (commands.INCR.code, ["key", 2**63, 0, 0], kvserve.InvalidArgument),
        (commands.INCR.code, ["key", 1, 2**63, 0], kvserve.InvalidArgument),
        (commands.SCAN.code, [10**6, 0, b""], kvserve.InvalidArgument),
        (commands.SCAN.code, [-1, 0, b""], kvserve.InvalidArgument),
        (commands.VERIFY.code, [10**6], kvserve.InvalidArgument),
        (commands.BATCH.code, [[[1]]], kvserve.ProtocolError),
        (commands.BATCH.code, [["get"]], kvserve.ProtocolError),
    ],
)
def test_bad_request_is_answered_by_its_error(
    greeted: tuple[Server, Session],
    by: str,
    code: int,
    arguments: list[Any],
    error: type[Exception],
) -> None:
    server, session = greeted
    deadline_ms = int(time.monotonic() * 1000) + 10_000
    frame = msgpack.packb([PROTOCOL_VERSION, session.client_id, 77, code, deadline_ms, arguments])
    sender = session._queue if by == "queue" else session._requests
    assert sender.offer(frame, 1)
    replies = replies_of(session)
    assert replies[0].request_id == 77
    with pytest.raises(error):
        replies[0].result()
    with server.connect() as cache:
        assert list(cache.scan()) == []
        assert cache.verify() == []


def test_frame_that_is_too_long_ends_its_session(greeted: tuple[Server, Session]) -> None:
    server, session = greeted
    os.write(session._requests.descriptor, (2**31).to_bytes(4, "little"))
    replies = replies_of(session)
    assert replies[0].request_id == 0
    with pytest.raises(kvserve.ProtocolError, match="at most"):
        replies[0].result()
    with server.connect() as cache:
        cache.ping()


def test_client_that_never_reads_is_cut_off(
    greeted: tuple[Server, Session], eventually: Eventually
) -> None:
    """It costs the worker a bounded buffer, and holds up nobody else."""
    server, session = greeted
    with server.connect() as cache:
        cache.set("large", b"x" * 200_000)
        deadline = time.monotonic() + 60
        while cache.stats()["workers"][0]["cut_off_clients"] == 0:
            _, frame, sender = session.request(commands.GET, ("large",), deadline)
            sender.offer(frame, 1)
        eventually(lambda: cache.stats()["workers"][0]["sessions"] == 1)


def test_client_that_dies_is_noticed(server: Server, eventually: Eventually) -> None:
    pid = os.fork()
    if pid == 0:
        client = server.connect()
        client.set("key", 1)
        client.ping()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with server.connect() as cache:
        eventually(lambda: sum(worker["sessions"] for worker in cache.stats()["workers"]) == 2)
    eventually(lambda: not any(server.names.clients_directory.iterdir()))

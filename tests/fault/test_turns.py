"""Nobody keeps a worker from others: long requests, stalled senders, readers that never read, too
few descriptors. Real workers, and clients without manners."""

from __future__ import annotations

import os
import resource
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Eventually
from support.attacker import Attacker
from support.servers import Server, StartServer

from kvserve import limits
from kvserve.client.calls.operations import Operation
from kvserve.errors import OutcomeUnknown, ServerBusy
from kvserve.protocol import commands
from kvserve.protocol.framing import LENGTH_BYTES, frame_to_stream
from kvserve.protocol.messages import Reply

HITS = 8192
LOG = commands.Window.LOG.value


@pytest.fixture
def server(make_server: StartServer) -> Server:
    return make_server("--workers", "1", "--spin", "0")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def attackers(server: Server, stack: ExitStack, count: int) -> list[Attacker]:
    """Clients that have said hello."""
    found = []
    for _ in range(count):
        found.append(stack.enter_context(Attacker(server.names, secrets.randbits(64))))
        found[-1].greet()
    return found


def costly(attacker: Attacker, key: str, *more: list[object]) -> bytes:
    """A batch that takes a worker a second: each hit writes 80,000 bytes anew."""
    hit = [commands.LIMIT.code, key, limits.SLIDING_HITS_MAX, 10_000_000, 1, LOG]
    first = [*hit[:4], limits.SLIDING_HITS_MAX - HITS, LOG]
    return attacker.request(commands.BATCH, 2, ([first, *[hit] * (HITS - 1), *more],))


def test_others_are_served_during_a_long_batch(server: Server, stack: ExitStack) -> None:
    """Each of theirs is answered before the batch is, which came first."""
    (attacker,) = attackers(server, stack, 1)
    with server.connect() as cache:
        cache.ping()
        assert attacker.write(frame_to_stream(costly(attacker, "limit")))
        for number in range(20):
            cache.set("other", number)
            assert attacker.replies() == []
    reply = attacker.await_reply(2)
    assert reply is not None
    answers = reply.result()
    assert len(answers) == HITS
    assert [status for status, _ in answers] == [0] * HITS
    assert [verdict[1] for _, verdict in answers] == list(range(HITS, 0, -1))


def test_a_client_keeps_its_order(server: Server, stack: ExitStack) -> None:
    """Through the FIFO and through the queue, behind a long request of its own."""
    (client,) = attackers(server, stack, 1)
    sets = [[commands.SET.code, "key", 0, b"batch", 0]]
    long = client.request(
        commands.BATCH, 2, ([*[[commands.LIMIT.code, "l", 9999, 10**6, 1, LOG]] * 3000, *sets],)
    )
    assert client.write(frame_to_stream(long))
    time.sleep(0.02)  # it is most likely being executed: either way the order is the same
    client.send(client.request(commands.GET, 3, ("key",)))
    client.send(client.request(commands.SET, 4, ("key", 0, b"after", 0)))
    another = client.request(commands.BATCH, 5, ([[commands.GET.code, "key"]] * 3000,))
    assert client.write(frame_to_stream(another))
    client.send(client.request(commands.SET, 6, ("key", 0, b"last", 0)))
    replies: dict[int, Reply] = {}
    while len(replies) < 5:
        found = client.replies()
        assert found is not None
        replies |= {reply.request_id: reply for reply in found}
    assert replies[3].result()[1] == b"batch"
    values = {answer[1] for _, answer in replies[5].result()}
    assert len(values) == 1  # none came in between
    assert values <= {b"batch", b"after", b"last"}  # a queue is another way than a FIFO


def test_a_batch_whose_client_has_gone_stops(
    server: Server, stack: ExitStack, eventually: Eventually
) -> None:
    """What it sent again, and what it did then, would be undone by the rest."""
    (attacker,) = attackers(server, stack, 1)
    batch = costly(attacker, "limit", [commands.SET.code, "key", 0, b"late", 0])
    assert attacker.write(frame_to_stream(batch))
    with server.connect() as cache:
        eventually(lambda: cache.get("limit") is not None)
        attacker.leave()
        eventually(lambda: cache.stats()["workers"][0]["sessions"] == 1)
        cache.set("key", b"mine")
        done = len(cache.get("limit"))
        cache.ping()
        for _ in range(50):
            assert cache.get("key") == b"mine"
            cache.ping()
        assert len(cache.get("limit")) == done < 8 * (limits.SLIDING_HITS_MAX - 1)


def test_a_batch_stops_at_its_deadline(server: Server) -> None:
    with server.connect() as impatient, server.connect() as cache:

        def batch(key: str) -> list[Operation]:
            rest = impatient._operations.limit(key, limits.SLIDING_HITS_MAX, 10**7, 1, LOG)
            first = impatient._operations.limit(key, limits.SLIDING_HITS_MAX, 10**7, 9000, LOG)
            late = impatient._operations.set("key", "late")
            return [first, *[rest] * (limits.BATCH_OPERATIONS_MAX - 2), late]

        began = time.monotonic()
        impatient._run_batch(batch("another"))
        impatient._workers.timeout = (time.monotonic() - began) / 2
        keys = (f"limit {number}" for number in range(50))
        for key in keys:  # until a batch is begun in time, and not done
            try:
                impatient._run_batch(batch(key))
            except ServerBusy:
                impatient._workers.timeout *= 1.2
            except OutcomeUnknown:
                break
            else:
                impatient._workers.timeout /= 1.2
        assert next(keys, None)
        cache.set("key", "mine")
        done = len(cache.get(key))
        for _ in range(50):
            cache.ping()
            assert cache.get("key") == "mine"
        assert len(cache.get(key)) == done


@pytest.mark.parametrize("size", [limits.FRAME_BYTES_MIN, 300_000], ids=["long", "short"])
@pytest.mark.parametrize("drops", [False, True], ids=["stalled", "a byte now and then"])
def test_many_senders_that_stall_hold_up_nobody(
    server: Server, stack: ExitStack, size: int, drops: bool
) -> None:
    """Two hundred, each with half a frame."""
    stalled = attackers(server, stack, 200)
    for each in stalled:
        os.write(each._request.number, size.to_bytes(LENGTH_BYTES, "little") + bytes(60_000))
    stop = threading.Event()

    def drop() -> None:
        while not stop.wait(0.05):
            for each in stalled:
                try:
                    os.write(each._request.number, b"x")
                except OSError:
                    continue

    thread = threading.Thread(target=drop)
    if drops:
        thread.start()
    try:
        with server.connect(timeout=2) as cache:  # as clients are unless they say otherwise
            for value in (b"x" * 10_000, b"x" * 100_000, b"x" * 250_000):
                cache.set("large", value)
                assert cache.get("large") == value
    finally:
        stop.set()
        if drops:
            thread.join()


def test_readers_that_never_read_hold_up_nobody(
    server: Server, stack: ExitStack, eventually: Eventually
) -> None:
    with server.connect() as cache:
        cache.set("large", os.urandom(250_000))
    gets = [[commands.GET.code, "large"]] * 20
    for each in attackers(server, stack, 60):
        assert each.write(frame_to_stream(each.request(commands.BATCH, 2, (gets,))))
    with server.connect() as cache:
        eventually(lambda: cache.stats()["workers"][0]["replies"] > 110)
        with cache.pipeline() as pipeline:
            pipeline.get("large").get("large")
        assert len(pipeline.results) == 2


def test_a_worker_without_descriptors_says_so_at_once(server: Server, stack: ExitStack) -> None:
    """And serves those who have a session."""
    (pid,) = server.worker_pids
    cache = stack.enter_context(server.connect(timeout=60))
    cache.incr("served")
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = [int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(used) + 1, hard))

    def use_up() -> None:
        for _ in range(50):  # those that lie between
            stack.enter_context(server.connect(timeout=60)).ping()

    with pytest.raises(ServerBusy, match="no file descriptors left; raise its limit: ulimit -n"):
        use_up()
    for number in range(1, 4):
        with pytest.raises(ServerBusy, match="no file descriptors left"):
            server.connect(timeout=60).ping()
        assert cache.incr("served") == number + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    with server.connect() as another:
        assert another.incr("served") == 5


def test_failed_hellos_do_not_fill_the_log(
    server: Server, stack: ExitStack, eventually: Eventually
) -> None:
    client = stack.enter_context(Attacker(server.names, 0x1234))
    path = server.names.reply_fifo(0x1234)
    path.write_text("no FIFO")
    for number in range(300):
        client.send(client.hello(number))
    eventually(lambda: "lines such as: client 0000000000001234 is refused" in server.log)
    path.unlink()
    assert server.log.count("is refused") < 2 * limits.LOG_LINES_AT_ONCE

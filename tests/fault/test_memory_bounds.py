"""Clients that leave requests unfinished and replies unread cost a worker a bounded memory.

The bounds are the real ones, of `kvserve.limits`; the clients are so many that they would need
more. Meanwhile others are served, and afterwards all is given back.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Eventually
from support.attacker import Attacker
from support.servers import Server, StartServer

from kvserve import limits
from kvserve.errors import ProtocolError, ServerBusy
from kvserve.protocol import commands
from kvserve.protocol.framing import LENGTH_BYTES, frame_to_stream

VALUE_BYTES = 256 * limits.KIB  # the largest of a small server
FRAME_BYTES_MAX = limits.frame_bytes_max(VALUE_BYTES)
ROOM_BYTES = limits.arrival_bytes(VALUE_BYTES)
# So many of the longest frames find room, each in a quarter of what is free.
ROOM_FOR = ROOM_BYTES // FRAME_BYTES_MAX - limits.ARRIVAL_FREE_SHARE + 1
BIN_32_EXTRA_BYTES = 3  # of a long payload's length, beside an empty one's
# Executing one request takes a few times its length beside what is held, for a moment.
MOMENT_BYTES = 8 * FRAME_BYTES_MAX
FREE_AGAIN_BYTES = 64 * limits.MIB  # what the allocator may keep, where small pieces lie between

Ask = Callable[[Attacker], bytes]


class Watch:
    """A server with one worker, that worker's memory, and clients without manners."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.server = server
        (self.worker_pid,) = server.worker_pids
        self._stack = stack
        self._status = Path(f"/proc/{self.worker_pid}/status")
        self.bytes_at_first = self.bytes_now
        Path(f"/proc/{self.worker_pid}/clear_refs").write_text("5")  # the peak starts anew

    def _field(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB", self._status.read_text(), re.MULTILINE)
        assert found
        return int(found[1]) * limits.KIB

    @property
    def bytes_now(self) -> int:
        """The worker's own memory: without the table, which it shares."""
        return self._field("RssAnon")

    @property
    def bytes_at_most(self) -> int:
        """The most that it has had since the test began, without the table."""
        return self._field("VmHWM") - self._field("RssShmem") - self._field("RssFile")

    def attackers(self, count: int) -> list[Attacker]:
        """Clients that have said hello."""
        found = []
        for _ in range(count):
            found.append(
                self._stack.enter_context(Attacker(self.server.names, secrets.randbits(64)))
            )
            found[-1].greet()
        return found

    def check_others_are_served(self) -> None:
        """Small requests, which come through the queue, and their replies."""
        with self.server.connect(timeout=20) as cache:
            value = secrets.token_hex(8)
            cache.set("another's", value)
            assert cache.get("another's") == value
            cache.ping()

    @property
    def cut_off(self) -> int:
        """How many clients the worker has ended."""
        with self.server.connect(timeout=20) as cache:
            count: int = cache.stats()["workers"][0]["cut_off_clients"]
        return count

    def check_end(self, eventually: Eventually) -> None:
        """All is given back, by the same worker, and the table is whole."""
        self._stack.close()
        eventually(lambda: self.bytes_now < self.bytes_at_first + FREE_AGAIN_BYTES)
        with self.server.connect(timeout=20) as cache:
            assert cache.verify() == []
            eventually(lambda: cache.stats()["workers"][0]["sessions"] == 1)
        assert self.server.worker_pids == [self.worker_pid]
        assert "Traceback" not in self.server.log


@pytest.fixture
def watch(make_server: StartServer) -> Iterator[Watch]:
    server = make_server("--workers", "1")
    with ExitStack() as stack:
        yield Watch(server, stack)


def press(attacker: Attacker, stream: memoryview) -> memoryview:
    """Writes what the FIFO takes now; returns the rest."""
    try:
        return stream[os.write(attacker._request.number, stream) :]
    except BlockingIOError:
        return stream


def test_requests_that_are_never_finished(watch: Watch, eventually: Eventually) -> None:
    attackers = watch.attackers(4 * ROOM_FOR)
    stream = memoryview(frame_to_stream(bytes(FRAME_BYTES_MAX)))[:-1]
    rests = dict.fromkeys(attackers, stream)
    while sum(not rest for rest in rests.values()) < ROOM_FOR:
        for attacker, rest in rests.items():
            rests[attacker] = press(attacker, rest)
    watch.check_others_are_served()
    with watch.server.connect(timeout=60) as cache:
        cache.set("large", b"x" * VALUE_BYTES)  # waits until somebody is cut off for it
        assert cache.get("large") == b"x" * VALUE_BYTES
    assert watch.cut_off > 0
    for attacker, rest in rests.items():
        press(attacker, rest)
    assert watch.bytes_at_most < (
        watch.bytes_at_first + limits.WORKER_REQUEST_BYTES_MAX + MOMENT_BYTES
    )
    watch.check_end(eventually)


@pytest.mark.parametrize("before", [1, 0], ids=["as others wait", "as the first to wait"])
def test_a_request_that_waited_for_room_is_executed(
    watch: Watch, eventually: Eventually, before: int
) -> None:
    """Whether the worker has read some of it already, or nothing."""
    *attackers, client = watch.attackers(ROOM_FOR + before + 1)
    for attacker in attackers:
        assert attacker.write(FRAME_BYTES_MAX.to_bytes(LENGTH_BYTES, "little"))
    batch = [[commands.SET.code, f"key {n}", 0, bytes(VALUE_BYTES), 0] for n in range(31)]
    batch.append([commands.SET.code, "last", 0, b"", 0])
    missing_bytes = FRAME_BYTES_MAX - len(client.request(commands.BATCH, 2, (batch,)))
    batch[-1][3] = bytes(missing_bytes - BIN_32_EXTRA_BYTES)
    request = client.request(commands.BATCH, 2, (batch,))
    assert len(request) == FRAME_BYTES_MAX
    assert client.write(frame_to_stream(request))
    reply = client.await_reply(2)
    assert reply is not None
    assert [status for status, _ in reply.result()] == [0] * len(batch)
    assert watch.cut_off > 0  # so it did wait
    watch.check_end(eventually)


@pytest.mark.parametrize("filling", [b"\x90", b"\x80", b"\xa2xy", b"\xc7\x00\x01"])
def test_requests_of_many_tiny_objects(
    watch: Watch, eventually: Eventually, filling: bytes
) -> None:
    """An empty list is a byte in a frame, and 72 in memory."""
    (attacker,) = watch.attackers(1)
    head = attacker.request(commands.BATCH, 2, ([],))[:-1]
    count = (FRAME_BYTES_MAX - 100) // len(filling)
    frame = head + b"\xdd" + count.to_bytes(4, "big") + filling * count
    assert attacker.write(frame_to_stream(frame))
    reply = attacker.await_reply(2)
    assert reply is not None
    assert reply.status == ProtocolError.wire_code
    assert watch.bytes_at_most < watch.bytes_at_first + MOMENT_BYTES
    watch.check_others_are_served()
    watch.check_end(eventually)


def get_large(attacker: Attacker) -> bytes:
    """A request whose reply is as long as a value may be."""
    return attacker.request(commands.GET, 2, ("large",))


def get_large_often(attacker: Attacker) -> bytes:
    """A request whose reply is as long as a batch's may be."""
    gets = [[commands.GET.code, "large"]] * limits.BATCH_OPERATIONS_MAX
    return attacker.request(commands.BATCH, 2, (gets,))


def await_refusal(attacker: Attacker) -> None:
    """Reads replies until a refusal comes. They were all sent before, so it must."""
    statuses: list[int] = []
    while ServerBusy.wire_code not in statuses:
        replies = attacker.replies()
        assert replies is not None
        statuses = [reply.status for reply in replies]


@pytest.mark.parametrize(
    ("ask", "clients", "times", "cut_off"),
    [(get_large, 4, 500, False), (get_large_often, 80, 1, True)],
    ids=["few hold much: refused", "many hold some: cut off"],
)
def test_replies_that_are_never_read(
    watch: Watch, eventually: Eventually, ask: Ask, clients: int, times: int, cut_off: bool
) -> None:
    with watch.server.connect(timeout=20) as cache:
        cache.set("large", os.urandom(VALUE_BYTES))
    attackers = watch.attackers(clients)
    streams = {
        attacker: memoryview(frame_to_stream(ask(attacker)) * times) for attacker in attackers
    }

    def all_written() -> bool:
        for attacker, stream in streams.items():
            streams[attacker] = press(attacker, stream) if stream else stream
        return not any(streams.values())

    eventually(all_written)
    watch.check_others_are_served()
    if cut_off:
        eventually(lambda: watch.cut_off > 0)
    else:
        for attacker in attackers:
            await_refusal(attacker)
        assert watch.cut_off == 0
    assert watch.bytes_at_most < (
        watch.bytes_at_first + limits.WORKER_REPLY_BYTES_MAX + MOMENT_BYTES
    )
    watch.check_end(eventually)

"""A real worker under any frames: through its queue, through a FIFO, cut anywhere, from anybody.

After each batch the worker is the same process, has logged no exception, serves another client,
and its table is whole.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property.test_messages import ANYTHING, LIKE_REQUESTS, REQUESTS
from support.attacker import Attacker
from support.servers import Server, StartServer

from kvserve.limits import QUEUE_MESSAGE_BYTES_MIN
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.protocol.framing import frame_to_stream
from kvserve.protocol.messages import PROTOCOL_VERSION, Request

Eventually = Callable[[Callable[[], object]], None]
FAR_DEADLINE_MS = 2**63
ONE_WORKER = ("--workers", "1")
BATCHES = settings(max_examples=settings.default.max_examples * 2 // 5)  # each is many frames


class Watch:
    """Knows a server's worker, and looks whether it is well."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.worker_pids = server.worker_pids

    def check(self) -> None:
        """The worker has taken no harm, and neither have its other clients."""
        value = secrets.token_hex(8)
        with self.server.connect(timeout=20) as cache:
            cache.set("a good client's", value)
            assert cache.get("a good client's") == value
            cache.ping()
            assert cache.verify() == []
        assert self.server.worker_pids == self.worker_pids
        assert self.exceptions_logged == []

    @property
    def exceptions_logged(self) -> list[str]:
        """What came up in the worker that it does not expect, as its log tells."""
        lines = self.server.log.splitlines()
        return [line for line in lines if "Exception in callback" in line or "Traceback" in line]


def watched(server: Server) -> Iterator[Watch]:
    """Watches a server to its end: the log comes through a pipe, and a check may be too early."""
    watch = Watch(server)
    yield watch
    assert server.stop() == 0
    assert watch.exceptions_logged == []


@pytest.fixture(scope="module")
def watch(make_module_server: StartServer) -> Iterator[Watch]:
    """A server with one worker, which all batches hit."""
    yield from watched(make_module_server(*ONE_WORKER))


@pytest.fixture
def attacked(make_server: StartServer) -> Watch:
    """Such a server for one test, which looks at the log itself."""
    return Watch(make_server(*ONE_WORKER))


@st.composite
def damaged(draw: st.DrawFn, frame: bytes) -> bytes:
    """A frame with some bytes changed, taken out, put in, or cut off."""
    changed = bytearray(frame)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(changed)))
        end = min(len(changed), at + draw(st.integers(0, 4)))
        changed[at:end] = draw(st.binary(max_size=4))
    return bytes(changed)


def in_name_of(client_id: int, request: Request) -> bytes:
    """The request as if a client had sent it in time."""
    return request._replace(client_id=client_id, deadline_ms=FAR_DEADLINE_MS).encode()


def frames_of(client_id: int) -> st.SearchStrategy[list[bytes]]:
    """Batches of frames: good ones, near misses, damaged ones, noise; ours and other clients'."""
    good = REQUESTS.map(lambda request: in_name_of(client_id, request))
    near = LIKE_REQUESTS.map(lambda like: msgpack.packb([PROTOCOL_VERSION, client_id, *like[2:]]))
    frame = st.one_of(
        good,
        good.flatmap(damaged),
        near,
        REQUESTS.map(Request.encode),
        ANYTHING.map(msgpack.packb),
        st.binary(),
    )
    return st.lists(frame, min_size=1, max_size=30)


@given(st.data())
@BATCHES
def test_frames_through_the_queue(watch: Watch, data: st.DataObject) -> None:
    with Attacker(watch.server.names, secrets.randbits(64)) as attacker:
        attacker.greet()
        for frame in data.draw(frames_of(attacker.client_id)):
            attacker.send(frame[:QUEUE_MESSAGE_BYTES_MIN])
        attacker.send(attacker.request(commands.PING, 2**64 - 1, ()))
        assert attacker.await_reply(2**64 - 1) is not None
    watch.check()


@given(st.data())
@BATCHES
def test_frames_through_a_fifo(watch: Watch, data: st.DataObject) -> None:
    """Any frames in a whole stream: each is answered or dropped, and the session goes on."""
    with Attacker(watch.server.names, secrets.randbits(64)) as attacker:
        attacker.greet()
        for frame in data.draw(frames_of(attacker.client_id)):
            assert attacker.write(frame_to_stream(frame))
        ping = attacker.request(commands.PING, 2**64 - 1, ())
        assert attacker.write(frame_to_stream(ping))
        assert attacker.await_reply(2**64 - 1) is not None
    watch.check()


@given(st.data())
@BATCHES
def test_stream_cut_anywhere(watch: Watch, eventually: Eventually, data: st.DataObject) -> None:
    """The stream itself is damaged, and ends in the middle: the client dies, its files go."""
    with Attacker(watch.server.names, secrets.randbits(64)) as attacker:
        attacker.greet()
        frames = data.draw(frames_of(attacker.client_id))
        stream = data.draw(damaged(b"".join(map(frame_to_stream, frames))))
        stream = stream[: data.draw(st.integers(0, len(stream)))]
        pieces = data.draw(st.lists(st.integers(0, len(stream)), max_size=5).map(sorted))
        for start, end in zip([0, *pieces], [*pieces, len(stream)], strict=True):
            if not attacker.write(stream[start:end]):
                break
        attacker.leave()
        eventually(lambda: not attacker.has_files)
    watch.check()


@pytest.mark.parametrize("client_id", [0, 1, 2**63, 2**64 - 1])
def test_any_client_id_can_say_hello(watch: Watch, client_id: int) -> None:
    with Attacker(watch.server.names, client_id) as attacker:
        attacker.greet()
        attacker.send(attacker.request(commands.PING, 7, ()))
        assert attacker.await_reply(7) is not None
    watch.check()


def occupy(path: Path, kind: str, target: Path) -> None:
    """Puts something where the worker expects a client's FIFO."""
    if kind == "file":
        path.write_text("mine")
    elif kind == "link to a file":
        path.symlink_to(target)
    elif kind == "link to a FIFO":
        fifo = path.with_name("elsewhere")
        if not fifo.exists():
            os.mkfifo(fifo, 0o600)
        path.symlink_to(fifo)
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "FIFO for everybody":
        os.mkfifo(path, 0o600)
        path.chmod(0o666)
    elif kind == "directory":
        path.mkdir(0o700)
    elif kind == "FIFO":
        os.mkfifo(path, 0o600)


def vacate(names: Names, client_id: int) -> None:
    """Removes what `occupy` made and the worker did not."""
    elsewhere = names.reply_fifo(client_id).with_name("elsewhere")
    for path in (names.request_fifo(client_id), names.reply_fifo(client_id), elsewhere):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


KINDS = [
    "nothing", "file", "link to a file", "link to a FIFO", "link to itself", "socket",
    "FIFO for everybody", "directory", "FIFO",
]  # fmt: skip


@pytest.mark.parametrize("request_kind", KINDS)
@pytest.mark.parametrize("reply_kind", KINDS)
def test_hello_with_odd_files(
    watch: Watch, tmp_path: Path, request_kind: str, reply_kind: str
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    names = watch.server.names
    with Attacker(names, secrets.randbits(64)) as attacker:
        occupy(names.request_fifo(attacker.client_id), request_kind, precious)
        occupy(names.reply_fifo(attacker.client_id), reply_kind, precious)
        try:
            for request_id in (1, 2):
                attacker.send(attacker.hello(request_id))
            watch.check()
        finally:
            vacate(names, attacker.client_id)
    assert precious.read_text() == "untouched"


def test_client_that_dies_with_requests_on_the_way(attacked: Watch, eventually: Eventually) -> None:
    """Found by fuzzing: the third reply to a closed session asked to be told of descriptor -1."""
    (worker,) = attacked.worker_pids
    with Attacker(attacked.server.names, 5) as attacker:
        attacker.greet()
        os.kill(worker, signal.SIGSTOP)
        try:
            pings = [attacker.request(commands.PING, number, ()) for number in range(2, 7)]
            assert attacker.write(b"".join(map(frame_to_stream, pings)))
            attacker.leave()
        finally:
            os.kill(worker, signal.SIGCONT)
        eventually(lambda: not attacker.has_files)
    attacked.check()
    assert attacked.server.stop() == 0
    assert attacked.exceptions_logged == []  # the log is whole now


@pytest.mark.parametrize(
    "place",
    [0, 3, 4, 5],
    ids=["version", "code", "ms", "arguments"],
)
def test_field_that_is_nested_too_deeply_to_show(
    attacked: Watch, eventually: Eventually, place: int
) -> None:
    """Found by reading: RecursionError leaves decode_request, and the rest of a FIFO is lost."""
    with Attacker(attacked.server.names, 5) as attacker:
        attacker.greet()
        fields = [*map(msgpack.packb, (1, 5, 9, commands.PING.code, FAR_DEADLINE_MS, []))]
        fields[place] = b"\x91" * 1010 + b"\x90"
        ping = attacker.request(commands.PING, 10, ())
        attacker.write(frame_to_stream(b"\x96" + b"".join(fields)) + frame_to_stream(ping))
        answered: list[int] = []

        def settled() -> object:
            answered.extend(reply.request_id for reply in attacker.replies() or [])
            return 10 in answered or attacked.exceptions_logged

        eventually(settled)
        assert 10 in answered
    attacked.check()


def test_directory_in_place_of_a_fifo(attacked: Watch, eventually: Eventually) -> None:
    """Found by reading: nobody reads the replies, so the worker removes both, and one cannot be."""
    names = attacked.server.names
    with Attacker(names, 5) as attacker:
        occupy(names.request_fifo(5), "directory", names.pid_file)
        occupy(names.reply_fifo(5), "FIFO", names.pid_file)
        try:
            attacker.send(attacker.hello(1))
            reply = names.reply_fifo(5)
            eventually(lambda: not reply.exists() or attacked.exceptions_logged)
            attacked.check()
            assert not reply.exists()
        finally:
            vacate(names, 5)


@pytest.mark.parametrize("depth", [400, 10_000])
def test_value_that_is_nested_deeply_harms_no_reader(depth: int) -> None:
    """Found by reading: a value of 1 KB ended every process that read it, by SIGSEGV."""
    program = (
        "import sys, msgpack; from kvserve.protocol import codec\n"
        "from kvserve.errors import UnreadableValue\n"
        "payload = msgpack.packb([])\n"
        "header = lambda size: b'\\xc9' + size.to_bytes(4, 'big') + b'\\x01'\n"
        f"for _ in range({depth}):\n"
        "    payload = header(len(payload)) + payload if len(payload) < 2**20 else payload\n"
        "try: codec.decode(codec.MSGPACK, payload)\n"
        "except UnreadableValue: pass\n"
    )
    done: subprocess.CompletedProcess[Any] = subprocess.run([sys.executable, "-c", program])
    assert done.returncode == 0

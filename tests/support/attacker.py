"""A client without manners: sends any bytes through a worker's queue and through its own FIFO."""

from __future__ import annotations

import os
import select
import time
from types import TracebackType
from typing import Self

from kvserve.descriptors import Descriptor
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.protocol.framing import FrameReader
from kvserve.protocol.messages import PROTOCOL_VERSION, Reply, Request, decode_reply
from kvserve.transport import fifo
from kvserve.transport.mqueue import SendingQueue

PATIENCE_SECONDS = 30.0
READ_BYTES = 2**20
REPLY_BYTES_MAX = 64 * 2**20  # longer than any reply: also the refusal of an odd frame repeats it


class Attacker:
    """Has a queue and, once `greet` was called, a session. Obeys nothing that clients obey.

    Args:
        names: the instance's.
        client_id: whose session it opens.
    """

    def __init__(self, names: Names, client_id: int) -> None:
        self.client_id = client_id
        self._paths = (names.request_fifo(client_id), names.reply_fifo(client_id))
        self._queue = SendingQueue(names.worker_queue(0), os.geteuid())
        self._request: Descriptor | None = None
        self._reply: Descriptor | None = None
        self._frames = FrameReader(REPLY_BYTES_MAX)
        self._early: list[Reply] = []  # read before anybody asked for them

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()
        self._queue.close()

    def send(self, frame: bytes) -> None:
        """Puts one message into the queue, waiting for room."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not self._queue.offer(frame, 1):
            assert time.monotonic() < give_up, "the worker does not empty its queue"
            self.replies()
            time.sleep(0.001)

    def greet(self) -> None:
        """Opens the session as a good client does."""
        for path in self._paths:
            os.mkfifo(path, 0o600)  # to be cleared up by the worker
        owner = {"owner_uid": os.geteuid(), "group_id": None}
        self._request = fifo.open_end(self._paths[0], os.O_RDWR, **owner)
        self._reply = fifo.open_end(self._paths[1], os.O_RDONLY, **owner)
        self.send(self.hello(1))
        assert self.await_reply(1) is not None

    def hello(self, request_id: int) -> bytes:
        """The frame that opens our session."""
        return self.request(commands.HELLO, request_id, (PROTOCOL_VERSION, os.getpid()))

    def request(
        self, command: commands.Command, request_id: int, arguments: tuple[object, ...]
    ) -> bytes:
        """A frame without fault, in our name."""
        return Request(self.client_id, request_id, command, 2**63, arguments).encode()

    def write(self, stream: bytes) -> bool:
        """Writes bytes to our FIFO; False if the worker has cut us off meanwhile."""
        rest = memoryview(stream)
        give_up = time.monotonic() + PATIENCE_SECONDS
        while rest:
            assert time.monotonic() < give_up, "the worker does not empty the FIFO"
            found = self._read()
            if found is None:
                return False
            self._early += found
            try:
                rest = rest[os.write(self._request.number, rest) :]
            except BlockingIOError:
                time.sleep(0.001)
        return True

    def replies(self) -> list[Reply] | None:
        """The replies so far, those that came during a `write` too; each must be one. None: the
        worker has ended our session."""
        early, self._early = self._early, []
        return early or self._read()

    def _read(self) -> list[Reply] | None:
        if self._reply is None or not self._wait(0):
            return []  # before a first writer came, read gives b"" too
        data = os.read(self._reply.number, READ_BYTES)
        if not data:
            return None
        replies = [decode_reply(frame, self.client_id) for frame in self._frames.feed(data)]
        assert None not in replies, "a reply to another client"
        return replies

    def _wait(self, milliseconds: int) -> bool:
        poll = select.poll()
        poll.register(self._reply.number, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def await_reply(self, request_id: int) -> Reply | None:
        """The reply to a request of ours; None if the worker ends our session instead."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up:
            replies = self.replies()
            if replies is None:
                return None
            for reply in replies:
                if reply.request_id == request_id:
                    return reply
            self._wait(100)
        raise AssertionError(f"no reply to request {request_id}")

    def leave(self) -> None:
        """Dies without a word: the worker must notice and clear up."""
        for file in (self._request, self._reply):
            if file is not None:
                file.close()
        self._request = self._reply = None

    @property
    def has_files(self) -> bool:
        """Whether the FIFOs of our session are still there."""
        return any(path.exists() for path in self._paths)

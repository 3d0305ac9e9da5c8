"""A session with one worker: its descriptors, its ids, its frames. Does not wait.

`blocking.channel.Channel` waits for it by polling, `aio.channel.AsyncChannel` on an event loop.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import Any

from kvserve import limits
from kvserve.client import forks
from kvserve.errors import ForeignObject, KvserveError, ServerBusy, ValueTooLarge
from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.protocol.commands import Command
from kvserve.protocol.messages import PROTOCOL_VERSION, Encoder, Reply, decode_reply
from kvserve.runtime import holder, not_served, verify_directory
from kvserve.transport import fifo
from kvserve.transport.base import FrameSender
from kvserve.transport.fifo import FifoReceiver, FifoSender
from kvserve.transport.mqueue import SendingQueue

LOOK_SECONDS = 0.1  # how often a client that waits for a hello looks whether a server runs
NO_REPLY = "no reply before the deadline"
NOT_TAKEN = "the worker took no request before the deadline; is it overloaded?"
_MODE, _GROUP_MODE = 0o600, 0o660
_HELLO_PAUSE_SECONDS = 0.1  # before it is sent once more, then twice as long each time


class WorkerGone(Exception):
    """The worker at a session's other end is gone, or the session is not this process's, or its
    descriptors were closed. The client decides what that means.

    Args:
        ids: the client id and the request id of what was sent; zeros: nothing was sent.
    """

    def __init__(self, ids: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.ids = ids


class Session:
    """The client's two FIFOs and the worker's queue.

    Each thing it opens belongs to an object of its own, and is closed with the last reference to
    that: so an exception from a signal handler, at any point, leaves nothing behind.

    Args:
        names: the instance's.
        manifest: what it consists of.
        worker: the worker at the other end.
        queue_bytes: the longest frame that goes through the queue; longer ones, through the FIFO.

    Raises:
        ServerUnavailable: no server runs.
        ForeignObject: an object of the instance has a wrong owner or mode.
    """

    def __init__(self, names: Names, manifest: Manifest, worker: int, queue_bytes: int) -> None:
        forks.notice()
        owner_uid = verify_directory(names)
        require_holder(names)
        if manifest.protocol_version != PROTOCOL_VERSION:
            raise ForeignObject(
                f"the server {names.name!r} speaks version {manifest.protocol_version} of the "
                f"protocol, and this process {PROTOCOL_VERSION}; restart the older one"
            )
        self.client_id = secrets.randbits(64)
        self._last_request_id = 0
        self._encoder = Encoder()
        self._frame_bytes_max = limits.frame_bytes_max(manifest.value_bytes_max)
        self._queue = SendingQueue(names.worker_queue(worker), owner_uid)
        self._queue_bytes = min(queue_bytes, self._queue.message_bytes)
        try:
            self._open_fifos(names, manifest.group_id)
        except FileNotFoundError:
            raise not_served(names) from None

    def _open_fifos(self, names: Names, group_id: int | None) -> None:
        mode = _MODE if group_id is None else _GROUP_MODE
        owner = {"owner_uid": os.geteuid(), "group_id": None}
        request, reply = names.request_fifo(self.client_id), names.reply_fifo(self.client_id)
        self._names = [fifo.make(request, mode, group_id), fifo.make(reply, mode, group_id)]
        # Both ends: the worker must find a writer, and later miss it when we are gone.
        self._requests = FifoSender(fifo.open_end(request, os.O_RDWR, **owner), 0)
        # The reading end alone: end-of-file will mean that the worker is gone. A batch's reply may
        # exceed its bound by the last value in it.
        reply_bytes_max = self._frame_bytes_max + limits.BATCH_REPLY_BYTES
        self._replies = FifoReceiver(fifo.open_end(reply, os.O_RDONLY, **owner), reply_bytes_max)

    @property
    def closed(self) -> bool:
        """Whether it has ended, or was opened by a process from which this one was forked."""
        return not self._replies.file.is_open

    @property
    def is_ours(self) -> bool:
        """Whether it is open and its descriptors are unchanged; a daemon may have closed them."""
        return self._replies.file.is_ours

    @property
    def reply_descriptor(self) -> int:
        """What to poll for replies."""
        return self._replies.descriptor

    def request(
        self, command: Command, arguments: tuple[Any, ...], deadline: float
    ) -> tuple[int, bytes, FrameSender]:
        """The id and the frame of a new request, and the carrier that suits it.

        Args:
            command: what to do.
            arguments: as the command's fields.
            deadline: seconds on the monotonic clock.

        Raises:
            ValueTooLarge, ServerBusy: it is longer than what the server takes.
            WorkerGone: the session is not this process's any more.
        """
        self._last_request_id += 1
        request_id = self._last_request_id
        deadline_ms = int(deadline * 1000) + 1
        frame = self._encoder.request(self.client_id, request_id, command, deadline_ms, arguments)
        if len(frame) > self._frame_bytes_max:
            raise self._too_long(command, arguments, len(frame))
        by_queue = len(frame) <= self._queue_bytes or command is commands.HELLO
        sender: FrameSender = self._queue if by_queue else self._requests
        if not (sender.file.is_ours and self._replies.file.is_ours):
            raise WorkerGone
        return request_id, frame, sender

    def _too_long(
        self, command: Command, arguments: tuple[Any, ...], size_bytes: int
    ) -> KvserveError:
        # It was checked, or cut, by the limit of a server that has ended since.
        text = f"the server takes at most {self._frame_bytes_max} in one request now"
        if command in (commands.BATCH, commands.SET_MANY) and len(arguments[0]) > 1:
            return ServerBusy(f"a batch of {size_bytes} bytes: {text}; send it again")
        return ValueTooLarge(f"a value that makes a request of {size_bytes} bytes: {text}")

    def hello(self, deadline: float) -> tuple[int, bytes, FrameSender]:
        """The request that opens the session, to be answered before any other is sent."""
        return self.request(commands.HELLO, (PROTOCOL_VERSION, os.getpid()), deadline)

    @property
    def is_superseded(self) -> bool:
        """Whether another server has taken the place of the one that this session would open."""
        return self._queue.is_unlinked

    def replies(self) -> list[Reply]:
        """The replies that have come by now.

        Raises:
            WorkerGone: no more will come.
            ProtocolError: what came is no reply.
        """
        if not self.is_ours:
            raise WorkerGone
        frames = self._replies.receive()
        if frames is None:
            raise WorkerGone
        replies = [decode_reply(frame, self.client_id) for frame in frames]
        return [reply for reply in replies if reply is not None]

    def close(self) -> None:
        """Ends the session and removes its files; in a child it closes the child's copies alone.

        Twice does no harm.
        """
        self._queue.close()
        self._requests.close()
        self._replies.close()
        for name in self._names:
            name.remove()


def hello_times(now: float) -> Iterator[float]:
    """When to send a hello: now, and again with growing pauses, until it is answered.

    One that a dying worker took is lost. A worker takes a second hello for the first.

    Example:
        >>> [round(next(each), 1) for each in [hello_times(5.0)] for _ in range(4)]
        [5.0, 5.1, 5.3, 5.7]
    """
    pause = _HELLO_PAUSE_SECONDS
    while True:
        yield now
        now += pause
        pause *= 2


def require_holder(names: Names) -> None:
    """Raises ServerUnavailable if no server runs: the queue of a killed server is still there."""
    if holder(names) is None:
        raise not_served(names)

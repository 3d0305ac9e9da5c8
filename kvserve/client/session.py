"""A session with one worker: its descriptors, its ids, its frames. Does not wait.

`channel.Channel` waits for it by polling, `aio_channel.AioChannel` on an event loop.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import weakref
from threading import RLock
from typing import Any

from kvserve import limits
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.protocol.commands import Command
from kvserve.protocol.messages import PROTOCOL_VERSION, Encoder, Reply, decode_reply
from kvserve.runtime import Manifest, not_served, verify_directory
from kvserve.transport import fifo
from kvserve.transport.base import FrameSender
from kvserve.transport.fifo import FifoReceiver, FifoSender
from kvserve.transport.mqueue import SendingQueue

_MODE, _GROUP_MODE = 0o600, 0o660


class WorkerGone(Exception):
    """The worker at a session's other end is no more. The client decides what that means."""


class Session:
    """The client's two FIFOs and the worker's queue.

    Args:
        names: the instance's.
        manifest: what it consists of.
        worker: whose session.
        queue_bytes: the longest frame that goes through the queue; longer ones, through the FIFO.

    Raises:
        ServerUnavailable: nobody serves.
        ForeignObject: an object of the instance has a wrong owner or mode.
    """

    def __init__(self, names: Names, manifest: Manifest, worker: int, queue_bytes: int) -> None:
        self.closed = True
        owner_uid = verify_directory(names)
        self._names = names
        self.client_id = secrets.randbits(64)
        self._last_request_id = 0
        self._encoder = Encoder()
        # A batch's reply may exceed its bound by the last value in it.
        frame_bytes_max = limits.frame_bytes_max(manifest.value_bytes_max)
        reply_bytes_max = frame_bytes_max + limits.BATCH_REPLY_BYTES
        with _no_fork:
            self._queue = SendingQueue(names.worker_queue(worker), owner_uid)
            try:
                self._queue_bytes = min(queue_bytes, self._queue.message_bytes)
                self._open_fifos(manifest.group_id, reply_bytes_max)
            except BaseException as error:
                self._queue.close()
                self._remove_files()
                if isinstance(error, FileNotFoundError):
                    raise not_served(names) from None
                raise
            self.closed = False
            _sessions.add(self)

    def _open_fifos(self, group_id: int | None, reply_bytes_max: int) -> None:
        mode = _MODE if group_id is None else _GROUP_MODE
        owner = {"owner_uid": os.geteuid(), "group_id": None}
        request, reply = self._paths()
        fifo.make(request, mode, group_id)
        fifo.make(reply, mode, group_id)
        opened: list[int] = []
        try:
            # Both ends: the worker must find a writer, and later miss it when we are gone.
            opened.append(fifo.open_end(request, os.O_RDWR, **owner))
            # The reading end alone: end-of-file will tell that the worker is gone.
            opened.append(fifo.open_end(reply, os.O_RDONLY, **owner))
            self._requests = FifoSender(opened[0], 0)
            self._replies = FifoReceiver(opened[1], reply_bytes_max)
        except BaseException:  # a signal handler's, too, for one
            for descriptor in opened:
                os.close(descriptor)
            raise

    def __del__(self) -> None:
        """A client that was dropped without `close` leaves nothing either."""
        self.close()

    def _paths(self) -> tuple[Any, Any]:
        return self._names.request_fifo(self.client_id), self._names.reply_fifo(self.client_id)

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
        """
        self._last_request_id += 1
        request_id = self._last_request_id
        deadline_ms = int(deadline * 1000) + 1
        frame = self._encoder.request(self.client_id, request_id, command, deadline_ms, arguments)
        by_queue = len(frame) <= self._queue_bytes or command is commands.HELLO
        return request_id, frame, self._queue if by_queue else self._requests

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
            WorkerGone: nobody will send any more.
            ProtocolError: what came are no replies.
        """
        frames = self._replies.receive()
        if frames is None:
            raise WorkerGone
        return list(map(decode_reply, frames))

    def close(self) -> None:
        """Ends the session and removes its files. Twice does no harm."""
        if not self.closed:
            self.forget()
            self._remove_files()

    def _remove_files(self) -> None:
        for path in self._paths():
            with contextlib.suppress(OSError):
                fifo.remove(path)

    def forget(self) -> None:
        """Closes the descriptors only: in a forked child, whose parent goes on with the session."""
        with _no_fork:
            self._queue.close()
            self._requests.close()
            self._replies.close()
            self.closed = True  # last: what an exception leaves open, the destructor closes


# All of this process, those still to be greeted too: a child that kept descriptors of any would
# hide its parent's death from the worker. A process-wide fact in process-wide state: hooks for
# forks cannot be taken back, and sessions come and go.
_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
# Held while a session opens or closes its descriptors, so that a child finds either all or none of
# them, and only for as long. Reentrant: a signal handler or the collector may come back in.
_no_fork = RLock()


def _become_child() -> None:
    try:
        for session in list(_sessions):
            session.forget()
    finally:
        _no_fork.release()


os.register_at_fork(
    before=_no_fork.acquire,
    after_in_parent=_no_fork.release,
    after_in_child=_become_child,
)

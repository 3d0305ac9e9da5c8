"""A session with one worker: its descriptors, its ids, its frames. Does not wait.

`channel.Channel` waits for it by polling, `aio_channel.AioChannel` on an event loop.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import Any

from kvserve import limits
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.protocol.commands import Command
from kvserve.protocol.messages import PROTOCOL_VERSION, Reply, Request, decode_reply
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
        self._pid = os.getpid()
        self._descriptors_open = False
        owner_uid = verify_directory(names)
        self._names = names
        self.client_id = secrets.randbits(64)
        self._last_request_id = 0
        self._queue = SendingQueue(names.worker_queue(worker), owner_uid)
        self._queue_bytes = min(queue_bytes, self._queue.message_bytes)
        try:
            request, reply = self._make_fifos(manifest.group_id)
        except FileNotFoundError:
            self._abandon()
            raise not_served(names) from None
        except BaseException:
            self._abandon()
            raise
        frame_bytes_max = limits.frame_bytes_max(manifest.value_bytes_max)
        self._requests = FifoSender(request, 0)
        # A batch's reply may exceed its bound by the last value in it.
        self._replies = FifoReceiver(reply, frame_bytes_max + limits.BATCH_REPLY_BYTES)
        self._descriptors_open = True

    def _make_fifos(self, group_id: int | None) -> tuple[int, int]:
        mode = _MODE if group_id is None else _GROUP_MODE
        owner = {"owner_uid": os.geteuid(), "group_id": None}
        request, reply = self._paths()
        fifo.make(request, mode, group_id)
        fifo.make(reply, mode, group_id)
        # Both ends: the worker must find a writer, and later miss it when we are gone.
        descriptor = fifo.open_end(request, os.O_RDWR, **owner)
        try:
            # The reading end alone: end-of-file will tell that the worker is gone.
            return descriptor, fifo.open_end(reply, os.O_RDONLY, **owner)
        except BaseException:
            os.close(descriptor)
            raise

    def _abandon(self) -> None:
        """Removes what a session that could not be opened has made."""
        self._queue.close()
        self._remove_files()

    def __del__(self) -> None:
        """A client that was dropped without `close` leaves nothing either."""
        if self._descriptors_open:
            if self._pid == os.getpid():
                self.close()
            else:
                self.forget()

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
        frame = Request(self.client_id, request_id, command, deadline_ms, arguments).encode()
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
        return [decode_reply(frame) for frame in frames]

    def close(self) -> None:
        """Ends the session and removes its files. Twice does no harm."""
        if self._descriptors_open:
            self.forget()
            self._remove_files()

    def _remove_files(self) -> None:
        for path in self._paths():
            with contextlib.suppress(OSError):
                fifo.remove(path)

    def forget(self) -> None:
        """Closes the descriptors only: in a forked child, whose parent goes on with the session."""
        self._descriptors_open = False
        self._queue.close()
        self._requests.close()
        self._replies.close()

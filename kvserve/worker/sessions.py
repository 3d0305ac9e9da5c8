"""The clients of a worker: each a session of two FIFOs, opened by its hello, closed by its death.

The FIFOs are found by the client's id inside the runtime directory, never by a path that a client
sends. Frames for a session that is not open here are dropped unexecuted: they are from before this
worker was born, and their client, which saw its predecessor die, sends them again or gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable

from kvserve import limits
from kvserve.errors import ForeignObject, ProtocolError, ServerBusy
from kvserve.names import Names
from kvserve.protocol.messages import Encoder, Reply
from kvserve.transport import fifo
from kvserve.transport.fifo import FifoReceiver, FifoSender
from kvserve.worker.arrivals import Arrivals

_log = logging.getLogger(__name__)


class Session:
    """One client's two FIFOs, as its worker sees them."""

    def __init__(self, client_id: int, requests: FifoReceiver, replies: FifoSender) -> None:
        self.client_id = client_id
        self.requests = requests
        self.replies = replies
        self.waits_for_writing = False
        self.refusals = 0  # in a row, see has_room
        self.held_bytes = 0  # of its replies, as counted in the sum of all

    def close(self) -> None:
        self.requests.close()
        self.replies.close()


class Sessions:
    """All sessions of a worker, on its event loop.

    Args:
        names: the instance's.
        loop: the worker's.
        group_id: the group whose members may be clients, or None.
        frame_bytes_max: the longest request.
        handle: takes a frame that came through a FIFO, and its session.
    """

    def __init__(
        self,
        names: Names,
        loop: asyncio.AbstractEventLoop,
        group_id: int | None,
        frame_bytes_max: int,
        handle: Callable[[bytes, Session], None],
    ) -> None:
        self._names = names
        self._loop = loop
        self._group_id = group_id
        self._frame_bytes_max = frame_bytes_max
        self._handle = handle
        self._open: dict[int, Session] = {}
        self._encoder = Encoder()
        self._held_bytes = 0  # replies of all sessions that are not read yet
        self._arrivals = Arrivals(limits.WORKER_REQUEST_BYTES_MAX)
        self._looking: asyncio.TimerHandle | None = None  # after those that wait for room
        self.cut_off = 0  # clients that did not read their replies, or not finish a request

    def __len__(self) -> int:
        return len(self._open)

    def get(self, client_id: int) -> Session | None:
        """The session of a client; None if it is not open."""
        return self._open.get(client_id)

    def open(self, client_id: int) -> Session | None:
        """Opens the FIFOs of a client that said hello; None if that cannot be."""
        if session := self._open.get(client_id):
            return session
        try:
            session = self._open_fifos(client_id)
        except (OSError, ForeignObject) as error:
            if getattr(error, "errno", None) == errno.ENXIO:
                self._remove_files(client_id)  # it died before we came
            elif not isinstance(error, FileNotFoundError):
                _log.warning("client %016x is refused: %s", client_id, error)
            return None
        if len(self._open) >= limits.SESSIONS_MAX:
            busy = ServerBusy(f"this worker has {limits.SESSIONS_MAX} clients already")
            with contextlib.suppress(OSError):  # it may have left again already
                session.replies.offer(self._encoder.reply(client_id, Reply.failure(0, busy)))
            session.close()
            return None
        self._open[client_id] = session
        self._loop.add_reader(session.requests.descriptor, self._receive, session)
        return session

    def _open_fifos(self, client_id: int) -> Session:
        owner = {"owner_uid": os.geteuid(), "group_id": self._group_id}
        reply = fifo.open_end(self._names.reply_fifo(client_id), os.O_WRONLY, **owner)
        request = fifo.open_end(self._names.request_fifo(client_id), os.O_RDONLY, **owner)
        return Session(
            client_id,
            FifoReceiver(request, self._frame_bytes_max),
            FifoSender(reply, limits.REPLY_BUFFER_BYTES + self._frame_bytes_max),
        )

    def has_room(self, session: Session) -> bool:
        """Whether a client reads its replies fast enough to be served further requests.

        To be asked before a request is executed, so that a refusal can promise that nothing was
        changed. A client that goes on regardless is cut off.
        """
        held_bytes = session.held_bytes
        if held_bytes <= limits.REPLY_BUFFER_BYTES and (
            self._held_bytes <= limits.WORKER_REPLY_BYTES_SHORT
            or held_bytes * len(self._open) < self._held_bytes  # others hold more
        ):
            session.refusals = 0
            return True
        session.refusals += 1
        if session.refusals > limits.REFUSALS_MAX:
            self._cut_off(session, "does not read its replies")
        return False

    def _cut_off(self, session: Session, reason: str) -> None:
        self.cut_off += 1
        _log.warning("client %016x %s: cut off", session.client_id, reason)
        self.close(session)

    def reply(self, session: Session, reply: Reply) -> None:
        """Sends a reply, or holds it back until the client reads; cuts off one that never does."""
        try:
            taken = session.replies.offer(self._encoder.reply(session.client_id, reply))
        except OSError:
            self.close(session)
            return
        if not taken:
            self._cut_off(session, "does not read its replies")
        elif session.replies.held_bytes:
            if not session.waits_for_writing:
                session.waits_for_writing = True
                self._loop.add_writer(session.replies.descriptor, self._flush, session)
            self._count_held(session)

    def _flush(self, session: Session) -> None:
        try:
            drained = session.replies.flush()
        except OSError:
            self.close(session)
            return
        self._count_held(session)
        if drained:
            session.waits_for_writing = False
            self._loop.remove_writer(session.replies.descriptor)

    def _count_held(self, session: Session) -> None:
        """Counts what a session holds back; cuts off who holds most if all hold too much."""
        self._held_bytes += session.replies.held_bytes - session.held_bytes
        session.held_bytes = session.replies.held_bytes
        while self._held_bytes > limits.WORKER_REPLY_BYTES_MAX:
            largest = max(self._open.values(), key=lambda each: each.held_bytes)
            self._cut_off(largest, "has most of too many replies to read")

    def look(self, session: Session) -> bool:
        """Takes what a session's FIFO has now; whether that completed a frame."""
        return self._open.get(session.client_id) is session and self._receive(session)

    def _receive(self, session: Session) -> bool:
        if self._arrivals.may_be_read(session):
            return self._read(session)
        self._loop.remove_reader(session.requests.descriptor)  # until `_look` comes to it
        return False

    def _read(self, session: Session) -> bool:
        try:
            frames = session.requests.receive(sparingly=self._arrivals.is_short)
        except ProtocolError as error:
            _log.warning("client %016x is cut off: %s", session.client_id, error)
            self.reply(session, Reply.failure(0, error))
            frames = None
        if frames is None:
            self.close(session)
            return False
        if frames:
            self._arrivals.release(session)
        for frame in frames:
            if self._open.get(session.client_id) is not session:
                return True  # it died, or was cut off, over a reply: nobody waits for the rest
            self._handle(frame, session)
        size_bytes = session.requests.arriving_bytes
        if (
            size_bytes
            and self._open.get(session.client_id) is session
            and not self._arrivals.claim(session, size_bytes, self._loop.time())
            and self._looking is None
        ):
            self._look_later()
        return bool(frames)

    def _look_later(self) -> None:
        self._looking = self._loop.call_later(limits.ARRIVAL_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Reads those for whom there is room by now, and ends those who keep others waiting."""
        self._looking = None
        now = self._loop.time()
        while session := self._arrivals.admit(now):
            self._loop.add_reader(session.requests.descriptor, self._receive, session)
            self._read(session)
        for session in self._arrivals.overdue(now):
            self._cut_off(session, "does not finish a request while others wait")
        if self._arrivals.is_short and self._looking is None:
            self._look_later()

    @property
    def drained(self) -> bool:
        """Whether no session has replies left to write."""
        return all(session.replies.drained for session in self._open.values())

    def close(self, session: Session) -> None:
        """Ends a session and removes its files. Twice does no harm."""
        if self._open.pop(session.client_id, None) is None:
            return
        self._loop.remove_reader(session.requests.descriptor)
        if session.waits_for_writing:
            self._loop.remove_writer(session.replies.descriptor)
        session.close()
        self._held_bytes -= session.held_bytes
        session.held_bytes = 0
        self._arrivals.leave(session)
        self._remove_files(session.client_id)

    def close_all(self) -> None:
        """Ends all sessions."""
        if self._looking is not None:
            self._looking.cancel()
        for session in list(self._open.values()):
            self.close(session)

    def _remove_files(self, client_id: int) -> None:
        for path in (self._names.request_fifo(client_id), self._names.reply_fifo(client_id)):
            with contextlib.suppress(OSError):  # no FIFO, or a group member's: not ours to remove
                fifo.remove(path)

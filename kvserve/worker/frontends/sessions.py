"""The clients of a worker: each a session of two FIFOs, opened by its hello, closed by its death.

The FIFOs are found by the client's id inside the runtime directory, never by a path that a client
sends. Frames for a session that is not open here are dropped unexecuted: they are from before this
worker began, and their client, which saw its predecessor die, sends them again or gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections import Counter
from collections.abc import Callable

from kvserve import limits
from kvserve.descriptors import Descriptor
from kvserve.errors import ForeignObject, ProtocolError, ServerBusy
from kvserve.execution.budget import Budget
from kvserve.names import Names
from kvserve.protocol.messages import Encoder, Reply
from kvserve.transport import fifo
from kvserve.transport.fifo import FifoReceiver, FifoSender
from kvserve.worker.frontends.arrivals import Arrivals
from kvserve.worker.frontends.replies import Replies
from kvserve.worker.frontends.session import Session

_log = logging.getLogger(__name__)


class Sessions:
    """All sessions of a worker, on its event loop.

    Args:
        names: the instance's.
        loop: the worker's.
        group_id: the group whose members may be clients, or None.
        value_bytes_max: the largest value.
        budget: the memory of requests and replies.
        handle: takes a frame that came through a FIFO, and its session.
        is_busy: whether a session's last request goes on; nothing is read from it meanwhile.
        ended: called with each session that has ended.
    """

    def __init__(
        self,
        names: Names,
        loop: asyncio.AbstractEventLoop,
        group_id: int | None,
        value_bytes_max: int,
        budget: Budget,
        handle: Callable[[bytes, Session], None],
        is_busy: Callable[[Session], bool],
        ended: Callable[[Session], None],
    ) -> None:
        self._names = names
        self._loop = loop
        self._group_id = group_id
        self._frame_bytes_max = limits.frame_bytes_max(value_bytes_max)
        self._handle = handle
        self._is_busy = is_busy
        self._ended = ended
        self._open: dict[int, Session] = {}
        self._users: Counter[int] = Counter()  # how many sessions each has
        self._replies = Replies(loop, budget, self.close, self._cut_off)
        self._arrivals = Arrivals(
            limits.arrival_bytes(value_bytes_max), lambda session: session.user_id
        )
        self._spare = _spare_descriptor()  # to refuse a client when no others are left
        self._looking: asyncio.TimerHandle | None = None  # looks at those that wait for room
        self.cut_off = 0  # clients that did not read their replies, or finish a request

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
            number = getattr(error, "errno", None)
            if number == errno.ENXIO:
                self._remove_files(client_id)  # it died before we came
            elif number in (errno.EMFILE, errno.ENFILE):
                self._refuse_at_last(client_id)
            elif not isinstance(error, FileNotFoundError):
                _log.warning("client %016x is refused: %s", client_id, error)
            return None
        if len(self._open) >= limits.SESSIONS_MAX:
            text = f"this worker has {limits.SESSIONS_MAX} clients already"
            _refuse(session.replies, client_id, text)
            session.close()
            return None
        self._open[client_id] = session
        self._users[session.user_id] += 1
        self._arrivals.users = len(self._users)
        self._loop.add_reader(session.requests.descriptor, self._receive, session)
        return session

    def _refuse_at_last(self, client_id: int) -> None:
        """Refuses a client that no descriptor is left for, by means of the spare one."""
        _log.warning("client %016x is refused: no file descriptors are left", client_id)
        if self._spare >= 0:
            os.close(self._spare)
        try:
            replies = FifoSender(self._open_replies(client_id), 0)
            text = "the worker has no file descriptors left; raise its limit: ulimit -n"
            _refuse(replies, client_id, text)
            replies.close()
        except (OSError, ForeignObject):
            pass  # it left, or the spare one was taken: its deadline will end its wait
        self._spare = _spare_descriptor()

    def _open_replies(self, client_id: int) -> Descriptor:
        path = self._names.reply_fifo(client_id)
        return fifo.open_end(path, os.O_WRONLY, owner_uid=os.geteuid(), group_id=self._group_id)

    def _open_fifos(self, client_id: int) -> Session:
        reply = self._open_replies(client_id)
        request = fifo.open_end(
            self._names.request_fifo(client_id),
            os.O_RDONLY,
            owner_uid=os.geteuid(),
            group_id=self._group_id,
        )
        return Session(
            client_id,
            os.fstat(request.number).st_uid,
            FifoReceiver(request, self._frame_bytes_max),
            FifoSender(reply, limits.REPLY_BUFFER_BYTES + self._frame_bytes_max),
        )

    def has_room(self, session: Session) -> bool:
        """See `Replies.has_room`."""
        return self._replies.has_room(session, len(self._open))

    def _cut_off(self, session: Session, reason: str) -> None:
        self.cut_off += 1
        _log.warning("client %016x %s: cut off", session.client_id, reason)
        self.close(session)

    def reply(self, session: Session, reply: Reply) -> None:
        """Sends a reply, see `Replies.send`; to a session that has ended, nothing."""
        if self._open.get(session.client_id) is session:
            self._replies.send(session, reply)

    def tick(self) -> None:
        """Looks after clients that keep others waiting. To be called often."""
        self._replies.look()

    def look(self, session: Session) -> bool:
        """Takes what a session's FIFO has now; whether that completed a frame."""
        return self._open.get(session.client_id) is session and self._receive(session)

    def _receive(self, session: Session) -> bool:
        session.is_paused = self._is_busy(session)
        if session.is_paused:
            self._arrivals.keep(session)  # what has arrived of its next request does not stall
        if not session.is_paused and self._arrivals.may_be_read(session):
            return self._read(session)
        self._loop.remove_reader(session.requests.descriptor)  # until `resume` or `_look` comes
        return False

    def is_alive(self, session: Session) -> bool:
        """Whether a session's client lives; closes the session if not. For one that is not read."""
        if session.hang_up.poll(0):
            self.close(session)
            return False
        return True

    def resume(self, session: Session) -> None:
        """Reads a session again that is not busy any more."""
        if self._open.get(session.client_id) is not session:
            return
        self._arrivals.release(session)
        self._reserve(session)
        if session.is_paused:
            session.is_paused = False
            self._loop.add_reader(session.requests.descriptor, self._receive, session)

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
        for frame in frames:
            if self._open.get(session.client_id) is not session:
                return True  # it died, or was cut off, over a reply: the rest is not wanted
            self._handle(frame, session)
        if self._open.get(session.client_id) is session:
            if not frames:
                self._reserve(session)
            elif self._is_busy(session):
                self._arrivals.keep(session)  # until `resume`: the request is in memory still
            else:
                self._arrivals.release(session)
                self._reserve(session)
        return bool(frames)

    def _reserve(self, session: Session) -> None:
        """Has room made for the request that is arriving, if one is."""
        if size_bytes := session.requests.arriving_bytes:
            now = self._loop.time()
            if self._arrivals.reserve(session, size_bytes, now):
                self._arrivals.note(session, session.requests.arrived_bytes, now)
            elif self._looking is None:
                self._look_later()

    def _look_later(self) -> None:
        self._looking = self._loop.call_later(limits.ARRIVAL_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Reads sessions that there is room for by now, and ends those that keep others waiting."""
        self._looking = None
        now = self._loop.time()
        while True:
            while session := self._arrivals.admit(now):
                self._loop.add_reader(session.requests.descriptor, self._receive, session)
                self._read(session)
            stalled = self._arrivals.stalled(now)
            if stalled is None:
                break
            self._cut_off(stalled, "does not finish a request while others wait")
        if self._arrivals.is_short and self._looking is None:
            self._look_later()

    @property
    def arriving_bytes(self) -> int:
        """The length of the requests of which only a part has arrived."""
        return self._arrivals.admitted_bytes

    @property
    def drained(self) -> bool:
        """Whether no session has replies left to write."""
        return self._replies.drained

    def close(self, session: Session) -> None:
        """Ends a session and removes its files. Twice does no harm."""
        if self._open.pop(session.client_id, None) is None:
            return
        self._loop.remove_reader(session.requests.descriptor)
        self._replies.leave(session)
        session.close()
        self._arrivals.leave(session)
        self._users[session.user_id] -= 1
        self._users += Counter()  # without users that have no session any more
        self._arrivals.users = len(self._users)
        self._ended(session)
        self._remove_files(session.client_id)

    def close_all(self) -> None:
        """Ends all sessions."""
        if self._looking is not None:
            self._looking.cancel()
        for session in list(self._open.values()):
            self.close(session)
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _remove_files(self, client_id: int) -> None:
        for path in (self._names.request_fifo(client_id), self._names.reply_fifo(client_id)):
            with contextlib.suppress(OSError):  # no FIFO, or a group member's: not ours to remove
                fifo.remove(path)


def _spare_descriptor() -> int:
    """A descriptor whose only use is to be closed; -1 if there is none."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _refuse(replies: FifoSender, client_id: int, text: str) -> None:
    """Replies to a client that its session cannot be opened."""
    with contextlib.suppress(OSError):  # it may have left again already
        replies.offer(Encoder().reply(client_id, Reply.failure(0, ServerBusy(text))))

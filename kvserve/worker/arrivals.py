"""Room for requests that are still arriving through FIFOs, and who waits for it. Reads nothing.

Rule 1: a request claims room for all of it as soon as its length has come. So what was admitted
can be completed, whatever the others do.
Rule 2: a session for which there is no room is not read, so that its client's writes block. It
waits for its turn, and while anybody waits, nobody who comes later begins.
Rule 3: a request that has been arriving for longer than `limits.ARRIVAL_SECONDS` while others wait
is overdue, and its session may be ended for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvserve import limits

if TYPE_CHECKING:
    from kvserve.worker.sessions import Session


class Arrivals:
    """The room of one worker. A session has one request arriving at a time.

    Args:
        bytes_max: how much room there is.
    """

    def __init__(self, bytes_max: int) -> None:
        self._free_bytes = bytes_max
        self._admitted: dict[Session, tuple[int, float]] = {}  # its bytes, and since when
        self._waiting: dict[Session, int] = {}  # its bytes, 0 if not known; first come, first

    @property
    def is_short(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def may_be_read(self, session: Session) -> bool:
        """Whether a session may be read; it waits from now on if not."""
        if not self._waiting or session in self._admitted:
            return True
        self._waiting.setdefault(session, 0)
        return False

    def claim(self, session: Session, size_bytes: int, now: float) -> bool:
        """Whether there is room for the request that a session has begun with.

        If not, it waits from now on, and before the others: it was its turn.

        Args:
            session: that was just read. To claim again what it has does no harm.
            size_bytes: the request's length.
            now: in seconds.
        """
        if session in self._admitted:
            return True
        if size_bytes > self._free_bytes:
            self._waiting = {session: size_bytes, **self._waiting}
            return False
        self._free_bytes -= size_bytes
        self._admitted[session] = (size_bytes, now)
        return True

    def release(self, session: Session) -> None:
        """Gives back the room of a request that has come to its end, if it had some."""
        size_bytes, _ = self._admitted.pop(session, (0, 0.0))
        self._free_bytes += size_bytes

    def leave(self, session: Session) -> None:
        """Forgets a session that has ended."""
        self.release(session)
        self._waiting.pop(session, None)

    def admit(self, now: float) -> Session | None:
        """The session whose turn it is, to be read from now on; None if there is no room for it."""
        session = next(iter(self._waiting), None)
        if session is None or self._waiting[session] > self._free_bytes:
            return None
        size_bytes = self._waiting.pop(session)
        if size_bytes:
            self.claim(session, size_bytes, now)
        return session

    def overdue(self, now: float) -> list[Session]:
        """The sessions that keep others waiting for too long."""
        if not self._waiting:
            return []
        begun_before = now - limits.ARRIVAL_SECONDS
        return [session for session, (_, begun) in self._admitted.items() if begun < begun_before]

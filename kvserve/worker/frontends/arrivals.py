"""Room for requests that are still arriving through FIFOs, and sessions that wait for it. Reads
nothing.

Rule 1: a request reserves room for all of it as soon as its length has come. So what was admitted
can be completed, whatever the others do.
Rule 2: it gets a part of what is free, and not more than its user's share. So however many large
requests come and stand still, smaller ones find room, and so do those of other users.
Rule 3: a session that there is no room for is not read, so that its client's writes block. Once the
session that waits longest has waited for a while, its room is kept free.
Rule 4: while any session waits, a request that stands still or trickles in is stalled, and its
session may be ended for the others. Its client sends it again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kvserve import limits
from kvserve.worker.frontends.session import Session


@dataclass(slots=True, eq=False)
class _Arrival:
    size_bytes: int
    user: int
    since: float  # it was admitted, or began to wait
    arrived_bytes: int = 0
    moved: float = 0.0  # when something came last


class Arrivals:
    """The room of one worker. A session has one request arriving at a time.

    Args:
        bytes_max: how much room there is.
        user_of: whose a session is.
    """

    def __init__(self, bytes_max: int, user_of: Callable[[Session], int] = lambda _: 0) -> None:
        self._bytes_max = bytes_max
        self._free_bytes = bytes_max
        self._user_of = user_of
        self._admitted: dict[Session, _Arrival] = {}
        self._waiting: dict[Session, _Arrival] = {}  # the longest wait comes first
        self._user_bytes: Counter[int] = Counter()  # of what was admitted
        self.users = 1  # that share the room

    @property
    def admitted_bytes(self) -> int:
        """The room of the requests that arrive now."""
        return self._bytes_max - self._free_bytes

    @property
    def is_short(self) -> bool:
        """Whether any session waits."""
        return bool(self._waiting)

    def may_be_read(self, session: Session) -> bool:
        """Whether a session may be read; not while it waits."""
        return session not in self._waiting

    def reserve(self, session: Session, size_bytes: int, now: float) -> bool:
        """Reserves room for the request that a session has begun; False: there is none, it waits.

        Args:
            session: one that was just read. Reserving again what it has does no harm.
            size_bytes: the request's length.
            now: in seconds.
        """
        if session in self._admitted:
            return True
        arrival = _Arrival(size_bytes, self._user_of(session), now)
        if self._fits(arrival, now):
            self._admit(session, arrival, now)
            return True
        self._waiting.setdefault(session, arrival)
        return False

    def _fits(self, arrival: _Arrival, now: float) -> bool:
        if not self._admitted:
            return True
        oldest = next(iter(self._waiting.values()), arrival)
        is_aged = now - oldest.since >= limits.ARRIVAL_AGED_SECONDS
        if is_aged and arrival is oldest:
            room_bytes = self._free_bytes
        else:
            kept_bytes = oldest.size_bytes if is_aged else 0
            room_bytes = (self._free_bytes - kept_bytes) // limits.ARRIVAL_FREE_SHARE
        if arrival.size_bytes > room_bytes:
            return False
        used_bytes = self._user_bytes[arrival.user]
        share_bytes = self._bytes_max // max(1, self.users)
        return not used_bytes or used_bytes + arrival.size_bytes <= share_bytes

    def _admit(self, session: Session, arrival: _Arrival, now: float) -> None:
        arrival.since = arrival.moved = now
        self._free_bytes -= arrival.size_bytes
        self._user_bytes[arrival.user] += arrival.size_bytes
        self._admitted[session] = arrival

    def note(self, session: Session, arrived_bytes: int, now: float) -> None:
        """Notes how much of a session's request has arrived by now."""
        arrival = self._admitted.get(session)
        if arrival is not None and arrived_bytes != arrival.arrived_bytes:
            arrival.arrived_bytes = arrived_bytes
            arrival.moved = now

    def keep(self, session: Session) -> None:
        """Keeps the room of a session's request, which has arrived, until it is executed."""
        if arrival := self._admitted.get(session):
            arrival.since = arrival.moved = math.inf

    def release(self, session: Session) -> None:
        """Gives back the room of a request that has come to its end, if it had some."""
        arrival = self._admitted.pop(session, None)
        if arrival is not None:
            self._free_bytes += arrival.size_bytes
            self._user_bytes[arrival.user] -= arrival.size_bytes
            if not self._user_bytes[arrival.user]:
                del self._user_bytes[arrival.user]

    def leave(self, session: Session) -> None:
        """Forgets a session that has ended."""
        self.release(session)
        self._waiting.pop(session, None)

    def admit(self, now: float) -> Session | None:
        """The longest waiting session that there is room for, to be read from now on."""
        for session, arrival in self._waiting.items():
            if self._fits(arrival, now):
                del self._waiting[session]
                self._admit(session, arrival, now)
                return session
        return None

    def stalled(self, now: float) -> Session | None:
        """The session that has kept others waiting for longest without getting on."""
        if not self._waiting:
            return None
        late = [each for each in self._admitted if self._is_late(self._admitted[each], now)]
        return min(late, key=lambda each: self._admitted[each].moved, default=None)

    @staticmethod
    def _is_late(arrival: _Arrival, now: float) -> bool:
        seconds = now - arrival.since
        wanted_bytes = (seconds - limits.ARRIVAL_STALL_SECONDS) * limits.ARRIVAL_BYTES_A_SECOND
        return (
            now - arrival.moved > limits.ARRIVAL_STALL_SECONDS
            or arrival.arrived_bytes < wanted_bytes
            or seconds > limits.ARRIVAL_SECONDS
        )

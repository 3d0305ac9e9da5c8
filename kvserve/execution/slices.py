"""Long requests are executed in slices, with those of other sessions in between.

Each session keeps its order: what it sends while a long request of its own is under way waits
behind that. The sessions that have one take turns. This knows neither requests nor frames.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Generic, NamedTuple, TypeVar

from kvserve import limits
from kvserve.errors import RequestTimeout

Session = TypeVar("Session")
Answer = TypeVar("Answer")
Steps = Generator[None, None, Answer]  # yields where it may be interrupted
_TOO_LATE = (RequestTimeout.wire_code, "not everything was done before the deadline")


class _Long(NamedTuple):
    """A long request; see `Slices.run`."""

    steps: Steps[Any]
    finish: Callable[[Any], None]
    deadline: float


class Slices(Generic[Session]):
    """The long requests of one worker.

    Args:
        loop: the worker's.
        resume: called with a session that is not busy any more.
        is_alive: whether a session's client lives; if not, `leave` has been called.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        resume: Callable[[Session], None],
        is_alive: Callable[[Session], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._resume = resume
        self._is_alive = is_alive
        self._clock = clock
        self._running: dict[Session, _Long] = {}  # the next in turn comes first
        self._queued: dict[Session, Callable[[], None]] = {}  # begins; first come, first begun
        self._waiting: dict[Session, deque[tuple[Callable[[], None], Callable[[], None]]]] = {}
        self._next: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._running) + len(self._queued)

    def is_busy(self, session: Session) -> bool:
        """Whether a long request of this session is under way, or one waits behind it."""
        return session in self._running or session in self._waiting or session in self._queued

    def begin(self, session: Session, begin: Callable[[], None]) -> None:
        """Calls `begin`, which calls `run`, when this session is not busy and few others are.

        So not all sessions begin at once what takes much memory.
        """
        if self.is_busy(session):
            self.wait(session, begin, _nothing)
        elif len(self._running) >= limits.LONG_REQUESTS_MAX:
            self._queued[session] = begin
        else:
            begin()

    def run(
        self,
        session: Session,
        steps: Steps[Answer],
        finish: Callable[[Answer | tuple[int, str]], None],
        deadline: float,
    ) -> None:
        """Begins a long request, and goes on later with what does not fit into a slice.

        Args:
            session: one without a long request under way.
            steps: executes the request; returns its outcome.
            finish: called with the outcome.
            deadline: when its client gives up, on the clock. The request then stops, because it
                would undo what the client does next. Its outcome is a `RequestTimeout`.
        """
        long = _Long(steps, finish, deadline)
        if not self._advance(long):
            self._running[session] = long
            self._go_on()

    def wait(self, session: Session, begin: Callable[[], None], forget: Callable[[], None]) -> None:
        """Calls `begin` when the requests of this session that came before have ended; `forget` if
        the session ends before."""
        self._waiting.setdefault(session, deque()).append((begin, forget))

    def leave(self, session: Session) -> None:
        """Forgets a session that has ended. The rest of its request is never done: its client may
        have sent it again, and other changes after it."""
        self._queued.pop(session, None)
        running = self._running.pop(session, None)
        if running is not None:
            running.steps.close()
        for _, forget in self._waiting.pop(session, ()):
            forget()

    def stop(self) -> None:
        """Ends everything."""
        if self._next is not None:
            self._next.cancel()
        for session in [*self._running, *self._queued]:
            self.leave(session)

    def _go_on(self) -> None:
        if self._next is None:
            self._next = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """One slice for the session whose turn it is."""
        self._next = None
        session = next(iter(self._running), None)
        if session is not None and not self._is_alive(session):
            self.leave(session)  # it began after its session had ended: no `leave` will come
        elif session is not None:
            long = self._running.pop(session)
            if not self._advance(long):
                self._running[session] = long  # behind the others
            elif session not in self._running:  # unless its end began another
                self._begin_waiting(session)
        while self._queued and len(self._running) < limits.LONG_REQUESTS_MAX:
            session = next(iter(self._queued))
            self._queued.pop(session)()
            if session not in self._running:
                self._begin_waiting(session)
        if self._running:
            self._go_on()

    def _advance(self, long: _Long) -> bool:
        """Executes one slice; returns whether the request has ended."""
        now = self._clock()
        if now > long.deadline:
            long.steps.close()
            outcome: Any = _TOO_LATE
        else:
            give_way = now + limits.SLICE_SECONDS
            try:
                while True:
                    next(long.steps)
                    if self._clock() >= give_way:
                        return False
            except StopIteration as ended:
                outcome = ended.value
        long.finish(outcome)
        return True

    def _begin_waiting(self, session: Session) -> None:
        """Begins what waits behind a long request, up to the next long one."""
        waiting = self._waiting.get(session)
        # A reply may end the session: then `leave` has forgotten the rest.
        while waiting and self._waiting.get(session) is waiting and session not in self._running:
            waiting.popleft()[0]()
        if session not in self._running:
            self._waiting.pop(session, None)
            self._resume(session)


def _nothing() -> None:
    """Forgets a request that holds nothing."""


def to_the_end(steps: Steps[Answer]) -> Answer:
    """Executes all steps at once; returns what they return."""
    try:
        while True:
            next(steps)
    except StopIteration as ended:
        answer: Answer = ended.value
        return answer

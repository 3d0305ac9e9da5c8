"""A circuit breaker: a store that keeps failing is left alone for a while.

The pattern is Nygard's (Release It!, 2007). Closed, calls go through. After some failures in a row
it opens, and calls are refused at once, so that nobody waits for what will fail. After a pause one
call is let through as a probe (half-open): if it succeeds the breaker closes, else the pause
doubles. Knows no store and reads no clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

FAILURES_MAX = 5  # in a row; one lost connection fails the few calls that were on the way
PAUSE_SECONDS_FIRST = 0.125
PAUSE_SECONDS_MAX = 0.5  # for what is to be in service again that soon after it works


class State(StrEnum):
    """What a breaker does with a call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Decides whether to try.

    Args:
        clock: monotonic seconds.

    Example:
        >>> breaker = Breaker(lambda: 0.0)
        >>> for _ in range(5):
        ...     breaker.failed()
        >>> breaker.state, breaker.may_try()
        (<State.OPEN: 'open'>, False)
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._pause_seconds = PAUSE_SECONDS_FIRST
        self._opened_at = 0.0
        self.state = State.CLOSED
        self.openings = 0

    @property
    def refuses(self) -> bool:
        """Whether a call that would be made now would be refused."""
        if self.state is State.OPEN:
            return self._clock() - self._opened_at < self._pause_seconds
        return self.state is State.HALF_OPEN  # the probe is under way

    def may_try(self) -> bool:
        """Whether a call may be made now. Whoever gets True owes `succeeded` or `failed`."""
        if self.refuses:
            return False
        if self.state is State.OPEN:
            self.state = State.HALF_OPEN
        return True

    def succeeded(self) -> None:
        """A call that was let through has been answered."""
        self._failures = 0
        if self.state is not State.OPEN:  # a late success says nothing of the store as it is now
            self.state = State.CLOSED
            self._pause_seconds = PAUSE_SECONDS_FIRST

    def close(self) -> None:
        """It has been found out, without a call, that the store works."""
        self.state = State.CLOSED
        self._failures = 0
        self._pause_seconds = PAUSE_SECONDS_FIRST

    def failed(self) -> None:
        """A call that was let through has failed."""
        if self.state is State.HALF_OPEN:
            self._pause_seconds = min(2 * self._pause_seconds, PAUSE_SECONDS_MAX)
            self._open()
        elif self.state is State.CLOSED:
            self._failures += 1
            if self._failures >= FAILURES_MAX:
                self._open()

    def _open(self) -> None:
        self.state = State.OPEN
        self.openings += 1
        self._failures = 0
        self._opened_at = self._clock()

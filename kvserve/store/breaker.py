"""A circuit breaker: refuses calls for a while to a store that keeps failing.

The pattern is Nygard's (Release It!, 2007). A closed breaker lets calls through. After some
failures in a row it opens and refuses calls at once, so that no caller waits for a failure. After a
pause it lets one call through as a probe (half-open): if that succeeds, the breaker closes, else
the pause doubles. Knows no store and reads no clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

FAILURES_MAX = 5  # in a row; one lost connection fails the few calls that were under way
PAUSE_SECONDS_FIRST = 0.125
PAUSE_SECONDS_MAX = 0.5  # bounds how long a store that works again stays out of service


class State(StrEnum):
    """What a breaker does with a call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Decides whether a call may be made.

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
        """Whether a call would be refused now."""
        if self.state is State.OPEN:
            return self._clock() - self._opened_at < self._pause_seconds
        return self.state is State.HALF_OPEN  # the probe is under way

    def may_try(self) -> bool:
        """Whether a call may be made now. After True, call `succeeded` or `failed`."""
        if self.refuses:
            return False
        if self.state is State.OPEN:
            self.state = State.HALF_OPEN
        return True

    def succeeded(self) -> None:
        """Notes that a call that was let through was answered."""
        self._failures = 0
        if self.state is not State.OPEN:  # a late success says nothing about the store now
            self.state = State.CLOSED
            self._pause_seconds = PAUSE_SECONDS_FIRST

    def close(self) -> None:
        """Closes the breaker, after a probe has shown that the store works."""
        self.state = State.CLOSED
        self._failures = 0
        self._pause_seconds = PAUSE_SECONDS_FIRST

    def failed(self) -> None:
        """Notes that a call that was let through failed."""
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

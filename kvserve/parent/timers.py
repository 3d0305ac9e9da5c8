"""Actions to be done later, by name. Setting a name again replaces what was set before."""

from __future__ import annotations

import time
from collections.abc import Callable


def _run(_name: str, action: Callable[[], None]) -> None:
    action()


class Timers:
    """Actions and the times at which they are due.

    Args:
        clock: seconds, monotonic.

    Example:
        >>> timers = Timers(clock=lambda: 0.0)
        >>> timers.set("greet", 0.0, lambda: print("hello"))
        >>> timers.run_due()
        hello
        >>> timers.seconds_left() is None
        True
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._set: dict[str, tuple[float, Callable[[], None]]] = {}

    def set(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        """Runs `action` once, `seconds` from now."""
        self._set[name] = (self._clock() + seconds, action)

    def clear(self) -> None:
        """Forgets everything."""
        self._set.clear()

    def seconds_left(self) -> float | None:
        """How long to wait for the next action; None if there is none."""
        if not self._set:
            return None
        return max(0.0, min(moment for moment, _ in self._set.values()) - self._clock())

    def run_due(self, run: Callable[[str, Callable[[], None]], None] = _run) -> None:
        """Runs what is due. An action may set itself again.

        Args:
            run: runs an action, given its name and the action.
        """
        now = self._clock()
        due = [name for name, (moment, _) in self._set.items() if moment <= now]
        for name in due:
            # An earlier action may have cleared this one or set it anew.
            moment, action = self._set.get(name, (float("inf"), None))
            if action is not None and moment <= now:
                del self._set[name]
                run(name, action)

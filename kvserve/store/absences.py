"""Keys that the store is known not to have, so that it is not asked again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

KEYS_MAX = 65_536


class Absences:
    """What one worker knows to be missing; the one that was noted first is forgotten first.

    Args:
        seconds: how long an absence is believed; 0: not at all. May be changed at any time.
        clock: monotonic seconds.

    Example:
        >>> absences = Absences(1.0, lambda: 0.0)
        >>> absences.note(b"nobody")
        >>> b"nobody" in absences, b"somebody" in absences
        (True, False)
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self.hits = 0

    def __contains__(self, key: bytes) -> bool:
        until = self._until.get(key)
        if until is None:
            return False
        if self._clock() >= until:
            del self._until[key]
            return False
        self.hits += 1
        return True

    def note(self, key: bytes) -> None:
        """The store has just said that it has no such key."""
        if self.seconds <= 0:
            return
        self._until[key] = self._clock() + self.seconds
        self._until.move_to_end(key)
        if len(self._until) > KEYS_MAX:
            self._until.popitem(last=False)

    def forget(self, key: bytes) -> None:
        """Somebody may have stored it."""
        self._until.pop(key, None)

    def clear(self) -> None:
        """Anybody may have stored anything."""
        self._until.clear()

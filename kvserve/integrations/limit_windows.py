"""What both storages for limits share: their options, and what the package means by a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvserve.limits import SLIDING_HITS_MAX

if TYPE_CHECKING:
    from kvserve.client.recipes.limiters import Usage

NAMESPACE = "limits"
MOVING = "moving"  # the names of limiters: those that keep the time of each hit, up to 10,000,
COUNTER = "counter"  # and those that keep the counts of two windows
RATES = (1, SLIDING_HITS_MAX + 1)  # one of each kind that `MOVING` has
# A limit that does not count is none: who asks is told by an error, as by every other storage.
DEFAULTS = {"on_error": "raise", "codec": None}


def finite(ttl: float | None) -> float:
    """The seconds that a window has left; 0.0: there is none.

    Example:
        >>> finite(None), finite(1.5)
        (0.0, 1.5)
    """
    return 0.0 if ttl is None else ttl


def moving_window(usage: Usage, now: float) -> tuple[float, int]:
    """A window as limits tells it: when it began, by the time of day, and its hits.

    Example:
        >>> from kvserve.client.recipes.limiters import Usage
        >>> moving_window(Usage(3, 7, 60.0, 15.0, 3, 0), 1000.0)
        (985.0, 3)
    """
    return now - usage.age, usage.used


def sliding_window(usage: Usage, expiry: int) -> tuple[int, float, int, float]:
    """Two windows as limits tells them: the hits and the seconds left of the last and of this one.

    Example:
        >>> from kvserve.client.recipes.limiters import Usage
        >>> sliding_window(Usage(4, 0, 60.0, 15.0, 2, 3), 60)
        (3, 45.0, 2, 105.0)
    """
    before = expiry - usage.age if usage.previous else 0.0
    count = 2 * expiry - usage.age if usage.current else 0.0
    return usage.previous, before, usage.current, count

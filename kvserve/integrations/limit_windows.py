"""What both storages for limits share: their options, and what the package means by a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvserve.client.recipes.limiters import Hit

NAMESPACE = "limits"
MOVING = "moving"  # the name of the limiter whose windows move
# A limit that does not count is none: who asks is told by an error, as by every other storage.
DEFAULTS = {"on_error": "raise", "codec": None}


def finite(ttl: float | None) -> float:
    """The seconds that a window has left; 0.0: there is none.

    Example:
        >>> finite(None), finite(1.5)
        (0.0, 1.5)
    """
    return 0.0 if ttl is None else ttl


def weight(expiry: int, now: float) -> float:
    """How much of the previous window is within `expiry` seconds of now, from 1 down to 0.

    Example:
        >>> weight(60, 120.0), weight(60, 165.0)
        (1.0, 0.25)
    """
    return 1 - (now / expiry) % 1


def sliding_window(
    before: int, count: int, expiry: int, now: float
) -> tuple[int, float, int, float]:
    """Two windows as limits tells them: the hits and the seconds left of the last and of this one.

    Example:
        >>> sliding_window(5, 2, 60, 165.0)
        (5, 15.0, 2, 75.0)
    """
    left = weight(expiry, now) * expiry
    return before, left if before else 0.0, count, left + expiry


def moving_window(seen: Hit, limit: int, expiry: int) -> tuple[float, int]:
    """A window as limits tells it: when it began, by the time of day, and its hits."""
    raise NotImplementedError

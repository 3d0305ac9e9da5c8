"""kvserve as a storage of the package limits, which Flask-Limiter and slowapi use.

Importing this registers the schemes `kvserve://` and `async+kvserve://`; docs/limits.md says more.
"""

from __future__ import annotations

import math
import time
from typing import Any

from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage
from limits.storage.base import TimestampedSlidingWindow

from kvserve.errors import KvserveError
from kvserve.integrations import limit_windows as windows
from kvserve.integrations.limits_aio import AsyncKvserveStorage
from kvserve.integrations.shared import open_namespace
from kvserve.integrations.urls import options_of

__all__ = ["AsyncKvserveStorage", "KvserveStorage"]


class KvserveStorage(
    Storage, MovingWindowSupport, SlidingWindowCounterSupport, TimestampedSlidingWindow
):
    """A storage for `limits.strategies`: all of them, exact over all processes of the host.

    Args:
        uri: `kvserve://NAME`, with further options behind a `?`.
        wrap_exceptions: as for every storage of limits.
        options: those of `kvserve.connect`, and `namespace`.

    Example:
        >>> storage = storage_from_string("kvserve://")
        >>> limiter = FixedWindowRateLimiter(storage)
        >>> limiter.hit(parse("5 per minute"), "login", "203.0.113.9")
        True
    """

    STORAGE_SCHEME = ["kvserve"]  # noqa: RUF012 - the name that limits looks for

    def __init__(
        self, uri: str | None = None, wrap_exceptions: bool = False, **options: Any
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        chosen = {**windows.DEFAULTS, **options_of(uri), **options}
        self._keys = open_namespace(chosen, namespace=windows.NAMESPACE)

    @property
    def base_exceptions(self) -> type[Exception]:
        """What its methods raise."""
        return KvserveError

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Counts hits, in a window that begins with the first."""
        return self._keys.incr(key, amount, ttl=expiry) or 0

    def get(self, key: str) -> int:
        """The hits in the window."""
        return int(self._keys.get(key, 0))

    def get_expiry(self, key: str) -> float:
        """The time of day when the window ends; now, if there is none."""
        return time.time() + windows.finite(self._keys.ttl(key))

    def check(self) -> bool:
        """Whether the server answers."""
        try:
            self._keys.delete("check")
        except KvserveError:
            return False
        return True

    def reset(self) -> int | None:
        """Forgets all hits; how many, is not known."""
        self._keys.clear()
        return None

    def clear(self, key: str) -> None:
        """Forgets the hits of a key."""
        self._keys.delete(key)
        self._keys.limiter(windows.MOVING, 1, 1, sliding=True).reset(key)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Counts hits, or none of them if they would be more than the limit within `expiry`."""
        return (
            self._keys.limiter(windows.MOVING, limit, expiry, sliding=True).hit(key, amount).allowed
        )

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the window began, and how many hits are in it."""
        seen = self._keys.limiter(windows.MOVING, limit, expiry, sliding=True).peek(key)
        return windows.moving_window(seen, limit, expiry)

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Counts hits in the current window, unless both together weigh more than the limit."""
        if amount > limit:
            return False
        now = time.time()
        previous, current = self.sliding_window_keys(key, expiry, now)
        counts = self._keys.get_many([previous, current])
        before = counts.get(previous, 0) * windows.weight(expiry, now)
        if math.floor(before + counts.get(current, 0)) + amount > limit:
            return False
        if math.floor(before + self.incr(current, 2 * expiry, amount)) <= limit:
            return True
        self._keys.decr(current, amount, initial=None)  # others came first
        return False

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """The hits of the previous window and its seconds left, and those of the current one."""
        now = time.time()
        previous, current = self.sliding_window_keys(key, expiry, now)
        counts = self._keys.get_many([previous, current])
        return windows.sliding_window(counts.get(previous, 0), counts.get(current, 0), expiry, now)

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forgets the hits of both windows."""
        self._keys.delete_many(self.sliding_window_keys(key, expiry, time.time()))

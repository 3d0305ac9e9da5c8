"""kvserve as a storage of the package limits, which Flask-Limiter and slowapi use.

Importing this registers the schemes `kvserve://` and `async+kvserve://`; docs/limits.md says more.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage

from kvserve.errors import KvserveError
from kvserve.integrations import limit_windows as windows
from kvserve.integrations.limits_aio import AsyncKvserveStorage
from kvserve.integrations.shared import open_namespace
from kvserve.integrations.urls import options_of

if TYPE_CHECKING:
    from kvserve.client.blocking.locks import Limiter

__all__ = ["AsyncKvserveStorage", "KvserveStorage"]


class KvserveStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport):
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
        """Forgets all hits; returns of how many keys, without those of windows that move."""
        count = self._keys.delete_prefix("")
        self._keys.clear()
        return count

    def clear(self, key: str) -> None:
        """Forgets the hits of a key, in fixed and in moving windows."""
        self._keys.delete(key)
        for rate in windows.RATES:  # of both kinds of moving windows
            self._moving(rate, 1).reset(key)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Counts hits, or none of them if they would be more than the limit within `expiry`."""
        return self._moving(limit, expiry).hit(key, amount).allowed

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the window began, and how many hits are in it."""
        return windows.moving_window(self._moving(limit, expiry).peek(key), time.time())

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Counts hits, unless those of both windows together weigh more than the limit."""
        return self._counter(limit, expiry).hit(key, amount).allowed

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """The hits of the previous window and its seconds left, and those of the current one."""
        return windows.sliding_window(self._counter(1, expiry).peek(key), expiry)

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forgets the hits of both windows."""
        self._counter(1, expiry).reset(key)

    def _moving(self, rate: int, per: float) -> Limiter:
        return self._keys.limiter(windows.MOVING, rate, per, sliding=True)

    def _counter(self, rate: int, per: float) -> Limiter:
        return self._keys.limiter(windows.COUNTER, rate, per, sliding="counter")

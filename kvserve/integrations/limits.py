"""kvserve as a storage of the package limits, which Flask-Limiter and slowapi use.

Importing this registers the schemes `kvserve://` and `async+kvserve://`; docs/limits.md says more.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import limits.aio.storage as aio
from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage
from limits.storage.base import TimestampedSlidingWindow

from kvserve.errors import KvserveError
from kvserve.integrations.shared import open_async_namespace, open_namespace
from kvserve.integrations.urls import options_of

if TYPE_CHECKING:
    from kvserve.client.recipes.limiters import Hit

__all__ = ["AsyncKvserveStorage", "KvserveStorage"]

_NAMESPACE = "limits"
# A limit that does not count is none: who asks is told by an error, as by every other storage.
_DEFAULTS = {"on_error": "raise", "codec": None}
_MOVING = "moving"


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
        chosen = {**_DEFAULTS, **options_of(uri), **options}
        self._keys = open_namespace(chosen, namespace=_NAMESPACE)

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
        return time.time() + _finite(self._keys.ttl(key))

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
        self._keys.limiter(_MOVING, 1, 1, sliding=True).reset(key)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Counts hits, or none of them if they would be more than the limit within `expiry`."""
        return self._keys.limiter(_MOVING, limit, expiry, sliding=True).hit(key, amount).allowed

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the window began, and how many hits are in it."""
        seen = self._keys.limiter(_MOVING, limit, expiry, sliding=True).peek(key)
        return _moving_window(seen, limit, expiry)

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Counts hits in the current window, unless both together weigh more than the limit."""
        if amount > limit:
            return False
        now = time.time()
        previous, current = self.sliding_window_keys(key, expiry, now)
        counts = self._keys.get_many([previous, current])
        before = counts.get(previous, 0) * _weight(expiry, now)
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
        return _sliding_window(counts.get(previous, 0), counts.get(current, 0), expiry, now)

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forgets the hits of both windows."""
        self._keys.delete_many(self.sliding_window_keys(key, expiry, time.time()))


class AsyncKvserveStorage(
    aio.Storage,
    aio.MovingWindowSupport,
    aio.SlidingWindowCounterSupport,
    TimestampedSlidingWindow,
):
    """The same for `limits.aio.strategies`; `async+kvserve://`. See `KvserveStorage`.

    Example:
        >>> storage = storage_from_string("async+kvserve://")
        >>> limiter = limits.aio.strategies.MovingWindowRateLimiter(storage)
        >>> asyncio.run(limiter.hit(parse("5 per minute"), "signup", "203.0.113.9"))
        True
    """

    STORAGE_SCHEME = ["async+kvserve"]  # noqa: RUF012 - the name that limits looks for

    def __init__(
        self, uri: str | None = None, wrap_exceptions: bool = False, **options: Any
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        chosen = {**_DEFAULTS, **options_of(uri), **options}
        self._keys = open_async_namespace(chosen, namespace=_NAMESPACE)

    @property
    def base_exceptions(self) -> type[Exception]:
        """See `KvserveStorage.base_exceptions`."""
        return KvserveError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """See `KvserveStorage.incr`."""
        return await self._keys.incr(key, amount, ttl=expiry) or 0

    async def get(self, key: str) -> int:
        """See `KvserveStorage.get`."""
        return int(await self._keys.get(key, 0))

    async def get_expiry(self, key: str) -> float:
        """See `KvserveStorage.get_expiry`."""
        return time.time() + _finite(await self._keys.ttl(key))

    async def check(self) -> bool:
        """See `KvserveStorage.check`."""
        try:
            await self._keys.delete("check")
        except KvserveError:
            return False
        return True

    async def reset(self) -> int | None:
        """See `KvserveStorage.reset`."""
        await self._keys.clear()
        return None

    async def clear(self, key: str) -> None:
        """See `KvserveStorage.clear`."""
        await self._keys.delete(key)
        await self._keys.limiter(_MOVING, 1, 1, sliding=True).reset(key)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """See `KvserveStorage.acquire_entry`."""
        limiter = self._keys.limiter(_MOVING, limit, expiry, sliding=True)
        return (await limiter.hit(key, amount)).allowed

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """See `KvserveStorage.get_moving_window`."""
        seen = await self._keys.limiter(_MOVING, limit, expiry, sliding=True).peek(key)
        return _moving_window(seen, limit, expiry)

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """See `KvserveStorage.acquire_sliding_window_entry`."""
        if amount > limit:
            return False
        now = time.time()
        previous, current = self.sliding_window_keys(key, expiry, now)
        counts = await self._keys.get_many([previous, current])
        before = counts.get(previous, 0) * _weight(expiry, now)
        if math.floor(before + counts.get(current, 0)) + amount > limit:
            return False
        if math.floor(before + await self.incr(current, 2 * expiry, amount)) <= limit:
            return True
        await self._keys.decr(current, amount, initial=None)  # others came first
        return False

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """See `KvserveStorage.get_sliding_window`."""
        now = time.time()
        previous, current = self.sliding_window_keys(key, expiry, now)
        counts = await self._keys.get_many([previous, current])
        return _sliding_window(counts.get(previous, 0), counts.get(current, 0), expiry, now)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """See `KvserveStorage.clear_sliding_window`."""
        await self._keys.delete_many(self.sliding_window_keys(key, expiry, time.time()))


def _finite(ttl: float | None) -> float:
    return 0.0 if ttl is None else ttl


def _weight(expiry: int, now: float) -> float:
    """How much of the previous window is within `expiry` of now, from 1 down to 0."""
    return 1 - (now / expiry) % 1


def _sliding_window(
    before: int, count: int, expiry: int, now: float
) -> tuple[int, float, int, float]:
    left = _weight(expiry, now) * expiry
    return before, left if before else 0.0, count, left + expiry


def _moving_window(seen: Hit, limit: int, expiry: int) -> tuple[float, int]:
    raise NotImplementedError

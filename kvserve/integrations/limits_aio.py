"""The storage of limits for asyncio; `.limits` imports it, which registers both."""

from __future__ import annotations

import math
import time
from typing import Any

from limits.aio.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage
from limits.storage.base import TimestampedSlidingWindow

from kvserve.errors import KvserveError
from kvserve.integrations import limit_windows as windows
from kvserve.integrations.shared import open_async_namespace
from kvserve.integrations.urls import options_of


class AsyncKvserveStorage(
    Storage, MovingWindowSupport, SlidingWindowCounterSupport, TimestampedSlidingWindow
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
        chosen = {**windows.DEFAULTS, **options_of(uri), **options}
        self._keys = open_async_namespace(chosen, namespace=windows.NAMESPACE)

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
        return time.time() + windows.finite(await self._keys.ttl(key))

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
        await self._keys.limiter(windows.MOVING, 1, 1, sliding=True).reset(key)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """See `KvserveStorage.acquire_entry`."""
        limiter = self._keys.limiter(windows.MOVING, limit, expiry, sliding=True)
        return (await limiter.hit(key, amount)).allowed

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """See `KvserveStorage.get_moving_window`."""
        seen = await self._keys.limiter(windows.MOVING, limit, expiry, sliding=True).peek(key)
        return windows.moving_window(seen, limit, expiry)

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """See `KvserveStorage.acquire_sliding_window_entry`."""
        if amount > limit:
            return False
        now = time.time()
        previous, current = self.sliding_window_keys(key, expiry, now)
        counts = await self._keys.get_many([previous, current])
        before = counts.get(previous, 0) * windows.weight(expiry, now)
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
        return windows.sliding_window(counts.get(previous, 0), counts.get(current, 0), expiry, now)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """See `KvserveStorage.clear_sliding_window`."""
        await self._keys.delete_many(self.sliding_window_keys(key, expiry, time.time()))

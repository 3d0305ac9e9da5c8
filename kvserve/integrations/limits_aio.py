"""The storage of limits for asyncio; `.limits` imports it, which registers both."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from limits.aio.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage

from kvserve.errors import KvserveError
from kvserve.integrations import limit_windows as windows
from kvserve.integrations.shared import open_async_namespace
from kvserve.integrations.urls import options_of

if TYPE_CHECKING:
    from kvserve.client.aio.locks import AsyncLimiter


class AsyncKvserveStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport):
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
        count = await self._keys.delete_prefix("")
        await self._keys.clear()
        return count

    async def clear(self, key: str) -> None:
        """See `KvserveStorage.clear`."""
        await self._keys.delete(key)
        for rate in windows.RATES:
            await self._moving(rate, 1).reset(key)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """See `KvserveStorage.acquire_entry`."""
        return (await self._moving(limit, expiry).hit(key, amount)).allowed

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """See `KvserveStorage.get_moving_window`."""
        return windows.moving_window(await self._moving(limit, expiry).peek(key), time.time())

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """See `KvserveStorage.acquire_sliding_window_entry`."""
        return (await self._counter(limit, expiry).hit(key, amount)).allowed

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """See `KvserveStorage.get_sliding_window`."""
        return windows.sliding_window(await self._counter(1, expiry).peek(key), expiry)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """See `KvserveStorage.clear_sliding_window`."""
        await self._counter(1, expiry).reset(key)

    def _moving(self, rate: int, per: float) -> AsyncLimiter:
        return self._keys.limiter(windows.MOVING, rate, per, sliding=True)

    def _counter(self, rate: int, per: float) -> AsyncLimiter:
        return self._keys.limiter(windows.COUNTER, rate, per, sliding="counter")

"""Locks and limiters of the asyncio client, and the task that renews claims."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import ParamSpec

from kvserve.client._scopes import AsyncHolder
from kvserve.client.calls.operations import TTL
from kvserve.client.contract import AsyncCache
from kvserve.client.deadlines import within_async
from kvserve.client.recipes.claims import RENEWALS_A_TTL, Claim
from kvserve.client.recipes.driver import Driver
from kvserve.client.recipes.limiters import Hit, LimiterTerms, Sliding, Usage, as_hit
from kvserve.client.recipes.locks import LockState
from kvserve.errors import KvserveError

P = ParamSpec("P")


def driver_of(client: AsyncCache) -> Driver:
    """The driver of an asyncio client, whose methods are coroutines already."""
    return Driver(client, lambda method: method, asyncio.sleep, within_async)


def keep_in_task(claim: Claim, driver: Driver, until_ms: float) -> asyncio.Task[None]:
    """Keeps a claim of an asyncio client alive, in a task."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    wake = _waker(loop, over)
    claim.when_over(wake)
    reference = weakref.ref(claim, wake)
    keeping = _keep_async(reference, driver, over, claim.ttl_ms / 1000, until_ms)
    # In a context of its own: an acquisition's context has a deadline, which the hold outlives.
    return contextvars.Context().run(loop.create_task, keeping)


def _waker(loop: asyncio.AbstractEventLoop, over: asyncio.Future[None]) -> Callable[[object], None]:
    # A claim that outlives its loop does not keep it: the task does, as long as it waits.
    loop_reference, over_reference = weakref.ref(loop), weakref.ref(over)

    def end() -> None:
        over = over_reference()
        if over is not None and not over.done():
            over.set_result(None)

    def wake(_: object) -> None:  # in whatever thread drops the claim
        loop = loop_reference()
        if loop is not None:
            with suppress(RuntimeError):  # it was closed, and the task with it
                loop.call_soon_threadsafe(end)

    return wake


async def _keep_async(
    reference: weakref.ref[Claim],
    driver: Driver,
    over: asyncio.Future[None],
    ttl_seconds: float,
    until_ms: float,
) -> None:
    going_on = True
    while going_on:
        await asyncio.wait([over], timeout=ttl_seconds / RENEWALS_A_TTL)
        if over.done():
            return
        claim = reference()
        going_on = claim is not None and await claim.keep(driver, until_ms)
        del claim


class AsyncLock(LockState, AsyncHolder):
    """A lock between processes and tasks; made by `AsyncClient.lock`. See `Lock`; `async with`.

    Example:
        >>> async def work():
        ...     async with await kvserve.connect_async() as cache:
        ...         async with cache.lock("nightly-job", ttl=30) as lock:
        ...             return lock.held
        >>> asyncio.run(work())
        True
    """

    def __init__(
        self,
        client: AsyncCache,
        path: Sequence[str],
        name: str,
        *,
        ttl: TTL,
        timeout: float | None,
        renew: bool,
        max_hold: TTL,
    ) -> None:
        super().__init__(driver_of(client), path, name, ttl, timeout, renew, max_hold)

    def _keep(self, claim: Claim, until_ms: float) -> None:
        keep_in_task(claim, self._driver, until_ms)

    async def locked(self) -> bool:
        """See `Lock.locked`."""
        return await self._is_locked()

    async def _take(self, blocking: bool | None, timeout: float | None) -> Claim | None:
        return await self._got(blocking, timeout)

    async def _give_back(self, claim: Claim | None) -> None:
        await self._end(claim)

    async def _leave(self, claim: Claim | None, exception_type: type[BaseException] | None) -> None:
        try:
            await self._end(claim)
        except KvserveError:
            if exception_type is None:
                raise


class AsyncLimiter(LimiterTerms):
    """A rate limit that all processes share; made by `AsyncClient.limiter`. See `Limiter`.

    Example:
        >>> async def attempt():
        ...     async with await kvserve.connect_async() as cache:
        ...         return await cache.limiter("upload", rate=2, per=60).hit("Ada")
        >>> asyncio.run(attempt()).remaining
        1
    """

    def __init__(
        self,
        client: AsyncCache,
        prefix: Callable[[], Awaitable[str]],
        name: str,
        rate: int,
        per: TTL,
        sliding: Sliding,
    ) -> None:
        super().__init__(name, rate=rate, per=per, sliding=sliding)
        self._client = client
        self._operations = client._operations
        self._prefix = prefix

    async def hit(self, id: str | int, cost: int = 1) -> Hit:
        """See `Limiter.hit`."""
        operation = self._hit(self._operations, await self._prefix(), id, cost)
        return as_hit(await self._client._run(operation))

    async def peek(self, id: str | int) -> Usage:
        """See `Limiter.peek`."""
        operation = self._peek(self._operations, await self._prefix(), id)
        return self._as_usage(await self._client._run(operation))

    async def reset(self, id: str | int) -> bool:
        """See `Limiter.reset`."""
        operation = self._reset(self._operations, await self._prefix(), id)
        return bool(await self._client._run(operation))

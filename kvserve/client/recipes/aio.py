"""The asyncio halves of the recipes. What they decide is in the modules of the blocking ones."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Self

from kvserve.client.operations import TTL, Key
from kvserve.client.recipes import layout
from kvserve.client.recipes.claims import Claim
from kvserve.client.recipes.limiters import Hit, LimiterTerms, as_hit
from kvserve.client.recipes.locks import LockState
from kvserve.client.recipes.memoize import CallKeys, Memoized, with_attributes
from kvserve.client.recipes.ports import Port
from kvserve.client.recipes.single_flight import MISSING, Terms, Turn, as_read, seek, taken
from kvserve.errors import InvalidArgument, KvserveError, UnreadableValue

if TYPE_CHECKING:
    from kvserve.client.aio import AsyncClient
    from kvserve.client.recipes.aio_offer import AsyncRecipes

P = ParamSpec("P")


def port_of(client: AsyncClient) -> Port:
    """The port of an asyncio client, whose methods are coroutines already."""
    return Port(client, client._reader._ttl_ms, lambda method: method, asyncio.sleep)


class KeepingTask:
    """Keeps a claim alive, in a task."""

    def __init__(self, claim: Claim, port: Port, until_ms: float) -> None:
        self._task = asyncio.create_task(claim.keep(port, asyncio.sleep, until_ms))

    async def stop(self) -> None:
        """Ends it."""
        self._task.cancel()
        await asyncio.wait([self._task])


async def get_or_set(
    client: AsyncClient, key: Key, factory: Callable[[], Awaitable[Any] | Any], terms: Terms
) -> Any:
    """The asyncio way; see `Recipes.get_or_set`."""
    try:
        value = await client.get(key, MISSING)
    except UnreadableValue:  # to store another one mends that
        value = MISSING
    if value is not MISSING and (not terms.stale_seconds or terms.is_fresh(await client.ttl(key))):
        return value
    turn = Turn(port_of(client), client._names, key, terms)
    value = await seek(turn, value)
    if value is not MISSING:
        return value
    keeping = KeepingTask(turn.claim, turn.port, turn.keep_until_ms)
    try:
        with taken(turn):
            value = factory()
            if inspect.isawaitable(value):
                value = await value
    except BaseException as error:
        await keeping.stop()
        await turn.abandon()
        value = await turn.instead_of(error)
        if value is MISSING:
            raise
        return value
    await keeping.stop()
    await turn.complete(value)
    return as_read(value)


def memoize(
    owner: AsyncRecipes, function: Callable[P, Awaitable[Any]], keys: CallKeys, terms: Terms
) -> Memoized[P, Awaitable[Any]]:
    """The asyncio way; see `Recipes.memoize`."""
    if not inspect.iscoroutinefunction(function):
        raise InvalidArgument(
            f"{getattr(function, '__qualname__', function)} is not a coroutine function: memoize "
            "it with a blocking client, kvserve.connect()"
        )

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        key = await owner._place(keys(*args, **kwargs))
        compute = functools.partial(function, *args, **kwargs)
        return await get_or_set(owner._root, key, compute, terms)

    async def invalidate(*args: P.args, **kwargs: P.kwargs) -> bool:
        key = await owner._place(keys(*args, **kwargs))
        await owner._root.delete(layout.lease(key))
        return await owner._root.delete(key)

    return with_attributes(call, keys, invalidate)


class AsyncLock(LockState):
    """A lock between processes; made by `AsyncClient.lock`. See `Lock`; use `async with`.

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
        client: AsyncClient,
        path: Sequence[str],
        name: str,
        *,
        ttl: TTL,
        timeout: float | None,
        renew: bool,
    ) -> None:
        super().__init__(port_of(client), path, name, ttl, timeout, renew)
        self._keeping: KeepingTask | None = None

    async def acquire(self, timeout: float | None = None) -> int:
        """See `Lock.acquire`."""
        await self._acquire(timeout)
        if self._renew:
            self._keeping = KeepingTask(self._claim, self._port, math.inf)
        return self._fencing

    async def release(self) -> None:
        """See `Lock.release`."""
        self._forget()
        if self._keeping is not None:
            await self._keeping.stop()
        await self._release()

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        try:
            await self.release()
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
        client: AsyncClient,
        path: Sequence[str],
        name: str,
        rate: int,
        per: TTL,
        sliding: bool,
    ) -> None:
        super().__init__(path, name, rate=rate, per=per, sliding=sliding)
        self._client = client

    async def hit(self, id: str | int, cost: int = 1) -> Hit:
        """See `Limiter.hit`."""
        return as_hit(await self._client._run(self._operation(self._client, id, cost)))

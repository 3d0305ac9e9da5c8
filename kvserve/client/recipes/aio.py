"""The asyncio halves of the recipes. What they decide is in the modules of the blocking ones."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec

from kvserve.client._scopes import AsyncHolder, vouched_async, with_value_async
from kvserve.client.deadlines import within_async
from kvserve.client.operations import TTL, Key
from kvserve.client.recipes import layout
from kvserve.client.recipes.claims import RENEWALS_A_TTL, Claim
from kvserve.client.recipes.limiters import Hit, LimiterTerms, as_hit
from kvserve.client.recipes.locks import LockState
from kvserve.client.recipes.memoize import CallKeys, Memoized, with_attributes
from kvserve.client.recipes.ports import Port
from kvserve.client.recipes.single_flight import MISSING, Terms, Turn, as_read, seek, with_turn
from kvserve.errors import InvalidArgument, KvserveError, UnreadableValue

if TYPE_CHECKING:
    from kvserve.client.aio import AsyncClient
    from kvserve.client.recipes.aio_offer import AsyncRecipes

P = ParamSpec("P")


def port_of(client: AsyncClient) -> Port:
    """The port of an asyncio client, whose methods are coroutines already."""
    return Port(client, client._reader._ttl_ms, lambda method: method, asyncio.sleep, within_async)


def keep_in_task(claim: Claim, port: Port, until_ms: float) -> asyncio.Task[None]:
    """Keeps a claim of an asyncio client alive, in a task."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    wake = _waker(loop, over)
    claim.when_over(wake)
    reference = weakref.ref(claim, wake)
    keeping = _keep_async(reference, port, over, claim.ttl_ms / 1000, until_ms)
    # In a context of its own: that of an acquisition has a deadline, which the hold outlives.
    return contextvars.Context().run(loop.create_task, keeping)


def _waker(loop: asyncio.AbstractEventLoop, over: asyncio.Future[None]) -> Callable[[object], None]:
    def end() -> None:
        if not over.done():
            over.set_result(None)

    def wake(_: object) -> None:  # in whatever thread drops the claim
        with suppress(RuntimeError):  # the loop was closed, and the task with it
            loop.call_soon_threadsafe(end)

    return wake


async def _keep_async(
    reference: weakref.ref[Claim],
    port: Port,
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
        going_on = claim is not None and await claim.keep(port, until_ms)
        del claim


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
    try:
        keep_in_task(turn.claim, turn.port, turn.keep_until_ms)
        value = await with_value_async(*with_turn(turn), vouched_async, turn.claim, factory)
    except BaseException as error:
        await turn.abandon()
        value = await turn.instead_of(error)
        if value is MISSING:
            raise
        return value
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
        client: AsyncClient,
        path: Sequence[str],
        name: str,
        *,
        ttl: TTL,
        timeout: float | None,
        renew: bool,
        max_hold: TTL,
    ) -> None:
        super().__init__(port_of(client), path, name, ttl, timeout, renew, max_hold)

    def _keep(self, claim: Claim, until_ms: float) -> None:
        keep_in_task(claim, self._port, until_ms)

    async def _take(self, timeout: float | None) -> Claim:
        return await self._got(timeout)

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

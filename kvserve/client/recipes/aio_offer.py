"""The recipes as methods: of the asyncio client and of its namespaces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from kvserve.client.operations import TTL, Key
from kvserve.client.recipes import aio
from kvserve.client.recipes.aio import AsyncLimiter, AsyncLock
from kvserve.client.recipes.locks import LOCK_SECONDS_DEFAULT
from kvserve.client.recipes.memoize import CallKeys, Memoized, is_function
from kvserve.client.recipes.single_flight import LEASE_SECONDS_DEFAULT, checked_terms

if TYPE_CHECKING:
    from kvserve.client.aio import AsyncClient

P = ParamSpec("P")
R = TypeVar("R")


class AsyncRecipes:
    """What is built of the cache's operations; see `Recipes`."""

    @property
    def _root(self) -> AsyncClient:
        """The client that does the work."""
        return cast("AsyncClient", self)

    @property
    def _path(self) -> tuple[str, ...]:
        """The names of the namespaces around all that is made here."""
        return ()

    async def _place(self, key: Key) -> Key:
        """Where the record of a key is."""
        return key

    async def get_or_set(
        self,
        key: Key,
        factory: Callable[[], Awaitable[Any] | Any],
        ttl: TTL = None,
        *,
        stale: TTL = None,
        lease: TTL = LEASE_SECONDS_DEFAULT,
        jitter: float = 0.0,
        stale_on_error: bool = False,
    ) -> Any:
        """See `Client.get_or_set`. The factory may be a coroutine function."""
        terms = checked_terms(ttl, stale, lease, jitter, stale_on_error)
        return await aio.get_or_set(self._root, await self._place(key), factory, terms)

    @overload
    def memoize(self, function: Callable[P, Awaitable[R]], /) -> Memoized[P, Awaitable[R]]: ...

    @overload
    def memoize(
        self,
        ttl: TTL = None,
        *,
        stale: TTL = None,
        key: Callable[..., Key] | None = None,
        typed: bool = False,
        lease: TTL = LEASE_SECONDS_DEFAULT,
        jitter: float = 0.0,
        stale_on_error: bool = False,
    ) -> Callable[[Callable[P, Awaitable[R]]], Memoized[P, Awaitable[R]]]: ...

    def memoize(
        self,
        ttl: Any = None,
        *,
        stale: TTL = None,
        key: Callable[..., Key] | None = None,
        typed: bool = False,
        lease: TTL = LEASE_SECONDS_DEFAULT,
        jitter: float = 0.0,
        stale_on_error: bool = False,
    ) -> Any:
        """See `Client.memoize`. Decorates coroutine functions; `invalidate` is a coroutine."""
        function = ttl if is_function(ttl) else None
        ttl = None if function else ttl
        terms = checked_terms(ttl, stale, lease, jitter, stale_on_error)

        def decorate(function: Callable[P, Awaitable[R]]) -> Memoized[P, Awaitable[R]]:
            return aio.memoize(self, function, CallKeys(function, key, typed=typed), terms)

        return decorate if function is None else decorate(function)

    def lock(
        self,
        name: str,
        ttl: TTL = LOCK_SECONDS_DEFAULT,
        *,
        timeout: float | None = None,
        renew: bool = True,
        max_hold: TTL = None,
    ) -> AsyncLock:
        """See `Client.lock`; for `async with`. It is renewed as long as its event loop runs."""
        return AsyncLock(
            self._root,
            self._path,
            name,
            ttl=ttl,
            timeout=timeout,
            renew=renew,
            max_hold=max_hold,
        )

    def limiter(self, name: str, rate: int, per: TTL, *, sliding: bool = False) -> AsyncLimiter:
        """See `Client.limiter`; its `hit` is a coroutine."""
        return AsyncLimiter(self._root, self._path, name, rate, per, sliding)

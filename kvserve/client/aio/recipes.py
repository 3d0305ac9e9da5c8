"""The recipes as methods: of the asyncio client and of its namespaces."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, cast, overload

from kvserve.client._scopes import vouched_async, with_value_async
from kvserve.client.aio.locks import AsyncLimiter, AsyncLock, driver_of, keep_in_task
from kvserve.client.calls.operations import TTL, Key, Tags
from kvserve.client.contract import AsyncCache
from kvserve.client.recipes import key_layout
from kvserve.client.recipes.limiters import Sliding
from kvserve.client.recipes.locks import LOCK_SECONDS_DEFAULT
from kvserve.client.recipes.memoize import (
    CallKeys,
    Memoized,
    TagsOfCalls,
    is_function,
    tell_codec,
    with_attributes,
)
from kvserve.client.recipes.single_flight import (
    CLAIM_SECONDS_DEFAULT,
    MISSING,
    Flight,
    Terms,
    as_read,
    checked_terms,
    seek,
    with_flight,
)
from kvserve.client.recipes.tags import NO_TAGS, TagKeys, invalidate, marks_of, tag_keys
from kvserve.errors import InvalidArgument, ServerError, UnreadableValue

P = ParamSpec("P")
R = TypeVar("R")


class AsyncRecipes:
    """Recipes built from the cache's operations; see `Recipes`."""

    @property
    def _root(self) -> AsyncCache:
        """The client that does the work."""
        return cast("AsyncCache", self)

    @property
    def _path(self) -> tuple[str, ...]:
        """The names of the namespaces around everything that is made here."""
        return ()

    async def _prefix(self) -> str:
        """What stands before each key now."""
        return ""

    async def _full_key(self, key: Key) -> Key:
        """The key under which a key's record is stored."""
        return self._root._operations.key(key)

    def _tags_of(self, tags: Tags | None) -> TagKeys:
        """The keys of the tags' records."""
        return NO_TAGS if tags is None else tag_keys(self._path, tags)

    async def _marks(self, tags: Tags | None) -> bytes:
        """What a value with these tags begins with."""
        return (
            await marks_of(driver_of(self._root), self._tags_of(tags)) if tags is not None else b""
        )

    async def get_or_set(
        self,
        key: Key,
        factory: Callable[[], Awaitable[Any] | Any],
        ttl: TTL = None,
        *,
        stale: TTL = None,
        claim_ttl: TTL = CLAIM_SECONDS_DEFAULT,
        jitter: float = 0.0,
        stale_on_error: bool = False,
        tags: Tags | None = None,
    ) -> Any:
        """See `Client.get_or_set`. The factory may be a coroutine function."""
        own_tags = self._tags_of(tags)
        terms = checked_terms(ttl, stale, claim_ttl, jitter, stale_on_error, own_tags)
        return await get_or_set(self._root, await self._full_key(key), factory, terms)

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
        claim_ttl: TTL = CLAIM_SECONDS_DEFAULT,
        jitter: float = 0.0,
        stale_on_error: bool = False,
        tags: Tags | Callable[..., Tags] | None = None,
    ) -> Callable[[Callable[P, Awaitable[R]]], Memoized[P, Awaitable[R]]]: ...

    def memoize(
        self,
        ttl: Any = None,
        *,
        stale: TTL = None,
        key: Callable[..., Key] | None = None,
        typed: bool = False,
        claim_ttl: TTL = CLAIM_SECONDS_DEFAULT,
        jitter: float = 0.0,
        stale_on_error: bool = False,
        tags: Tags | Callable[..., Tags] | None = None,
    ) -> Any:
        """See `Client.memoize`. Decorates coroutine functions; `invalidate` is a coroutine."""
        function = ttl if is_function(ttl) else None
        ttl = None if function else ttl
        tags_of = TagsOfCalls(self._path, tags)
        terms = checked_terms(ttl, stale, claim_ttl, jitter, stale_on_error, tags_of.of_all)

        def decorate(function: Callable[P, Awaitable[R]]) -> Memoized[P, Awaitable[R]]:
            keys = CallKeys(function, key, typed=typed)
            tell_codec(self._root._operations.values, function)
            return memoize(self, function, keys, terms, tags_of)

        return decorate if function is None else decorate(function)

    async def invalidate_tag(self, tag: str) -> None:
        """See `Client.invalidate_tag`."""
        (key,) = tag_keys(self._path, [tag])
        try:
            await invalidate(driver_of(self._root), key)
        except ServerError as error:
            self._root._missed(error, [key])

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

    def limiter(self, name: str, rate: int, per: TTL, *, sliding: Sliding = False) -> AsyncLimiter:
        """See `Client.limiter`; its methods are coroutines."""
        return AsyncLimiter(self._root, self._prefix, name, rate, per, sliding)


async def get_or_set(
    client: AsyncCache, key: Key, factory: Callable[[], Awaitable[Any] | Any], terms: Terms
) -> Any:
    """The asyncio version; see `Recipes.get_or_set`."""
    try:
        value = await client.get(key, MISSING)
    except UnreadableValue:  # storing another one fixes that
        value = MISSING
    if value is not MISSING and (not terms.stale_seconds or terms.is_fresh(await client.ttl(key))):
        return value
    flight = Flight(driver_of(client), client._names, key, terms)
    try:
        value = await seek(flight, value)
        if value is MISSING:
            await flight.read_tags()
    except ServerError as error:
        client._missed(error)
        if value is MISSING:
            value = as_read(await _computed(factory), client._operations.values)
        return value
    if value is not MISSING:
        return value
    try:
        keep_in_task(flight.claim, flight.driver, flight.keep_until_ms)
        value = await with_value_async(*with_flight(flight), vouched_async, flight.claim, factory)
    except BaseException as error:
        await flight.abandon()
        value = await flight.instead_of(error)
        if value is MISSING:
            raise
        return value
    try:
        await flight.complete(value)
    except ServerError as error:
        client._missed(error, [key])
    return as_read(value, client._operations.values)


async def _computed(factory: Callable[[], Awaitable[Any] | Any]) -> Any:
    value = factory()
    return await value if inspect.isawaitable(value) else value


def memoize(
    owner: AsyncRecipes,
    function: Callable[P, Awaitable[Any]],
    keys: CallKeys,
    terms: Terms,
    tags_of: TagsOfCalls,
) -> Memoized[P, Awaitable[Any]]:
    """The asyncio version; see `Recipes.memoize`."""
    if not inspect.iscoroutinefunction(function):
        raise InvalidArgument(
            f"{getattr(function, '__qualname__', function)} is not a coroutine function: memoize "
            "it with a blocking client, kvserve.connect()"
        )

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        key = await owner._full_key(keys(*args, **kwargs))
        compute = functools.partial(function, *args, **kwargs)
        return await get_or_set(owner._root, key, compute, tags_of.in_terms(terms, args, kwargs))

    async def invalidate(*args: P.args, **kwargs: P.kwargs) -> bool:
        key = await owner._full_key(keys(*args, **kwargs))
        await owner._root.delete(key_layout.flight_key(key))
        return await owner._root.delete(key)

    return with_attributes(call, keys, invalidate)

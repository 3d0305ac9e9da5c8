"""The recipes as methods: of the blocking client and of its namespaces."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, cast, overload

from kvserve.client._scopes import vouched, with_value
from kvserve.client.blocking.locks import Limiter, Lock, keep_in_thread
from kvserve.client.calls.operations import TTL, Key, Tags
from kvserve.client.contract import Cache
from kvserve.client.recipes import key_layout
from kvserve.client.recipes.driver import Driver, run_to_end
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


class Recipes:
    """Recipes built from the cache's operations; docs/recipes.md says more about each."""

    @property
    def _root(self) -> Cache:
        """The client that does the work."""
        return cast("Cache", self)

    @property
    def _path(self) -> tuple[str, ...]:
        """The names of the namespaces around everything that is made here."""
        return ()

    def _prefix(self) -> str:
        """What stands before each key now."""
        return ""

    def _full_key(self, key: Key) -> Key:
        """The key under which a key's record is stored."""
        return self._root._operations.key(key)

    def _tags_of(self, tags: Tags | None) -> TagKeys:
        """The keys of the tags' records."""
        return NO_TAGS if tags is None else tag_keys(self._path, tags)

    def _marks(self, tags: Tags | None) -> bytes:
        """What a value with these tags begins with."""
        return (
            run_to_end(marks_of(Driver.of(self._root), self._tags_of(tags)))
            if tags is not None
            else b""
        )

    def get_or_set(
        self,
        key: Key,
        factory: Callable[[], Any],
        ttl: TTL = None,
        *,
        stale: TTL = None,
        claim_ttl: TTL = CLAIM_SECONDS_DEFAULT,
        jitter: float = 0.0,
        stale_on_error: bool = False,
        tags: Tags | None = None,
    ) -> Any:
        """The value of a key; on a miss it is computed, once for all processes, and stored.

        Other callers that miss it meanwhile wait. If the computing process dies, another takes its
        place when the claim ends; if the factory raises, the next waiting caller computes.

        Args:
            factory: computes the value; for an asyncio client it may be a coroutine function. What
                it raises is raised here.
            ttl: as for `set`.
            stale: seconds that a value is kept beyond its ttl. In that time one caller computes a
                new one, and all others get the old one at once.
            claim_ttl: seconds after which a caller that died while computing is replaced. A living
                one renews its claim, for up to 60 times as long.
            jitter: the part of the ttl, from 0 to below 1, by which it is shortened at random, so
                that values that were stored together do not expire together.
            stale_on_error: if the factory raises an Exception and the stale value is still there,
                return that, and log a warning; else the caller gets the exception.
            tags: names by which the value can be made a miss, see `invalidate_tag`. They are read
                before the factory runs.

        Returns:
            The value, as `get` returns it.

        Raises:
            MisuseError: the factory asks for the value that it should compute.
            InvalidValue, ValueTooLarge: the computed value cannot be stored.
            ServerUnavailable: on a miss, as any other call; the value is not computed. With
                `on_error="miss"` it is, each time, and not stored; a stale one is returned.

        Example:
            >>> cache.get_or_set("answer", lambda: 6 * 7, ttl=60)
            42
        """
        own_tags = self._tags_of(tags)
        terms = checked_terms(ttl, stale, claim_ttl, jitter, stale_on_error, own_tags)
        return get_or_set(self._root, self._full_key(key), factory, terms)

    @overload
    def memoize(self, function: Callable[P, R], /) -> Memoized[P, R]: ...

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
    ) -> Callable[[Callable[P, R]], Memoized[P, R]]: ...

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
        """Decorates a function: its results are kept for all processes, as by `get_or_set`.

        Without parentheses, `@cache.memoize`, the results live for the server's `default_ttl`.

        The key is made of the function's module and name and of all its arguments, which must be
        None, str, bytes, bool, int, float, datetime, date, timedelta, UUID or Enum, or a list,
        tuple, set, frozenset or dict of these. The key is the same in every process and version of
        Python. What the function captured from functions around it is part of the key too, if that
        is data, a function or a class. What else it uses, such as globals, is not. A hit is equal
        to the result that was computed, and of its type: a model, such as a dataclass, needs a
        client with `codec=kvserve.codecs.models()`, which takes the types from the annotation of
        what the function returns.

        Args:
            ttl, stale, claim_ttl, jitter, stale_on_error: see `get_or_set`.
            key: makes the key of a call from the call's arguments: for other types, and for
                methods, whose first argument is an object.
            tags: see `get_or_set`; or a function that makes them from the call's arguments, called
                when the result must be computed.
            typed: whether 1 and 1.0 are different arguments, as well as a set and a frozenset.

        Returns:
            The decorator. The decorated function also has `cache_key(...)`, the key of such a call;
            `invalidate(...)`, which forgets its result; and `__wrapped__`.

        Raises:
            InvalidArgument: a coroutine function (an asyncio client memoizes those, and only
                those), or a function whose name others may have: a lambda, a method of an object,
                one that was typed into Python; when called, an argument of another type.

        Example:
            >>> @cache.memoize(ttl=60, stale=30)
            ... def square(number):
            ...     return number * number
            >>> square(4), square.invalidate(4), square.invalidate(4)
            (16, True, False)
        """
        function = ttl if is_function(ttl) else None
        ttl = None if function else ttl
        tags_of = TagsOfCalls(self._path, tags)
        terms = checked_terms(ttl, stale, claim_ttl, jitter, stale_on_error, tags_of.of_all)

        def decorate(function: Callable[P, R]) -> Memoized[P, R]:
            keys = CallKeys(function, key, typed=typed)
            tell_codec(self._root._operations.values, function)
            return memoize(self, function, keys, terms, tags_of)

        return decorate if function is None else decorate(function)

    def invalidate_tag(self, tag: str) -> None:
        """Makes all values that were stored with a tag misses, at once, for all processes.

        It is one write, however many values there are. A value whose computation by `get_or_set` or
        `memoize` began before it is stored out of reach.

        Args:
            tag: its name. In a namespace, tags are those of the namespace.

        Raises:
            InvalidArgument: the name is empty, or there is a store behind the table, which keeps no
                tags.

        Example:
            >>> cache.set("profile:7", "Ada", tags=["user:7"]) > 0, cache.get("profile:7")
            (True, 'Ada')
            >>> cache.invalidate_tag("user:7")
            >>> cache.get("profile:7")
        """
        (key,) = tag_keys(self._path, [tag])
        try:
            run_to_end(invalidate(Driver.of(self._root), key))
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
        thread_bound: bool = True,
    ) -> Lock:
        """A lock that one thread of one process at a time holds; a context manager.

        It is free after the ttl when its holder dies, when the thread that acquired it ends, when
        the object is dropped, and when an exception, even one from a signal handler, leaves
        `acquire`, `release` or the block. It is not reentrant: the thread that holds it gets
        MisuseError; other threads wait, even with the same object. A forked child does not hold its
        parent's lock. The lock is a record of a cache: when memory is short it may be evicted,
        which its holder sees at the next renewal. So protect what must not be done twice with
        `fencing`.

        Args:
            name: the lock's; names of locks are separate from keys.
            ttl: seconds, or a timedelta, until it is over if it is not renewed.
            timeout: seconds to wait, for another holder and for the workers together, before
                LockTimeout; None: for ever, but for workers only as long as the client does.
            renew: whether to renew it every third of the ttl, as long as it is held.
            max_hold: seconds, or a timedelta, after which it is no longer renewed, so that it is
                over one ttl later at the latest, whatever its holder does; None: no bound.
            thread_bound: whether only the thread that acquired it may release it, and it is no
                longer renewed when that thread has ended. False: any thread may release it, while
                the object lives.

        Example:
            >>> with cache.lock("nightly-job", ttl=30, timeout=5) as lock:
            ...     lock.held
            True
        """
        return Lock(
            self._root,
            self._path,
            name,
            ttl=ttl,
            timeout=timeout,
            renew=renew,
            max_hold=max_hold,
            thread_bound=thread_bound,
        )

    def limiter(self, name: str, rate: int, per: TTL, *, sliding: Sliding = False) -> Limiter:
        """A limit on how often something is done, over all processes.

        A fixed window begins with the first hit, and its count is gone when it ends; so up to twice
        the rate may pass within `per`, around the end of a window. A sliding log remembers the time
        of each hit: never more than `rate` pass within any `per`, at 8 bytes a hit. A sliding
        counter keeps the counts of two windows, and takes the hits of the one before as spread
        evenly over it: 24 bytes, no more than the rate at once, and within any part x of `per` at
        most rate * (1 + x), rounded up.

        The limiters of a namespace forget all hits when that is cleared.

        Args:
            name: what is limited; names of limiters are separate from keys.
            rate: hits that are allowed within a window; for a log at most 10 000.
            per: the window's length, in seconds or as a timedelta.
            sliding: the kind of window: False: fixed; True: a log, or beyond 10 000 hits a counter;
                "log" or "counter": that one.

        Example:
            >>> if not cache.limiter("signup", rate=5, per=60).hit("192.0.2.7"):
            ...     raise SystemExit("too many attempts")
        """
        return Limiter(self._root, self._prefix, name, rate, per, sliding)


def get_or_set(client: Cache, key: Key, factory: Callable[[], Any], terms: Terms) -> Any:
    """The blocking version; see `Recipes.get_or_set`."""
    try:
        value = client.get(key, MISSING)
    except UnreadableValue:  # storing another one fixes that
        value = MISSING
    if value is not MISSING and (not terms.stale_seconds or terms.is_fresh(client.ttl(key))):
        return value
    flight = Flight(Driver.of(client), client._names, key, terms)
    try:
        value = run_to_end(seek(flight, value))
        if value is MISSING:
            run_to_end(flight.read_tags())
    except ServerError as error:
        client._missed(error)
        if value is MISSING:
            value = as_read(_checked(factory()), client._operations.values)
        return value
    if value is not MISSING:
        return value
    try:
        with suppress(RuntimeError):  # no thread can be started: one claim_ttl must do
            keep_in_thread(flight.claim, flight.driver, flight.keep_until_ms, bound=True)
        value = _checked(with_value(*with_flight(flight), vouched, flight.claim, factory))
    except BaseException as error:
        run_to_end(flight.abandon())
        value = run_to_end(flight.instead_of(error))
        if value is MISSING:
            raise
        return value
    try:
        run_to_end(flight.complete(value))
    except ServerError as error:
        client._missed(error, [key])
    return as_read(value, client._operations.values)


def _checked(value: Any) -> Any:
    """The value; raises InvalidArgument for a coroutine, which only an asyncio client can await."""
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise InvalidArgument("this factory is for an asyncio client: it makes an awaitable")
    return value


def memoize(
    owner: Recipes,
    function: Callable[P, R],
    keys: CallKeys,
    terms: Terms,
    tags_of: TagsOfCalls,
) -> Memoized[P, R]:
    """The blocking version; see `Recipes.memoize`."""
    if inspect.iscoroutinefunction(function):
        raise InvalidArgument(
            f"{function.__qualname__} is a coroutine function: memoize it with an asyncio client, "
            "kvserve.connect_async()"
        )

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        key = owner._full_key(keys(*args, **kwargs))
        compute = functools.partial(function, *args, **kwargs)
        own_terms = tags_of.in_terms(terms, args, kwargs)
        result: R = get_or_set(owner._root, key, compute, own_terms)
        return result

    def invalidate(*args: P.args, **kwargs: P.kwargs) -> bool:
        key = owner._full_key(keys(*args, **kwargs))
        owner._root.delete(key_layout.flight_key(key))
        return owner._root.delete(key)

    return with_attributes(call, keys, invalidate)

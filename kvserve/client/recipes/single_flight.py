"""get_or_set: one computation on the host for any number of concurrent callers.

A stored value lives for `ttl + stale` and is fresh while more than `stale` of that remains, so it
needs no envelope, and a plain `get` returns it.

A caller that finds no fresh value tries to claim a key beside it. The winner computes, stores, and
releases its claim; a computation that takes long renews it. The losers take the stale value if
there is one. Else they look at the table until the value or the claim has changed, which costs no
system call but the sleep. When the winner dies its claim expires, and the first caller that sees
this takes over. A caller stores only while it holds its claim: one that was stopped for longer, or
whose result was invalidated meanwhile, returns what it has computed and leaves the cache alone.

The claim is renewed while the factory runs, and not a moment longer, see `vouched`: so whatever
ends a get_or_set, the claim expires. A forked child that returns from its parent's factory neither
stores the value nor releases the parent's claim.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

from kvserve.client.calls.operations import TTL, Key, to_ttl_ms
from kvserve.client.recipes import key_layout
from kvserve.client.recipes.claims import Claim, now_ms, pauses
from kvserve.client.recipes.driver import Driver
from kvserve.client.recipes.tags import NO_TAGS, TagKeys, marks_of
from kvserve.client.recipes.waits import Waiting
from kvserve.client.values import Values
from kvserve.errors import InvalidArgument, KvserveError, MisuseError
from kvserve.names import Names

CLAIM_SECONDS_DEFAULT = 10.0
# The claim of a longer computation is no longer renewed, so that one that hangs, or waits for
# itself in a way that we cannot see, is replaced at last.
_CLAIM_TTLS_MAX = 60
MISSING = object()
_UNCHANGED = (str, bytes, int, float, bool, type(None))
_log = logging.getLogger(__name__)


class Terms(NamedTuple):
    """How long values are kept, and computations waited for; see `checked_terms`."""

    ttl: TTL
    stale_seconds: float
    claim_ttl: TTL
    jitter: float
    stale_on_error: bool = False
    tags: TagKeys | Callable[[], TagKeys] = NO_TAGS

    def life(self) -> TTL:
        """The time to live of a value that is stored now."""
        if self.ttl is None or self.ttl == math.inf:
            return self.ttl
        seconds = to_ttl_ms(self.ttl) / 1000
        return seconds * (1 - self.jitter * random.random()) + self.stale_seconds

    def is_fresh(self, left: float | None) -> bool:
        """Whether a value need not be computed yet, given the seconds that it has to live."""
        return left is not None and left > self.stale_seconds


def checked_terms(
    ttl: TTL,
    stale: TTL,
    claim_ttl: TTL,
    jitter: float,
    stale_on_error: bool = False,
    tags: TagKeys = NO_TAGS,
) -> Terms:
    """The arguments of `get_or_set`, if they make sense.

    Raises:
        InvalidTTL, InvalidArgument.
    """
    if (ttl is None or ttl == math.inf) and (stale is not None or jitter):
        raise InvalidArgument("stale and jitter are counted from the ttl: give one")
    stale_seconds = to_ttl_ms(stale) / 1000
    # Together they are the time to live of a record, which has a bound.
    to_ttl_ms(ttl if stale is None else to_ttl_ms(ttl) / 1000 + stale_seconds)
    to_ttl_ms(claim_ttl)
    if claim_ttl is None or claim_ttl == math.inf:
        raise InvalidArgument(
            f"claim_ttl = {claim_ttl}: use seconds, after which a dead one is replaced"
        )
    if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter < 1:
        raise InvalidArgument(f"jitter = {jitter!r}: use a part of the ttl, from 0 to below 1")
    if stale_on_error and stale is None:
        raise InvalidArgument("stale_on_error uses the value that `stale` keeps: give stale")
    return Terms(ttl, stale_seconds, claim_ttl, jitter, stale_on_error, tags)


class Flight:
    """The right, and the duty, to compute the value of a key.

    Args:
        driver: the client's.
        names: the client's instance.
        key: the key to compute.
        terms: how it is kept.
    """

    def __init__(self, driver: Driver, names: Names, key: Key, terms: Terms) -> None:
        self.driver = driver
        self.key = key
        self.identity = (names, key.encode() if isinstance(key, str) else key)
        self._terms = terms
        self.claim = Claim(key_layout.flight_key(key), terms.claim_ttl)
        self._marks = b""

    @property
    def is_computing(self) -> bool:
        """Whether the factory runs. A task that it started may outlive it, and keep `_flights`."""
        return self.claim.is_vouched

    @property
    def keep_until_ms(self) -> int:
        """When to stop renewing the claim of a computation that begins now."""
        return now_ms() + _CLAIM_TTLS_MAX * self.claim.ttl_ms

    async def is_fresh(self) -> bool:
        """Whether the key's value, which was just seen, need not be computed yet."""
        terms = self._terms
        return not terms.stale_seconds or terms.is_fresh(await self.driver.ttl(self.key))

    async def read_tags(self) -> None:
        """Reads the generations of the tags. Called before the factory: a value that is computed
        while one of its tags is invalidated is stored out of reach."""
        try:
            tags = self._terms.tags() if callable(self._terms.tags) else self._terms.tags
            self._marks = await marks_of(self.driver, tags)
        except BaseException:
            await self.abandon()
            raise

    async def complete(self, value: Any) -> None:
        """Stores the computed value, and ends the flight."""
        try:
            await self.driver.within(self.driver.timeout, self._complete, value)
        except BaseException:
            await self.abandon()  # the first error matters more
            raise

    async def _complete(self, value: Any) -> None:
        version = None
        if await self.claim.is_kept(self.driver):
            arguments = (self.key, value, self._terms.life())
            if self._marks:
                version = await self.driver.set_marked(self._marks, *arguments)
            else:
                version = await self.driver.set(*arguments)
        released = await self.claim.release(self.driver)
        if version is not None and not released:
            await self.driver.delete(self.key, version)  # it was invalidated in between

    async def instead_of(self, error: BaseException) -> Any:
        """The stale value in place of one that could not be computed, if allowed, else `MISSING`.

        It is read anew: one that was found before may have been deleted, or be too old, by now.
        """
        if not self._terms.stale_on_error or isinstance(error, MisuseError):
            return MISSING
        value = MISSING
        if isinstance(error, Exception):
            with suppress(KvserveError):
                value = await self.driver.get(self.key, MISSING)
        if value is not MISSING:
            _log.warning(
                "%.80r keeps its stale value: its factory failed", self.key, exc_info=error
            )
        return value

    async def abandon(self) -> None:
        """Ends the flight without a value, so that the next caller may try."""
        await self.claim.abandon(self.driver)


_flights: ContextVar[tuple[Flight, ...]] = ContextVar("kvserve_flights", default=())


def with_flight(flight: Flight) -> tuple[ContextVar[tuple[Flight, ...]], tuple[Flight, ...]]:
    """The context variable, and its value while the flight's factory runs: all flights that the
    caller computes, so that a factory that waits for itself is detected."""
    return _flights, (*(outer for outer in _flights.get() if outer.is_computing), flight)


async def seek(flight: Flight, value: Any) -> Any:
    """The value, or `MISSING` if the claim is ours and the value must be computed.

    Args:
        value: what a get has just found.

    Raises:
        MisuseError: the caller would wait for itself.
    """
    driver = flight.driver
    while value is MISSING or not await flight.is_fresh():
        if any(
            outer.identity == flight.identity and outer.is_computing for outer in _flights.get()
        ):
            if value is not MISSING:
                return value
            raise MisuseError(f"the factory of {flight.key!r} waits for the value of the same key")
        if not driver.is_seen(flight.claim.key):
            try:
                if await driver.within(driver.timeout, flight.claim.take, driver):
                    return await _look_again(flight)
            except BaseException:
                await flight.abandon()
                raise
        if value is not MISSING:
            return value
        await _wait(flight)
        value = await driver.get(flight.key, MISSING)
    return value


async def _look_again(flight: Flight) -> Any:
    """The value that another caller stored between our look and our claim, else `MISSING`."""
    value = await flight.driver.get(flight.key, MISSING)
    if value is MISSING or not await flight.is_fresh():
        return MISSING
    await flight.claim.release(flight.driver)
    return value


async def _wait(flight: Flight) -> None:
    """Waits until there is a value, or no caller computes one.

    Raises:
        MisuseError: the caller that computes it waits for a value that is computed here.
    """
    outer = [(each.key, each.claim) for each in _flights.get() if each.is_computing]
    waiting = Waiting(flight.driver, flight.key, outer)
    try:
        for pause in pauses():
            left = await flight.driver.ttl(flight.claim.key)
            if left is None or flight.driver.is_seen(flight.key):
                break
            await flight.driver.sleep(min(pause, left))
            await waiting.look(pause)
    except BaseException:
        waiting.forget()
        raise
    await waiting.end()


def as_read(value: Any, values: Values) -> Any:
    """A computed value as a hit returns it: with a datetime in UTC for instance, and unshared."""
    if type(value) in _UNCHANGED:
        return value
    return values.decode(*values.encode(value))

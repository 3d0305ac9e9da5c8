"""A claim: a key that one caller holds for a time. Flights and locks are made of it.

The value is the holder's random token, so that only the holder can renew or release the claim, and
so that it can find out whether a request without a reply took effect. When the holder dies, the
record expires. A holder that was stopped for longer than that sees it by its own clock.

A claim is renewed only while it is vouched for, see `Vouched`. The thread or task that renews it
refers to it weakly, looks before each renewal, and is woken when the claim is over. A forked child
holds none of its parent's claims: it neither renews nor releases them.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from kvserve.client import deadlines
from kvserve.client._scopes import Vouched
from kvserve.client.calls.operations import TTL, Key, to_ttl_ms
from kvserve.client.recipes.driver import Driver
from kvserve.errors import KvserveError, OutcomeUnknown, RequestTimeout, ServerError

_PAUSE_SECONDS_FIRST = 0.0005
_PAUSE_SECONDS_LAST = 0.01
_PAUSE_GROWTH = 1.5
RENEWALS_A_TTL = 3  # two may fail
_ABANDON_SECONDS = 0.2  # for a worker that answers; a caller that failed waits no longer


def now_ms() -> int:
    """The time, by the clock and in the unit of the table's expiries."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def pauses() -> Iterator[float]:
    """Seconds between looks at a key in shared memory: short at first, then easy on the CPU."""
    pause = _PAUSE_SECONDS_FIRST
    while True:
        yield pause
        pause = min(pause * _PAUSE_GROWTH, _PAUSE_SECONDS_LAST)


class Claim(Vouched):
    """A key that is ours as long as it holds our token; to be taken once.

    Args:
        key: the key to claim.
        ttl: seconds, or a timedelta, that a claim lasts unless it is renewed.
    """

    def __init__(self, key: Key, ttl: TTL) -> None:
        self.key = key
        self.ttl_ms = to_ttl_ms(ttl)
        self.fencing = 0  # of a lock
        self.waits_for: Key | None = None  # the key that its holder waits for, see `waits`
        self._token = ""
        self._until_ms = 0
        self._is_asking = False  # the request to take it may still succeed

    @property
    def is_held(self) -> bool:
        """Whether it is ours, by our own clock, without a look at the key."""
        return self.is_ours and now_ms() < self._until_ms

    @property
    def _record(self) -> Any:
        return self._token if self.waits_for is None else (self._token, self.waits_for)

    async def take(self, driver: Driver) -> bool:
        """Tries to claim the key, if it is free; returns whether it is ours.

        Whatever it raises, the caller then calls `abandon`.

        Raises:
            RequestTimeout: the time of the call was over before that was known.
        """
        self._token = f"{os.getpid()}-{secrets.token_hex(8)}"  # the pid is for people
        # Read before the table reads its clock, so that our claim never outlives the record.
        began_ms = now_ms()
        self._is_asking = True
        try:
            taken: bool = await driver.add(self.key, self._token, self.ttl_ms / 1000)
        except OutcomeUnknown:
            taken = await self._was_taken(driver)
        except KvserveError:
            self._is_asking = False  # nothing was changed
            raise
        if taken:
            self._until_ms = began_ms + self.ttl_ms
        self._is_asking = False
        return taken

    async def _was_taken(self, driver: Driver) -> bool:
        try:
            taken = await self._is_there(driver)
        except ServerError:
            if not deadlines.is_over():
                raise
            taken = False
        if not taken and deadlines.is_over():
            self._is_asking = False  # a worker refuses a request that comes too late
            raise RequestTimeout(
                f"no worker answered in time; {self.key!r} is claimed for {self.ttl_ms / 1000:g} "
                "seconds, or not at all"
            )
        return taken

    async def abandon(self, driver: Driver) -> None:
        """Gives the claim up, also one that an interrupted `take` may still get.

        It has a time limit of its own, as the call's may be over. If it fails, the ttl ends the
        claim.
        """
        if self._is_asking or self.is_held:
            with suppress(KvserveError):
                await driver.within(_ABANDON_SECONDS, self._abandon, driver)

    async def _abandon(self, driver: Driver) -> None:
        if self._is_asking:
            # No record has version 0. This changes nothing, but its reply means that the worker,
            # which keeps the order of a key's requests, has finished the one before.
            await driver.cas(self.key, self._token, 0, self.ttl_ms / 1000)
        await self.release(driver)

    async def _is_there(self, driver: Driver) -> bool:
        """Looks whether the key still holds our token."""
        return bool(token_of(await driver.get(self.key)) == self._token)

    async def is_kept(self, driver: Driver) -> bool:
        """Looks whether the key is still ours."""
        return self.is_ours and await self._is_there(driver)

    async def renew(self, driver: Driver) -> bool:
        """Makes the claim last for another ttl; returns False if it was lost."""
        began_ms = now_ms()
        while self.may_be_vouched:
            value, version = await driver.gets(self.key)
            if token_of(value) != self._token:
                self._until_ms = 0
                return False
            # A store may have given the same record another version since.
            if await driver.cas(self.key, self._record, version, self.ttl_ms / 1000):
                self._until_ms = began_ms + self.ttl_ms
                return True
        return False

    async def release(self, driver: Driver) -> bool:
        """Gives the key up; returns whether it was ours until now.

        If it is interrupted, such as by a signal handler or a cancelled task, it tries once more
        before it raises, so that others need not wait for the ttl.
        """
        self.withdraw()
        try:
            return await self._release(driver)
        except KvserveError:
            raise
        except BaseException:
            with suppress(KvserveError):
                await self._release(driver)
            raise

    async def _release(self, driver: Driver) -> bool:
        released = False
        while self.is_ours:
            value, version = await driver.gets(self.key)
            if token_of(value) != self._token:
                break
            try:
                if await driver.delete(self.key, version):
                    released = True
                    break
            except OutcomeUnknown:
                if not self.is_held or deadlines.is_over():
                    raise
                released = True  # by this request, or in the next turn
        self._until_ms = 0
        return released

    async def keep(self, driver: Driver, until_ms: float) -> bool:
        """Renews the claim if it is vouched for; returns whether to call this again.

        Args:
            until_ms: when to stop renewing in any case, on the clock of `now_ms`.
        """
        if not self.may_be_vouched or now_ms() >= until_ms:
            return False
        if not self.is_vouched:  # not yet: it was just taken
            return self.is_held
        try:
            return bool(await driver.within(self.ttl_ms / 1000, self.renew, driver))
        except ServerError:
            return True  # the next one may come in time; if not, `is_held` is False
        except KvserveError:
            return False  # the client was closed


def token_of(value: Any) -> Any:
    """The token of a claim's holder, given the key's value."""
    return value[0] if isinstance(value, (tuple, list)) and value else value

"""A lock between processes: a claim that is renewed, and a number that grows with every owner.

The fencing number is drawn while the lock is held: the clock's nanoseconds, or one more than the
last number if that is greater. So it grows even if the record of the last number was evicted, or
the clock was set back; only both at once can break it. See Martin Kleppmann, "How to do distributed
locking", 2016.

Each acquisition has a claim of its own, which becomes the object's once it is taken: so threads
that share a lock object wait for each other like threads with separate objects. Its renewal begins
before it is vouched for, and `Holder` vouches as the last step, in C: an `acquire` that is
interrupted, by whatever, leaves a claim that is not renewed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, cast

from kvserve.client.calls.operations import TTL, to_ttl_ms
from kvserve.client.recipes import key_layout
from kvserve.client.recipes.claims import Claim, now_ms, pauses
from kvserve.client.recipes.driver import Driver
from kvserve.errors import (
    InvalidArgument,
    InvalidValue,
    LimitError,
    LockLost,
    LockTimeout,
    MisuseError,
    OutcomeUnknown,
)

LOCK_SECONDS_DEFAULT = 30.0
_FOR_EVER = -1  # the timeout that threading.Lock has by default
_FENCE_SECONDS = 86_400.0  # how long a number is remembered; names used once must not pile up


class LockState:
    """What both kinds of lock do. Its coroutines wait as their driver does.

    A subclass is a `Holder` of its kind as well, whose `_hold` is the caller's claim.

    Args:
        driver: the client's.
        path: the names of the namespaces around it.
        name: the lock's name.
        ttl: seconds, or a timedelta, until it is over if it is not renewed.
        timeout: seconds to wait for it; None: for ever.
        renew: whether it is renewed, every third of the ttl.
        max_hold: seconds, or a timedelta, after which it is no longer renewed; None: never.
    """

    _waits_for_itself = False  # as threading.Lock, which another thread may release
    _hold: Any
    _has_mine: Any
    _check_new: Any
    _forget: Any

    def __init__(
        self,
        driver: Driver,
        path: Sequence[str],
        name: str,
        ttl: TTL,
        timeout: float | None,
        renew: bool,
        max_hold: TTL,
    ) -> None:
        if ttl is None or to_ttl_ms(ttl) == to_ttl_ms(math.inf):
            raise InvalidArgument(f"ttl = {ttl}: use seconds, after which a dead holder's is over")
        self._name = name
        self._driver = driver
        self._ttl = ttl
        self._timeout = _checked_timeout(timeout)
        self._renew = renew
        self._max_hold_ms = math.inf if max_hold is None else to_ttl_ms(max_hold)
        self._key = key_layout.named("lock", path, name)
        self._fence_key = key_layout.named("fence", path, name)

    @property
    def held(self) -> bool:
        """Whether this process holds the lock, by its own clock; asks no worker.

        Where threads or tasks share the object, this is about the caller's hold, if there is one.

        Example:
            >>> lock = cache.lock("held")
            >>> with lock:
            ...     lock.held
            True
            >>> lock.held
            False
        """
        claim: Claim | None = self._hold
        return claim is not None and claim.is_vouched and claim.is_held

    @property
    def fencing(self) -> int:
        """A number greater than that of all earlier owners.

        Pass it to the resource that the lock guards, and let that refuse any number smaller than
        one it has seen: no lock that can run out protects better.

        Raises:
            MisuseError: the lock was never acquired.

        Example:
            >>> with cache.lock("fenced") as first:
            ...     pass
            >>> with cache.lock("fenced") as second:
            ...     second.fencing > first.fencing
            True
        """
        claim: Claim | None = self._hold
        if claim is None:
            raise MisuseError("a lock has a fencing number once it was acquired")
        return claim.fencing

    def _keep(self, claim: Claim, until_ms: float) -> None:
        """Begins to renew it. Raises RuntimeError if that cannot be done."""
        raise NotImplementedError

    async def _is_locked(self) -> bool:
        """Whether anybody holds it."""
        left = await self._driver.ttl(self._key)  # a worker is asked where the table cannot tell
        return left is not None

    async def _got(self, blocking: bool | None, timeout: float | None) -> Claim | None:
        """Takes the lock; returns its claim, which is not vouched for yet.

        None means that another holder has it, and that `blocking` asks for an answer, no exception.
        """
        if blocking is None:
            return await self._won(timeout)
        timeout = _threading_timeout(blocking, timeout)
        if not blocking and self._has_mine:
            return None
        try:
            return await self._won(timeout, waits_for_itself=self._waits_for_itself)
        except LockTimeout:
            return None

    async def _won(self, timeout: float | None, *, waits_for_itself: bool = False) -> Claim:
        """The same; raises LockTimeout if another has it."""
        if not (waits_for_itself and self._has_mine):
            self._check_new()
        if timeout is None:
            timeout = self._timeout
        else:
            timeout = _checked_timeout(math.inf if timeout == _FOR_EVER else timeout)
        give_up_ms = math.inf if timeout is None else now_ms() + timeout * 1000
        # A single try waits for no other holder, only for the answer.
        seconds = self._driver.timeout if not timeout else min(timeout, self._driver.timeout)
        while True:
            # If another holder's claim is seen in shared memory, no worker is asked.
            if not self._driver.is_seen(self._key):
                claim = Claim(self._key, self._ttl)
                try:
                    if await self._driver.within(seconds, self._is_got, claim):
                        return claim
                except BaseException:
                    await claim.abandon(self._driver)
                    raise
            await self._wait(give_up_ms)
            seconds = min(self._driver.timeout, (give_up_ms - now_ms()) / 1000)

    async def _is_got(self, claim: Claim) -> bool:
        if not await claim.take(self._driver):
            return False
        claim.fencing = await self._draw(claim)
        if self._renew:
            self._keep_named(claim)
        # A process that was stopped in between may have drawn its number after its successor.
        return claim.is_held

    def _keep_named(self, claim: Claim) -> None:
        try:
            self._keep(claim, now_ms() + self._max_hold_ms)
        except RuntimeError as error:
            raise LimitError(
                f"nothing can renew the lock {self._name!r}: {error}. Either the process is just "
                "ending, or it has as many threads as it may, see `ulimit -u` and the cgroup's "
                "pids.max; or take the lock with renew=False and a ttl that is long enough"
            ) from error

    async def _draw(self, claim: Claim) -> int:
        while True:
            last, version = await self._driver.gets(self._fence_key, "0")
            number = max(time.time_ns(), self._parse(last) + 1)
            record = (self._fence_key, str(number))  # as text it is read without asking a worker
            try:
                if version is None:
                    drawn = await self._driver.add(*record, _FENCE_SECONDS)
                else:
                    drawn = await self._driver.cas(*record, version, _FENCE_SECONDS)
            except OutcomeUnknown:
                if not claim.is_held:
                    raise
                continue  # an unused number does no harm
            if drawn:
                return number

    def _parse(self, last: object) -> int:
        """The last number; raises InvalidValue if something else was written there."""
        if isinstance(last, str) and last.isascii() and last.isdecimal() and len(last) <= 20:
            return int(last)
        raise InvalidValue(
            f"the key {self._fence_key!r} holds {last!r:.80}, which is no fencing number of the "
            f"lock {self._name!r}: delete it, and the next number comes from the clock"
        )

    async def _wait(self, give_up_ms: float) -> None:
        """Waits until the lock is free. Looks in shared memory; no system call but the sleep."""
        for pause in pauses():
            wait = (give_up_ms - now_ms()) / 1000
            if wait <= 0:
                raise LockTimeout(f"the lock {self._name!r} was not got in time: another holds it")
            left = await self._driver.ttl(self._key)
            if left is None:
                return
            await self._driver.sleep(min(pause, left, wait))

    async def _end(self, claim: Claim | None) -> None:
        """Gives up a claim that is no longer vouched for."""
        self._forget(claim)
        mine = cast("Claim", claim)
        if not await self._driver.within(self._driver.timeout, mine.release, self._driver):
            raise LockLost(
                f"the lock {self._name!r} ran out before it was released; another one may have "
                "worked at the same time"
            )


def _checked_timeout(timeout: float | None) -> float | None:
    if timeout is None or timeout == math.inf:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidArgument(f"timeout = {timeout!r}: use seconds, or None to wait for ever")
    return float(timeout)


def _threading_timeout(blocking: bool, timeout: float | None) -> float | None:
    """The timeout of an `acquire(blocking, timeout)`, as threading.Lock understands it."""
    if not isinstance(blocking, bool):
        raise InvalidArgument(
            f"blocking = {blocking!r}: use True or False; for seconds to wait: timeout={blocking!r}"
        )
    if blocking:
        return timeout
    if timeout not in (None, _FOR_EVER, 0):
        raise InvalidArgument(f"timeout = {timeout!r} with blocking=False, which waits for nobody")
    return 0

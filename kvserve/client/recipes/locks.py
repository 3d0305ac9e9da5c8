"""A lock between processes: a claim that is renewed, and a number that grows with every owner.

The fencing number is drawn while the lock is held: the clock's nanoseconds, or one more than the
last number if that is greater. So it grows when the record of the last number was evicted, and when
the clock was set back; only both at once can break it. See Martin Kleppmann, "How to do distributed
locking", 2016.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from kvserve.client.operations import TTL, to_ttl_ms
from kvserve.client.recipes import layout
from kvserve.client.recipes.claims import Claim, KeepingThread, now_ms, pauses
from kvserve.client.recipes.ports import Port, finish
from kvserve.errors import (
    InvalidArgument,
    InvalidValue,
    KvserveError,
    LockLost,
    LockTimeout,
    MisuseError,
    OutcomeUnknown,
)

if TYPE_CHECKING:
    from kvserve.client.blocking import Client

LOCK_SECONDS_DEFAULT = 30.0
_FENCE_SECONDS = 86_400.0  # that a number is remembered; names used once shall not pile up


class LockState:
    """What both kinds of lock do. Its coroutines wait as their port does.

    Args:
        port: the client's.
        path: the names of the namespaces around it.
        name: the lock's name.
        ttl: seconds, or a timedelta, until it is over if it is not renewed.
        timeout: seconds to wait for it; None: for ever.
        renew: whether it is renewed, every third of the ttl.
    """

    def __init__(
        self,
        port: Port,
        path: Sequence[str],
        name: str,
        ttl: TTL,
        timeout: float | None,
        renew: bool,
    ) -> None:
        if ttl is None or to_ttl_ms(ttl) == to_ttl_ms(math.inf):
            raise InvalidArgument(f"ttl = {ttl}: use seconds, after which a dead holder's is over")
        self._name = name
        self._port = port
        self._timeout = _checked_timeout(timeout)
        self._renew = renew
        self._claim = Claim(layout.named("lock", path, name), ttl)
        self._fence_key = layout.named("fence", path, name)
        self._fencing = 0
        self._holder_pid: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds the lock, by its own clock; asks nobody.

        Example:
            >>> lock = cache.lock("held")
            >>> with lock:
            ...     lock.held
            True
            >>> lock.held
            False
        """
        return self._holder_pid == os.getpid() and self._claim.is_held

    @property
    def fencing(self) -> int:
        """A number greater than that of all earlier owners.

        Give it to what the lock guards, which refuses whoever comes with a smaller one than it has
        seen: no lock that can run out protects better.

        Raises:
            MisuseError: the lock was never acquired.

        Example:
            >>> with cache.lock("fenced") as first:
            ...     pass
            >>> with cache.lock("fenced") as second:
            ...     second.fencing > first.fencing
            True
        """
        if not self._fencing:
            raise MisuseError("a lock has a fencing number once it was acquired")
        return self._fencing

    async def _acquire(self, timeout: float | None) -> None:
        if self._holder_pid == os.getpid():
            raise MisuseError("this lock was acquired already; it is not reentrant")
        timeout = self._timeout if timeout is None else _checked_timeout(timeout)
        give_up_ms = math.inf if timeout is None else now_ms() + timeout * 1000
        while not await self._try_once():
            await self._wait(give_up_ms)
        self._holder_pid = os.getpid()

    async def _try_once(self) -> bool:
        if not await self._claim.take(self._port):
            return False
        try:
            self._fencing = await self._draw()
        except BaseException:
            with suppress(KvserveError):  # the ttl will do it
                await self._claim.release(self._port)
            raise
        # One that was stopped in between may have drawn its number after its successor.
        return self._claim.is_held

    async def _draw(self) -> int:
        while True:
            last, version = await self._port.gets(self._fence_key, "0")
            number = max(time.time_ns(), self._parse(last) + 1)
            record = (self._fence_key, str(number))  # as text it is read without asking a worker
            try:
                if version is None:
                    drawn = await self._port.add(*record, _FENCE_SECONDS)
                else:
                    drawn = await self._port.cas(*record, version, _FENCE_SECONDS)
            except OutcomeUnknown:
                if not self._claim.is_held:
                    raise
                continue  # a number that nobody got does no harm
            if drawn:
                return number

    def _parse(self, last: object) -> int:
        """The last number, unless somebody else has written something there."""
        if isinstance(last, str) and last.isascii() and last.isdecimal() and len(last) <= 20:
            return int(last)
        raise InvalidValue(
            f"the key {self._fence_key!r} holds {last!r:.80}, which is no fencing number of the "
            f"lock {self._name!r}: delete it, and the next number comes from the clock"
        )

    async def _wait(self, give_up_ms: float) -> None:
        """Until nobody holds it. Looks in shared memory; no system call but the sleep."""
        for pause in pauses():
            wait = (give_up_ms - now_ms()) / 1000
            if wait <= 0:
                raise LockTimeout(f"the lock {self._name!r} was not got in time: another holds it")
            left = await self._port.ttl(self._claim.key)
            if left is None:
                return
            await self._port.sleep(min(pause, left, wait))

    def _forget(self) -> None:
        """From now on nobody holds this object's lock.

        Raises:
            LockLost: it is the lock of the process that forked this one.
            MisuseError: it is nobody's.
        """
        holder_pid, self._holder_pid = self._holder_pid, None
        if holder_pid is None:
            raise MisuseError("this lock is not held: acquire it first")
        if holder_pid != os.getpid():
            raise LockLost("the lock is held by the process that forked this one, not by this one")

    async def _release(self) -> None:
        if not await self._claim.release(self._port):
            raise LockLost(
                f"the lock {self._name!r} ran out before it was released; another one may have "
                "worked at the same time"
            )


class Lock(LockState):
    """A lock between processes; made by `Client.lock`, and used by one holder at a time.

    Example:
        >>> with cache.lock("nightly-job", ttl=30) as lock:
        ...     lock.held
        True
    """

    def __init__(
        self,
        client: Client,
        path: Sequence[str],
        name: str,
        *,
        ttl: TTL,
        timeout: float | None,
        renew: bool,
    ) -> None:
        super().__init__(Port.of(client), path, name, ttl, timeout, renew)
        self._keeping: KeepingThread | None = None

    def acquire(self, timeout: float | None = None) -> int:
        """Waits for the lock and takes it.

        Args:
            timeout: seconds to wait; 0: try once; math.inf: for ever; None: as the lock was made.

        Returns:
            The fencing number.

        Raises:
            LockTimeout: another one held it all the time.
            MisuseError: this object holds it already.
            ServerError: a worker did not answer.

        Example:
            >>> lock = cache.lock("by hand")
            >>> number = lock.acquire(timeout=5)
            >>> lock.release()
        """
        finish(self._acquire(timeout))
        if self._renew:
            self._keeping = KeepingThread(self._claim, self._port, math.inf)
        return self._fencing

    def release(self) -> None:
        """Gives the lock up.

        Raises:
            LockLost: it had run out, or is a parent's.
            MisuseError: it was not acquired.
        """
        self._forget()
        if self._keeping is not None:
            self._keeping.stop()
        finish(self._release())

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        try:
            self.release()
        except KvserveError:
            if exception_type is None:  # else what went wrong in the block matters more
                raise


def _checked_timeout(timeout: float | None) -> float | None:
    if timeout is None or timeout == math.inf:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidArgument(f"timeout = {timeout!r}: use seconds, or None to wait for ever")
    return float(timeout)

"""A key that one caller holds for a time: what leases and locks are made of.

The holder's random token is the value, so that only it can renew or release the claim, and so that
it can find out what became of a request whose reply was lost. When the holder dies, the record
expires. When the holder was stopped for longer than that, its own clock tells it.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from kvserve.client.operations import TTL, Key, to_ttl_ms
from kvserve.client.recipes.ports import Method, Port, at_once, finish
from kvserve.errors import KvserveError, OutcomeUnknown, ServerError

_PAUSE_SECONDS_FIRST = 0.0005
_PAUSE_SECONDS_LAST = 0.01
_PAUSE_GROWTH = 1.5
_RENEWALS_A_TTL = 3  # two may fail


def now_ms() -> int:
    """The clock and the unit of the table's expiries."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def pauses() -> Iterator[float]:
    """Seconds between looks at a key in shared memory: short at first, then easy on the CPU."""
    pause = _PAUSE_SECONDS_FIRST
    while True:
        yield pause
        pause = min(pause * _PAUSE_GROWTH, _PAUSE_SECONDS_LAST)


class Claim:
    """A key that is ours as long as it holds our token.

    Args:
        key: where.
        ttl: seconds, or a timedelta, that a claim lasts unless it is renewed.
    """

    def __init__(self, key: Key, ttl: TTL) -> None:
        self.key = key
        self.ttl_ms = to_ttl_ms(ttl)
        self._token = ""
        self._until_ms = 0

    @property
    def is_held(self) -> bool:
        """Whether it is ours, as far as one can know without looking."""
        return now_ms() < self._until_ms

    async def take(self, port: Port) -> bool:
        """Claims the key if nobody holds it; returns whether it is ours."""
        self._token = f"{os.getpid()}-{secrets.token_hex(8)}"  # the pid is for who looks at it
        # A moment before the table's, so that our claim never outlives the record.
        began_ms = now_ms()
        try:
            taken: bool = await port.add(self.key, self._token, self.ttl_ms / 1000)
        except OutcomeUnknown:
            taken = await self.is_ours(port)
        except BaseException:
            await self._undo(port)
            raise
        if taken:
            self._until_ms = began_ms + self.ttl_ms
        return taken

    async def _undo(self, port: Port) -> None:
        """Gives up what a request that was interrupted, as by a cancelled task, may still claim."""
        with suppress(KvserveError):  # else the ttl will do it
            # No record has version 0. This changes nothing, but its reply means that the worker,
            # which keeps the order of a key's requests, has come past the one before.
            await port.cas(self.key, self._token, 0, self.ttl_ms / 1000)
            await self.release(port)

    async def is_ours(self, port: Port) -> bool:
        """Looks whether the key still holds our token."""
        return bool(await port.get(self.key) == self._token)

    async def renew(self, port: Port) -> bool:
        """Makes the claim last for another ttl; returns False if it was lost."""
        began_ms = now_ms()
        while True:
            value, version = await port.gets(self.key)
            if value != self._token:
                self._until_ms = 0
                return False
            # A store may have given the same record another version since.
            if await port.cas(self.key, self._token, version, self.ttl_ms / 1000):
                self._until_ms = began_ms + self.ttl_ms
                return True

    async def release(self, port: Port) -> bool:
        """Gives the key up; returns whether it was ours until now."""
        released = False
        while True:
            value, version = await port.gets(self.key)
            if value != self._token:
                break
            try:
                if await port.delete(self.key, version):
                    released = True
                    break
            except OutcomeUnknown:
                if not self.is_held:
                    raise
                released = True  # by then, or by the next turn
        self._until_ms = 0
        return released

    async def keep(self, port: Port, pause: Method, until_ms: float) -> None:
        """Renews the claim again and again.

        Args:
            pause: sleeps for some seconds; true when it is time to end.
            until_ms: when to stop renewing in any case, on the clock of `now_ms`.
        """
        while not await pause(self.ttl_ms / 1000 / _RENEWALS_A_TTL):
            if now_ms() >= until_ms:
                return
            try:
                if not await self.renew(port):
                    return
            except ServerError:
                continue  # the next one may come in time; if not, `is_held` tells
            except KvserveError:
                return  # the client was closed


class KeepingThread:
    """Keeps a claim of a blocking client alive, in a daemon thread."""

    def __init__(self, claim: Claim, port: Port, until_ms: float) -> None:
        self._done = threading.Event()
        self._pid = os.getpid()
        keeping = (claim, port, at_once(self._done.wait), until_ms)
        self._thread = threading.Thread(target=_keep, args=keeping, name="kvserve", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it. In a forked child there is nothing to end."""
        if self._pid == os.getpid():
            self._done.set()
            self._thread.join()


def _keep(claim: Claim, *arguments: Any) -> None:
    finish(claim.keep(*arguments))

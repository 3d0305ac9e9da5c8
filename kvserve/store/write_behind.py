"""Write-behind: writes are acknowledged at once and reach the store some time later, together.

If the worker is killed, acknowledged writes that are not in the store yet are lost: the interval is
the window for that. A write that waits here is the current value of its key, even if the table has
evicted it. A key that is written again while it waits is saved once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from kvserve import limits
from kvserve.errors import KvserveError, StoreUnavailable
from kvserve.store.base import Key, Record
from kvserve.store.guard import GuardedStore
from kvserve.store.window import key_bytes, record_bytes

_log = logging.getLogger(__name__)
KEYS_MAX = 65_536  # waiting; beyond that a writing call waits for the store
_SAVED_AT_ONCE = 512
_SAVED_BYTES = 4 * limits.MIB  # of one call; they are copied for the store
_RETRY_SECONDS = 0.5


class WriteBehind:
    """The writes of one worker that are not in the store yet.

    Args:
        store: the store that they go to.
        loop: the worker's.
        seconds: how long the first of them waits.
        bytes_max: the most bytes that may wait. May be changed at any time.
    """

    def __init__(
        self,
        store: GuardedStore,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        bytes_max: int = 64 * limits.MIB,
    ) -> None:
        self._store = store
        self._loop = loop
        self._seconds = seconds
        self._waiting: dict[bytes, tuple[Key, Record | None]] = {}  # None: to be deleted
        self._leaving: dict[bytes, tuple[Key, Record | None]] = {}  # being sent now
        self._bytes = 0  # of both: writes being sent are still held
        self.bytes_max = bytes_max
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[bool] | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._leaving)

    @property
    def held_bytes(self) -> int:
        """The memory of the writes that wait or are being sent."""
        return self._bytes

    def find(self, key: bytes) -> tuple[bool, Record | None]:
        """Whether a write of this key waits, and its record; None: it is a delete."""
        found = self._waiting.get(key) or self._leaving.get(key)
        return found is not None, found[1] if found else None

    async def put(self, raw_key: bytes, key: Key, record: Record | None) -> None:
        """Takes a write, `None` for a delete; waits only if too many writes wait already.

        Raises:
            StoreUnavailable: too many writes wait, and the store does not take them.
        """
        while self._is_full:
            await self._make_room()
        self._forget(raw_key)
        self._waiting[raw_key] = key, record
        self._bytes += _size_bytes(key, record)
        if self._timer is None and self._sending is None:
            self._timer = self._loop.call_later(self._seconds, self._send)

    async def _make_room(self) -> None:
        if not await self._sent() and self._is_full:
            raise StoreUnavailable("too many writes wait for the store, which does not take them")

    @property
    def _is_full(self) -> bool:
        return len(self) >= KEYS_MAX or self._bytes >= self.bytes_max

    def _forget(self, raw_key: bytes) -> None:
        if (former := self._waiting.pop(raw_key, None)) is not None:
            self._bytes -= _size_bytes(*former)

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sending is None:
            self._sending = self._loop.create_task(self._send_all())

    async def _send_all(self) -> bool:
        """Sends the writes that wait now, not later ones; returns whether the store took them all.

        All are tried, even if some fail: a node that is down must not delay the writes for others.
        """
        failure: KvserveError | None = None
        try:
            names = deque(self._waiting)
            while names:
                failure = await self._send_some(names) or failure
            if failure is not None:
                _log.warning("%d writes wait for the store: %s", len(self), failure)
            return failure is None
        finally:
            self._sending = None
            if self._waiting and self._timer is None:
                pause = self._seconds if failure is None else _RETRY_SECONDS
                self._timer = self._loop.call_later(pause, self._send)

    async def _send_some(self, names: deque[bytes]) -> KvserveError | None:
        """Sends the first of these writes; those that fail wait again. Returns an error of one."""
        left_bytes = _SAVED_BYTES
        while names and left_bytes > 0 and len(self._leaving) < _SAVED_AT_ONCE:
            raw_key = names.popleft()
            if raw_key in self._waiting:  # else it was sent meanwhile
                self._leaving[raw_key] = self._waiting.pop(raw_key)
                left_bytes -= _size_bytes(*self._leaving[raw_key])
        failed = dict(self._leaving)
        failure = None
        try:
            saved = {
                raw_key: each for raw_key, (_, each) in self._leaving.items() if each is not None
            }
            deleted = {
                raw_key: key for raw_key, (key, record) in self._leaving.items() if record is None
            }
            outcomes = dict(
                zip(saved, await self._store.save_each(list(saved.values())), strict=True)
            )
            gone = await self._store.delete_each(list(deleted.values()))
            outcomes |= zip(deleted, gone, strict=True)
            for raw_key, error in outcomes.items():
                if error is None:
                    del failed[raw_key]
                failure = error or failure
            return failure
        finally:
            # Failed writes wait again, unless a newer one of the key came; one may be saved twice.
            for raw_key, write in failed.items():
                if raw_key not in self._waiting:
                    self._waiting[raw_key] = write
                    self._bytes += _size_bytes(*write)
            self._bytes -= sum(_size_bytes(*write) for write in self._leaving.values())
            self._leaving = {}

    async def flush(self, raw_key: bytes | None = None) -> None:
        """Sends all writes now, or until this key's write is out; what the store does not take
        stays, and the log says so."""
        while len(self) if raw_key is None else self.find(raw_key)[0]:
            if not await self._sent():
                return

    async def _sent(self) -> bool:
        """Sends the waiting writes now; returns whether the store took them all."""
        self._send()
        assert self._sending is not None
        return await asyncio.shield(self._sending)


def _size_bytes(key: Key, record: Record | None) -> int:
    return key_bytes(key) if record is None else record_bytes(record)

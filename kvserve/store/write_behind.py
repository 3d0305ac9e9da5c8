"""Write-behind: writes are acknowledged at once and reach the store some time later, together.

What was acknowledged and is not in the store yet is lost when the worker is killed: that is the
bargain, and its window is the interval. Until then what waits here is the truth of its key, also
where the table has evicted it. A key that is written again while it waits is saved once.
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
KEYS_MAX = 65_536  # that wait; then whoever writes waits for the store
_SAVED_AT_ONCE = 512
_SAVED_BYTES = 4 * limits.MIB  # each of them is copied for the store
_RETRY_SECONDS = 0.5


class WriteBehind:
    """The writes of one worker that the store has not got yet.

    Args:
        store: where they go.
        loop: the worker's.
        seconds: how long the first of them waits.
        bytes_max: what may wait. May be changed at any time.
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
        self._leaving: dict[bytes, tuple[Key, Record | None]] = {}  # on their way just now
        self._bytes = 0  # of both: what is on its way is still held
        self.bytes_max = bytes_max
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[bool] | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._leaving)

    @property
    def held_bytes(self) -> int:
        """The memory of what waits, and of what is on its way."""
        return self._bytes

    def find(self, key: bytes) -> tuple[bool, Record | None]:
        """Whether a write of this key waits, and what it wrote; None: it was deleted."""
        found = self._waiting.get(key) or self._leaving.get(key)
        return found is not None, found[1] if found else None

    async def put(self, name: bytes, key: Key, record: Record | None) -> None:
        """Takes a write, `None` for a delete; waits only where too much waits already.

        Raises:
            StoreUnavailable: too much waits, and the store does not take it.
        """
        while self._is_full:
            await self._make_room()
        self._forget(name)
        self._waiting[name] = key, record
        self._bytes += _size_bytes(key, record)
        if self._timer is None and self._sending is None:
            self._timer = self._loop.call_later(self._seconds, self._send)

    async def _make_room(self) -> None:
        if not await self._sent() and self._is_full:
            raise StoreUnavailable("too many writes wait for the store, which does not take them")

    @property
    def _is_full(self) -> bool:
        return len(self) >= KEYS_MAX or self._bytes >= self.bytes_max

    def _forget(self, name: bytes) -> None:
        if (former := self._waiting.pop(name, None)) is not None:
            self._bytes -= _size_bytes(*former)

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sending is None:
            self._sending = self._loop.create_task(self._send_all())

    async def _send_all(self) -> bool:
        """Sends what waits now, and not what comes meanwhile; whether the store took all of it.

        All are tried, though some fail: those of a node that is away must not keep the others
        waiting.
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
        """Sends the first of these writes; those that fail wait again. Returns why one did."""
        left_bytes = _SAVED_BYTES
        while names and left_bytes > 0 and len(self._leaving) < _SAVED_AT_ONCE:
            name = names.popleft()
            if name in self._waiting:  # and was not sent, or written anew and sent, meanwhile
                self._leaving[name] = self._waiting.pop(name)
                left_bytes -= _size_bytes(*self._leaving[name])
        failed = dict(self._leaving)
        failure = None
        try:
            saved = {name: each for name, (_, each) in self._leaving.items() if each is not None}
            deleted = {name: key for name, (key, record) in self._leaving.items() if record is None}
            outcomes = dict(
                zip(saved, await self._store.save_each(list(saved.values())), strict=True)
            )
            gone = await self._store.delete_each(list(deleted.values()))
            outcomes |= zip(deleted, gone, strict=True)
            for name, error in outcomes.items():
                if error is None:
                    del failed[name]
                failure = error or failure
            return failure
        finally:
            # Again, unless the key was written anew meanwhile; a write may be done twice.
            for name, write in failed.items():
                if name not in self._waiting:
                    self._waiting[name] = write
                    self._bytes += _size_bytes(*write)
            self._bytes -= sum(_size_bytes(*write) for write in self._leaving.values())
            self._leaving = {}

    async def flush(self, name: bytes | None = None) -> None:
        """Sends everything out now, or until this key's write is out; what the store does not take
        stays, and the log says so."""
        while len(self) if name is None else self.find(name)[0]:
            if not await self._sent():
                return

    async def _sent(self) -> bool:
        """Whether the store took what waited; sends it now."""
        self._send()
        assert self._sending is not None
        return await asyncio.shield(self._sending)


def _size_bytes(key: Key, record: Record | None) -> int:
    return key_bytes(key) if record is None else record_bytes(record)

"""What a client could not tell its server: the keys whose stored values may be wrong. No I/O.

A delete or an overwrite that was lost leaves the old value in the table, and the client would go on
reading it. So the key is remembered, and is missing for this client, until the server has deleted
it. The memory is bounded: beyond that, and after a lost flush, everything is missing until the
server has flushed everything.

Each loss has a number, so that a key that is lost again while the server is being told of it stays
remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import TIMEOUT_MAX, Lock
from typing import NamedTuple

from kvserve.client.calls.operations import Key
from kvserve.descriptors import LockGuard

LOST_KEYS_MAX = 10_000  # about a megabyte, and a few frames to tell


class Lost(NamedTuple):
    """What `on_error="miss"` made of errors so far; see `Client.lost`.

    Args:
        reads: how many reads were answered as misses.
        writes: how many writes were lost; a batch counts as one.
        keys: how many keys are missing for this client until the server has been told.
        everything: whether all keys are.
        error: what the server's last error said, None while it answers.

    Example:
        >>> kvserve.connect().lost.writes
        0
    """

    reads: int = 0
    writes: int = 0
    keys: int = 0
    everything: bool = False
    error: str | None = None


class Told(NamedTuple):
    """What to tell the server: the keys to delete, each with the number of its last loss; or, in
    their place, to flush everything, up to the loss of this number."""

    keys: dict[bytes, int]
    flush: int


class LostKeys:
    """The keys that are missing here. Any number of threads may use it.

    Args:
        keys_max: how many are remembered one by one.
        on_change: told, before anybody else changes them, whether any is missing.

    Example:
        >>> lost = LostKeys()
        >>> lost.add(["user:1"])
        >>> lost.has("user:1"), lost.has(b"user:1"), lost.has("user:2")
        (True, True, False)
        >>> lost.forget(lost.to_tell())
        True
        >>> lost.has("user:1")
        False
    """

    def __init__(
        self,
        keys_max: int = LOST_KEYS_MAX,
        on_change: Callable[[bool], object] = bool,
    ) -> None:
        self._keys_max = keys_max
        self._on_change = on_change
        self._keys: dict[bytes, int] = {}
        self._number = 0
        self._flush = 0  # the number of the last loss that made everything missing; 0: none
        self._changing = Lock()

    def __len__(self) -> int:
        return len(self._keys)

    def __bool__(self) -> bool:
        return bool(self._flush or self._keys)

    @property
    def is_everything(self) -> bool:
        """Whether every key is missing."""
        return self._flush > 0

    def has(self, key: Key) -> bool:
        """Whether a key is missing."""
        if self._flush:
            return True
        return bool(self._keys) and _raw(key) in self._keys

    def add(self, keys: list[Key]) -> None:
        """Remembers keys."""
        if not keys:
            return
        with LockGuard(self._changing, TIMEOUT_MAX):
            self._number += 1
            if self._flush:
                self._flush = self._number
                return
            for key in keys:
                self._keys[_raw(key)] = self._number
            if len(self._keys) > self._keys_max:
                self._lose_everything()
            self._on_change(True)

    def add_everything(self) -> None:
        """Remembers that everything is missing."""
        with LockGuard(self._changing, TIMEOUT_MAX):
            self._number += 1
            self._lose_everything()
            self._on_change(True)

    def _lose_everything(self) -> None:
        self._flush = self._number
        self._keys = {}

    def to_tell(self) -> Told:
        """What to tell the server; then `forget` that."""
        with LockGuard(self._changing, TIMEOUT_MAX):
            return Told(dict(self._keys), self._flush)

    def forget(self, told: Told) -> bool:
        """Forgets what the server was told; returns whether nothing is left to tell."""
        with LockGuard(self._changing, TIMEOUT_MAX):
            if told.flush:
                if self._flush == told.flush:
                    self._flush = 0
            else:
                for key, number in told.keys.items():
                    if self._keys.get(key) == number:
                        del self._keys[key]
            self._on_change(bool(self))
            return not self

    def renew_lock(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._changing = Lock()


def _raw(key: Key) -> bytes:
    return key.encode() if isinstance(key, str) else bytes(key)

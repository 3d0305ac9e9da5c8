"""Remembers keys that the store does not have, so that it is not asked again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from kvserve import limits

KEYS_MAX = 65_536
BYTES_MAX = 16 * limits.MIB


class NegativeCache:
    """The keys that one worker knows to be missing; the oldest is forgotten first.

    Args:
        seconds: how long a key counts as missing; 0: not at all. May be changed at any time.
        clock: monotonic seconds.
        bytes_max: the most memory for these keys. May be changed at any time.

    Example:
        >>> negative_cache = NegativeCache(1.0, lambda: 0.0)
        >>> negative_cache.note(b"nobody")
        >>> b"nobody" in negative_cache, b"somebody" in negative_cache
        (True, False)
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float], bytes_max: int = BYTES_MAX
    ) -> None:
        self.seconds = seconds
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self._bytes = 0
        self.bytes_max = bytes_max
        self.hits = 0

    def __contains__(self, key: bytes) -> bool:
        until = self._until.get(key)
        if until is None:
            return False
        if self._clock() >= until:
            self.forget(key)
            return False
        self.hits += 1
        return True

    @property
    def held_bytes(self) -> int:
        """The memory of the keys held."""
        return self._bytes

    def note(self, key: bytes) -> None:
        """Notes a key that the store has just reported missing."""
        if self.seconds <= 0:
            return
        self.forget(key)
        self._until[key] = self._clock() + self.seconds
        self._bytes += _size_bytes(key)
        while len(self._until) > KEYS_MAX or self._bytes > self.bytes_max:
            self._bytes -= _size_bytes(self._until.popitem(last=False)[0])

    def forget(self, key: bytes) -> None:
        """Drops a key that may have been stored."""
        if self._until.pop(key, None) is not None:
            self._bytes -= _size_bytes(key)

    def clear(self) -> None:
        """Drops all keys: any of them may have been stored."""
        self._until.clear()
        self._bytes = 0


def _size_bytes(key: bytes) -> int:
    return limits.ENTRY_OVERHEAD_BYTES + len(key)

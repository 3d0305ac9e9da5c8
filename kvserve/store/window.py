"""Bounds the bytes that are on their way to a store, or from it, at the same time.

What is sent is copied: into a transaction, into a socket's buffer. The size of a load is unknown
until it has arrived. So a part of the waiting items is sent, and the rest when that was answered.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from kvserve import limits
from kvserve.store.base import Record

_PARTS_SHARE = 3


class Window:
    """The room for one kind of call, shared by all parts of the store.

    A part may take three times what is free, so that a single part gets three quarters of the room,
    and a part that does not answer leaves some to the others (Choudhury, Hahne, "Dynamic queue
    length thresholds for shared-memory packet switches", 1998).

    Args:
        bytes_max: the whole room. May be changed at any time.
        size_of: returns the approximate bytes of an item.

    Example:
        >>> window = Window(100, len)
        >>> window.take("node", 60), window.take("node", 30), window.take("other", 30)
        (True, False, True)
    """

    def __init__(self, bytes_max: int, size_of: Callable[[Any], int]) -> None:
        self.bytes_max = bytes_max
        self.size_of = size_of
        self.taken_bytes = 0
        self._taken_by: dict[Hashable, int] = {}

    def take(self, part: Hashable, size_bytes: int) -> bool:
        """Takes room for an item if there is enough; returns whether it did. The first item of a
        part always may be sent."""
        own_bytes = self._taken_by.get(part, 0)
        free_bytes = self.bytes_max - self.taken_bytes - size_bytes
        if own_bytes and own_bytes + size_bytes > _PARTS_SHARE * free_bytes:
            return False
        self._taken_by[part] = own_bytes + size_bytes
        self.taken_bytes += size_bytes
        return True

    def give_back(self, part: Hashable, size_bytes: int) -> None:
        """Gives room back that a part had taken."""
        self.taken_bytes -= size_bytes
        left_bytes = self._taken_by[part] - size_bytes
        if left_bytes:
            self._taken_by[part] = left_bytes
        else:
            del self._taken_by[part]


class LoadSizes:
    """Estimates the bytes of the next load by the largest of the recent ones.

    The estimate begins at the largest possible value and rises at once with a large load. Each call
    that brings less halves it, down to a share of the largest value, because small loads say
    nothing about the next.

    Args:
        value_bytes_max: the size of the largest value.

    Example:
        >>> sizes = LoadSizes(1024)
        >>> sizes.learn([None]), sizes.expected_bytes
        (None, 512)
    """

    def __init__(self, value_bytes_max: int) -> None:
        self.expected_bytes = value_bytes_max
        self._least_bytes = max(1, value_bytes_max // limits.LOAD_SHARE)

    def size_of(self, _key: Any) -> int:
        """The expected bytes of the load of a key."""
        return self.expected_bytes

    def learn(self, records: Sequence[Record | None]) -> None:
        """Adapts the estimate to what a call brought."""
        largest = max((len(record.payload) for record in records if record), default=0)
        self.expected_bytes = max(largest, self.expected_bytes // 2, self._least_bytes)


def record_bytes(record: Record | None) -> int:
    """The approximate memory of a record that waits; None is a delete."""
    if record is None:
        return limits.WRITE_OVERHEAD_BYTES
    return limits.WRITE_OVERHEAD_BYTES + len(record.key) + len(record.payload)


def key_bytes(key: str | bytes) -> int:
    """The approximate memory of a key that waits."""
    return limits.WRITE_OVERHEAD_BYTES + len(key)

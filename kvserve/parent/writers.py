"""The trusted writers, as the parent sees them: other people's processes, that may die at any time.

They are no children, so nothing tells of a death but the record lock on their slot. Nobody needs
the parent to go on: whoever meets a dead writer's lock takes it, and whoever takes its slot tells
of the gap in its ring. It is for the shard that nobody comes to, and the slot that nobody takes.
"""

from __future__ import annotations

import contextlib
import mmap

from kvserve.errors import ForeignObject
from kvserve.limits import LEASE_SLOT_WRITER_FIRST
from kvserve.table._core import mark_gap, ring_is_open
from kvserve.table.table import Table


class TrustedWriters:
    """The slots that trusted writers may have.

    Args:
        table: the parent's.
        count: how many they are.
        feed: where they tell of their changes, writable; None: nowhere.
        first_ring: that of the first of them.
    """

    def __init__(self, table: Table, count: int, feed: mmap.mmap | None, first_ring: int) -> None:
        self._table = table
        self._slots = range(LEASE_SLOT_WRITER_FIRST, LEASE_SLOT_WRITER_FIRST + count)
        self._feed = feed
        self._first_ring = first_ring

    def tend(self) -> int:
        """Frees the locks of the dead, and tells their watchers; returns how many locks."""
        freed = self._table.recover()
        if self._feed is not None:
            for index, slot in enumerate(self._slots):
                if ring_is_open(self._feed, self._first_ring + index):
                    self._tell_of_death(self._feed, self._first_ring + index, slot)
        return freed

    def _tell_of_death(self, feed: mmap.mmap, ring: int, slot: int) -> None:
        lease = self._table.lease
        if lease.take_too(slot):  # else its producer lives
            try:
                with contextlib.suppress(ForeignObject):  # damaged: its watchers are told that
                    mark_gap(feed, ring)
            finally:
                lease.give_back(slot)

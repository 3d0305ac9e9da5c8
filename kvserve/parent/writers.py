"""The trusted writers, as the parent sees them: unrelated processes that may die at any time.

They are no children, so only the record lock on a writer's slot shows its death. No process needs
the parent to go on: one that meets a dead writer's lock takes it, and one that takes its slot
reports the gap in its ring. This sweep covers shards and slots that no live process touches.
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
        feed: where they report their changes, writable; None if there is no feed.
        first_ring: the ring of the first writer.
    """

    def __init__(self, table: Table, count: int, feed: mmap.mmap | None, first_ring: int) -> None:
        self._table = table
        self._slots = range(LEASE_SLOT_WRITER_FIRST, LEASE_SLOT_WRITER_FIRST + count)
        self._feed = feed
        self._first_ring = first_ring

    def reap_writers(self) -> int:
        """Frees dead writers' locks, and marks gaps in their rings; returns how many locks."""
        freed = self._table.recover()
        if self._feed is not None:
            for index, slot in enumerate(self._slots):
                if ring_is_open(self._feed, self._first_ring + index):
                    self._tell_of_death(self._feed, self._first_ring + index, slot)
        return freed

    def _tell_of_death(self, feed: mmap.mmap, ring: int, slot: int) -> None:
        lease = self._table.lease
        if lease.take_too(slot):  # else its writer lives
            try:
                with contextlib.suppress(ForeignObject):  # damaged: its watchers notice that
                    mark_gap(feed, ring)
            finally:
                lease.give_back(slot)

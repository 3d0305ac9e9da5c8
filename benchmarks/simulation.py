"""S3-FIFO as its authors' simulator has it: the reference for our hit ratio. Objects count 1 each.

A new object goes to S, a tenth of the capacity; at S's end what was hit twice moves to M, the rest
leaves and is remembered in a ghost queue nearly as long as M. An object found in the ghost queue
goes to M at once. At M's end what was hit since goes round again, with one hit less.
Source: Yang and others, FIFO queues are all you need for cache eviction, SOSP'23. On the trace in
data/ it gives the miss ratios that data/README.md cites, to the last digit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

_SMALL_SHARE = 0.1
_GHOST_SHARE = 0.9
_HITS_TO_MOVE = 2
_HITS_MAX = 3


class S3Fifo:
    """A cache of so many objects; `ask` says whether it hit, and puts in what was missing."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._main_size = capacity - int(capacity * _SMALL_SHARE)
        self._ghost_size = int(capacity * _GHOST_SHARE)
        # Each maps an object to its hits, oldest first.
        self._small: OrderedDict[Hashable, int] = OrderedDict()
        self._main: OrderedDict[Hashable, int] = OrderedDict()
        self._ghost: OrderedDict[Hashable, None] = OrderedDict()

    def ask(self, key: Hashable) -> bool:
        """A read, followed by a set where it missed."""
        if self._touch(key):
            return True
        self._insert(key)
        return False

    def put(self, key: Hashable) -> None:
        """A set: of an object that is there, it counts as a use."""
        if not self._touch(key):
            self._insert(key)

    def _touch(self, key: Hashable) -> bool:
        for queue in (self._small, self._main):
            if key in queue:
                queue[key] += 1
                return True
        return False

    def _insert(self, key: Hashable) -> None:
        is_ghost = key in self._ghost
        if is_ghost:
            del self._ghost[key]
        while len(self._small) + len(self._main) >= self._capacity:
            self._evict()
        (self._main if is_ghost else self._small)[key] = 0

    def _evict(self) -> None:
        if len(self._main) > self._main_size or not self._small:
            self._evict_main()
        else:
            self._evict_small()

    def _evict_small(self) -> None:
        while self._small:
            key, hits = self._small.popitem(last=False)
            if hits < _HITS_TO_MOVE:
                self._ghost[key] = None
                if len(self._ghost) > self._ghost_size:
                    self._ghost.popitem(last=False)
                return
            self._main[key] = 0

    def _evict_main(self) -> None:
        while self._main:
            key, hits = self._main.popitem(last=False)
            if hits == 0:
                return
            self._main[key] = min(hits, _HITS_MAX) - 1

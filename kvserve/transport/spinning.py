"""Adaptive spinning: looks again and again for a little while before it sleeps.

Waking a process on another core costs some 50 us on a virtual machine, a look 1 us. So a process
that expects an answer soon looks until it comes; this halves a round trip. It must not cost other
processes their core: if a look takes long, another process has run meanwhile, and wants the core;
and after several spins in vain, it stops spinning for a while. That is the adaptive spinning of
mutexes, as in glibc: PTHREAD_MUTEX_ADAPTIVE_NP judges by what happened last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
_clock = time.perf_counter_ns
_give_way = os.sched_yield
_VAIN_MAX = 4  # so many in a row, then the next waits sleep at once
_REST_WAITS = 64
_DISTURBED_NS = 30_000  # a look and a yield take 1 us if no other process wants the core


class Spin:
    """One waiter's patience.

    Args:
        microseconds: how long it looks at most; 0: it never does. May be changed at any time.
    """

    __slots__ = ("_rest", "_vain", "microseconds")

    def __init__(self, microseconds: int) -> None:
        self.microseconds = microseconds
        self._vain = 0  # in a row
        self._rest = 0  # waits to sleep through

    def until(self, look: Callable[[], Found]) -> Found | None:
        """Calls `look` until it finds something; None if patience ends before.

        It yields before each look: if the answering process shares our core, a look that did not
        let it run is in vain, and one that did finds its answer at once.
        """
        if self._rest or not self.microseconds:
            self._rest = max(0, self._rest - 1)
            return None
        now = _clock()
        end = now + self.microseconds * 1000
        while now < end:
            _give_way()
            before, now = now, _clock()
            if now - before > _DISTURBED_NS:
                break
            if found := look():
                self._vain = 0
                return found
        self._vain += 1
        if self._vain >= _VAIN_MAX:
            self._vain = 0
            self._rest = _REST_WAITS
        return None

"""Adaptive spinning: looks again and again for a little while before it sleeps.

Waking a process on another core costs some 50 us on a virtual machine, a look 1 us. So a process
that expects an answer soon looks until it comes; this halves a round trip. It must not cost other
processes their core: if a look takes long, another process has run meanwhile, and wants the core;
and after several spins in vain, it stops spinning for a while. That is the adaptive spinning of
mutexes, as in glibc: PTHREAD_MUTEX_ADAPTIVE_NP judges by what happened last.

If the answer comes from another server behind the worker, it takes a few times as long, and the
processes that fetch it may need the spinning one's core. Such a spin is `for_remote`.
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
_REMOTE_SPINS = 8  # a miss over a Valkey on the same host takes 170 us, a round trip 20
_REMOTE_DISTURBED_NS = 60_000  # the processes that fetch the answer take some 40 us for a step


class Spin:
    """One waiter's patience.

    Args:
        microseconds: how long it looks at most; 0: it never does.
        for_remote: whether the answer comes from a server behind the one that is asked.
    """

    __slots__ = ("_disturbed_ns", "_end", "_rest", "_span_ns", "_vain")

    def __init__(self, microseconds: int, *, for_remote: bool = False) -> None:
        self._disturbed_ns = _REMOTE_DISTURBED_NS if for_remote else _DISTURBED_NS
        self._span_ns = microseconds * 1000 * (_REMOTE_SPINS if for_remote else 1)
        self._end = 0  # of a wait by `goes_on`, on the clock; 0: there is none
        self._vain = 0  # in a row
        self._rest = 0  # waits to sleep through

    def until(self, look: Callable[[], Found]) -> Found | None:
        """Calls `look` until it finds something; None if patience ends before.

        It yields before each look: if the answering process shares our core, a look that did not
        let it run is in vain, and one that did finds its answer at once.
        """
        if not self._may_begin():
            return None
        now = _clock()
        end = now + self._span_ns
        while now < end:
            _give_way()
            before, now = now, _clock()
            if now - before > self._disturbed_ns:
                break
            if found := look():
                self._vain = 0
                return found
        self._note_vain()
        return None

    def goes_on(self) -> bool:
        """Whether a wait should go on whose looks are made elsewhere, as by an event loop.

        It begins with the first call; `end` ends it when what it was for has come.
        """
        now = _clock()
        if not self._end:
            if not self._may_begin():
                return False
            self._end = now + self._span_ns
        if now < self._end:
            _give_way()
            return True
        self._end = 0
        self._note_vain()
        return False

    def end(self) -> None:
        """What the wait of `goes_on` was for has come."""
        if self._end:
            self._end = self._vain = 0

    def _may_begin(self) -> bool:
        if self._rest:
            self._rest -= 1
            return False
        return self._span_ns > 0

    def _note_vain(self) -> None:
        self._vain += 1
        if self._vain >= _VAIN_MAX:
            self._vain = 0
            self._rest = _REST_WAITS

"""Gives memory that requests and replies needed once back to the system.

What Python frees goes to the C library, which keeps what lies between pieces that are still used,
and, once it was large, what lies at the end. glibc's malloc_trim(3) gives it back, also from the
middle. Where there is no such function, as with musl, the library needs none.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

from kvserve import limits
from kvserve.execution.budget import Budget


def _find_trim() -> Callable[[int], int] | None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim.argtypes = [ctypes.c_size_t]
    return trim


class Trimmer:
    """Trims a worker's memory when much of it was in use and is no more.

    Args:
        budget: what requests and replies have in use.
        arriving: returns what is in use beside it, for requests of which only a part is here.
    """

    def __init__(self, budget: Budget, arriving: Callable[[], int]) -> None:
        self._budget = budget
        self._arriving = arriving
        self._is_due = False
        self._trim = _find_trim()
        self._quiet_ticks = 0

    def turn(self) -> None:
        """Trims if memory has been little used for a while; called every `limits.TICK_SECONDS`.

        Not while much is in use: what is given back then is asked for again, page by page.
        """
        budget = self._budget
        used_bytes = budget.taken_bytes + self._arriving()
        if max(budget.peak_bytes, used_bytes) >= limits.TRIM_BYTES:
            self._is_due, budget.peak_bytes = True, 0
        if not self._is_due or used_bytes >= limits.TRIM_BYTES:
            self._quiet_ticks = 0
            return
        self._quiet_ticks += 1
        if self._quiet_ticks >= limits.TRIM_TICKS:
            self._is_due, self._quiet_ticks = False, 0
            gc.collect()  # what only the traceback of an old error still refers to, a frame perhaps
            if self._trim is not None:
                self._trim(0)

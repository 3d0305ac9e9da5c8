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
        budget: what is in use.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._trim = _find_trim()
        self._quiet_ticks = 0

    def turn(self) -> None:
        """Trims if memory has been little used for a while; called every `limits.TICK_SECONDS`.

        Not while much is in use: what is given back then is asked for again, page by page.
        """
        budget = self._budget
        if budget.peak_bytes < limits.TRIM_BYTES:
            return
        if budget.taken_bytes >= limits.TRIM_BYTES:
            self._quiet_ticks = 0
            return
        self._quiet_ticks += 1
        if self._quiet_ticks >= limits.TRIM_TICKS:
            self._quiet_ticks = budget.peak_bytes = 0
            gc.collect()  # what only the traceback of an old error still refers to, a frame perhaps
            if self._trim is not None:
                self._trim(0)

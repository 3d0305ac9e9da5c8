"""Touches a table's memory once it is served, piece by piece, so that no write waits for pages.

The memory was reserved at the start, but the kernel makes a page only at its first touch, which
would be in the middle of a set. 512 MiB take half a second, and a third of a core.
"""

from __future__ import annotations

from functools import partial

from kvserve.limits import MIB
from kvserve.parent.timers import Timers
from kvserve.table.table import Table

_PIECE_BYTES = 4 * MIB  # take 1.2 ms
_PAUSE_SECONDS = 0.003


def touch_memory(table: Table, timers: Timers, first: int = 0) -> None:
    """Touches a piece now, and sets a timer for the next one.

    Args:
        table: the table to touch.
        timers: of the process.
        first: where the piece begins.
    """
    if table.touch_memory(first, _PIECE_BYTES):
        rest = partial(touch_memory, table, timers, first + _PIECE_BYTES)
        timers.set("memory", _PAUSE_SECONDS, rest)

"""Objects that stand for what is no value: public, each compared with `is`.

ASK_WORKER   what `get_here` returns where only a worker knows
UNCHANGED    what the function of `update` returns to leave a key as it is
"""

from __future__ import annotations

from typing import Final

from kvserve.table._core import ASK_WORKER as ASK_WORKER


class Unchanged:
    """The kind of `kvserve.UNCHANGED`."""

    def __repr__(self) -> str:
        return "kvserve.UNCHANGED"

    def __reduce__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()

"""What a check of `kvserve doctor` answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Args:
        check: its name.
        ok: nothing is wrong.
        fatal: if something is wrong, then a server cannot start.
        text: one sentence.
        mend: the command that mends it, or that makes better what is well enough; empty when
            there is nothing to mend.
    """

    check: str
    ok: bool
    fatal: bool
    text: str
    mend: str = ""

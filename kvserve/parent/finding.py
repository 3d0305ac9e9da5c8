"""What a check of `kvserve doctor` returns, and the command that fixes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Args:
        check: its name.
        ok: nothing is wrong.
        fatal: a server cannot start unless `ok`.
        text: one sentence.
        fix: the command that fixes it, or that improves what is good enough; empty when there
            is nothing to fix.
    """

    check: str
    ok: bool
    fatal: bool
    text: str
    fix: str = ""


def how_to_end(pids: Iterable[int], option: str = "") -> str:
    """How to end processes: a command for those with a pid here, and advice for the others.

    Args:
        pids: 0 for a process of another pid namespace; `kill 0` would kill the caller's group.
        option: of kill.

    Example:
        >>> how_to_end([7, 9]), how_to_end([7], "-9")
        ('end them: kill 7 9', 'end it: kill -9 7')
        >>> how_to_end([0])
        'end it in the other pid namespace, or container, where it runs'
    """
    pids = list(pids)
    what = "end it" if len(pids) == 1 else "end them"
    seen = [str(pid) for pid in pids if pid > 0]
    command = f"{what}: {' '.join(['kill', *([option] if option else []), *seen])}"
    if len(seen) == len(pids):
        return command
    if not seen:
        runs = "it runs" if len(pids) == 1 else "they run"
        return f"{what} in the other pid namespace, or container, where {runs}"
    return f"{command}, and the others in their pid namespaces, or containers"

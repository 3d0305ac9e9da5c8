"""What a client's parts do in a forked child, whichever code forked it.

Python runs its hooks only after os.fork. C code forks as well (uWSGI starts its workers so), and
such a child goes on with its parent's sessions unless it looks. So whatever belongs to one process
asks `Descriptor.is_open`, or compares `fork_count`, at each use; and all code that begins something
calls `notice`, which lets go of what was inherited.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import RLock

from kvserve.descriptors import close_inherited, fork_count


class _Child:
    """The duties to be done once in each child, before the first use of anything."""

    def __init__(self) -> None:
        self._duties: list[Callable[[], None]] = [close_inherited]
        self._done_at = fork_count()
        # By the count of forks, so that a lock which a thread of the parent held stays behind.
        self._doing: dict[int, RLock] = {}

    def add(self, duty: Callable[[], None]) -> None:
        self._duties.append(duty)

    def notice(self) -> None:
        now = fork_count()
        if now == self._done_at:
            return
        with self._doing.setdefault(now, RLock()):
            if self._done_at != now:
                for duty in self._duties:
                    duty()
                self._done_at = now  # last: what an exception interrupts is done again


# Process-wide facts in process-wide state: hooks for forks cannot be taken back.
_child = _Child()
in_child = _child.add
notice = _child.notice
os.register_at_fork(after_in_child=notice)

"""When a dead worker is replaced. Forks nothing, and never gives up.

A worker that has served is replaced at once, up to so many times a minute; beyond that its
respawns are paced, for ever. One that died before it served may fail again: the first time in a
row it is replaced at once, too, since a table of the kernel may just have been full, and from then
on at that pace. Each worker is counted by itself, so that a request that kills one worker again
and again does not make the others' shards wait longer.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

from kvserve.limits import RESPAWN_PACE_SECONDS, RESPAWNS_A_MINUTE

_MINUTE_SECONDS = 60.0


class Respawns:
    """The times of the respawns so far, which decide the time of the next.

    Args:
        clock: seconds, monotonic.

    Example:
        >>> respawns = Respawns(clock=lambda: 100.0)
        >>> [respawns.pause(0, has_served=False) for _ in range(3)]
        [0.0, 0.5, 1.0]
        >>> respawns.pause(0, has_served=True), respawns.pause(1, has_served=True)
        (0.0, 0.0)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moments: defaultdict[int, deque[float]] = defaultdict(
            lambda: deque(maxlen=RESPAWNS_A_MINUTE)
        )
        self._unserved: defaultdict[int, int] = defaultdict(int)  # deaths in a row
        self.count = 0

    def pause(self, index: int, *, has_served: bool) -> float:
        """Records a death; returns how many seconds to wait before the respawn, 0 for none.

        Args:
            index: which worker died, or could not be forked.
            has_served: whether it ever did.
        """
        now = self._clock()
        moments = self._moments[index]
        self._unserved[index] = 0 if has_served else self._unserved[index] + 1
        are_many = len(moments) == RESPAWNS_A_MINUTE and now - moments[0] < _MINUTE_SECONDS
        pause = 0.0
        if moments and (are_many or self._unserved[index] > 1):
            pause = max(0.0, moments[-1] + RESPAWN_PACE_SECONDS - now)
        moments.append(now + pause)
        self.count += 1
        return pause

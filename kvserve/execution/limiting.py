"""One hit on a rate limiter: decides, and keeps the count in the table. Knows no requests.

Exact over all processes, because the worker that executes it is the only writer of the key and does
nothing else meanwhile. A refused hit costs nothing. The state expires with its window.

A fixed window begins with the first hit and is a counter whose ttl is the window, as commonly
built with INCR and EXPIRE of Redis. In the worst case twice the rate passes within one `per_ms`,
around the end of a window. A sliding window keeps the time of each hit, so never more than `rate`
pass within any `per_ms`.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from typing import NamedTuple

from kvserve import limits
from kvserve.errors import InvalidArgument, NotACounter
from kvserve.protocol import codec
from kvserve.table._core import Writer


class Verdict(NamedTuple):
    """What a limiter says, as it goes over the wire."""

    allowed: bool
    remaining: int  # hits that would still be allowed now
    retry_after_ms: int  # 0 if allowed


def hit(
    table: Writer, key: bytes | str, rate: int, per_ms: int, cost: int, *, sliding: bool
) -> Verdict:
    """Counts a hit if the limit allows it.

    Args:
        key: of the limiter's state.
        rate: the hits that are allowed within a window.
        per_ms: the window's length.
        cost: how many hits this one counts for; all or none of them.
        sliding: the kind of window.

    Raises:
        InvalidArgument: a number is out of its range.
        NotACounter: the key holds something else.
    """
    rate_max = limits.SLIDING_HITS_MAX if sliding else limits.COUNTER_MAX
    if not (1 <= cost <= rate <= rate_max and 1 <= per_ms <= limits.TTL_MS_MAX):
        raise InvalidArgument(f"a limit of {rate} per {per_ms} ms, at a cost of {cost}")
    count = _hit_sliding if sliding else _hit_fixed
    return count(table, key, rate, per_ms, cost)


def _hit_fixed(table: Writer, key: bytes | str, rate: int, per_ms: int, cost: int) -> Verdict:
    while True:
        found = table.read(key)
        if found is None:
            used = 0
        elif found[0] == codec.COUNTER:
            used = codec.decode(codec.COUNTER, found[1])
        else:
            raise NotACounter("the limiter's key holds something else")
        if used + cost <= rate:
            used = table.incr(key, cost, 0, per_ms) or 0
            return Verdict(True, rate - used, 0)
        left_ms = table.ttl_ms(key)
        if left_ms is not None:  # else the window has ended since we looked
            return Verdict(False, max(0, rate - used), left_ms or per_ms)


def _hit_sliding(table: Writer, key: bytes | str, rate: int, per_ms: int, cost: int) -> Verdict:
    # The table's clock: the state is kept when the server is started anew.
    now_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    times_ms = array("Q")
    found = table.read(key)
    if found is not None:
        if found[0] != codec.BYTES or len(found[1]) % times_ms.itemsize:
            raise NotACounter("the limiter's key holds something else")
        times_ms.frombytes(found[1])
    del times_ms[: bisect_right(times_ms, now_ms - per_ms)]
    too_many = len(times_ms) + cost - rate
    if too_many > 0:
        retry_after_ms = times_ms[too_many - 1] + per_ms - now_ms
        return Verdict(False, max(0, rate - len(times_ms)), retry_after_ms)
    times_ms.extend([now_ms] * cost)
    table.set(key, codec.BYTES, times_ms.tobytes(), per_ms)
    return Verdict(True, -too_many, 0)

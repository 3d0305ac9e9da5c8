"""One hit on a rate limiter: decides, and keeps the count in the table. Knows no requests.

Exact over all processes, because the worker that executes it is the only writer of the key and does
nothing else meanwhile. A refused hit costs nothing. The state expires with its window.

- A fixed window begins with the first hit and is a counter whose ttl is the window, as commonly
  built with INCR and EXPIRE of Redis. In the worst case twice the rate passes within one `per_ms`,
  around the end of a window.
- A log keeps the time of each hit, so never more than `rate` pass within any `per_ms`.
- A counter has two fixed windows, and takes the hits of the one before as spread evenly over it:
  those that are younger than `per_ms` are then as many of them as there is left of this window.
  Common since "How we built rate limiting capable of scaling to millions of domains", Cloudflare,
  2017. The part of them is rounded down, as the package `limits` does.

The counter's error: let p be the hits of the window before, c those of this one, and f how much of
this one is over, from 0 to 1. A hit is allowed while floor(p (1 - f)) + c <= rate. Of the p,
anything from none to all are younger than `per_ms`, where it reckons with p (1 - f) of them. If all
p were at the end of their window, p + c pass within `per_ms`, and c <= rate - floor(p (1 - f)), so
together at most rate + ceil(p f). As p <= rate, at most rate + ceil(rate x / per_ms) pass within
any time x of at most `per_ms`: less than twice the rate, and all at once no more than the rate. If
all p were at the beginning, hits are refused that a log allows; two windows after the last hit none
is. In a window of its own it allows no more than the rate, so in the long run neither.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from typing import NamedTuple

from kvserve import limits
from kvserve.errors import InvalidArgument, NotACounter
from kvserve.protocol import codec
from kvserve.protocol.commands import Window
from kvserve.table._core import Writer

_ITEM_BYTES = 8
_COUNTER_ITEMS = 3  # when this window began, the hits of the one before, those of this one


class Verdict(NamedTuple):
    """What a limiter says, as it goes over the wire."""

    allowed: bool
    remaining: int  # hits that would still be allowed now
    retry_after_ms: int | None  # 0 if allowed; None: never, as it costs more than the rate


class Count(NamedTuple):
    """What a limiter has counted, as it goes over the wire."""

    current: int  # hits in the window
    previous: int  # of a counter: those of the window before
    age_ms: int  # since the window began; of a log: since its oldest hit
    reset_after_ms: int  # until nothing of it counts any more


def hit(table: Writer, key: bytes | str, rate: int, per_ms: int, cost: int, window: int) -> Verdict:
    """Counts a hit if the limit allows it.

    Args:
        key: of the limiter's state.
        rate: the hits that are allowed within a window.
        per_ms: the window's length.
        cost: how many hits this one counts for; all or none of them.
        window: its kind, a `Window`.

    Raises:
        InvalidArgument: a number is out of its range.
        NotACounter: the key holds something else.
    """
    rate_max = limits.SLIDING_HITS_MAX if window == Window.LOG else limits.COUNTER_MAX
    if not (cost >= 1 and 1 <= rate <= rate_max):
        raise InvalidArgument(f"a limit of {rate} per {per_ms} ms, at a cost of {cost}")
    _check(per_ms, window)
    if cost > rate:
        return Verdict(False, max(0, rate - used(peek(table, key, per_ms, window), per_ms)), None)
    return _HITS[Window(window)](table, key, rate, per_ms, cost)


def peek(table: Writer, key: bytes | str, per_ms: int, window: int) -> Count:
    """Looks at the count; changes nothing. Arguments and errors are those of `hit`."""
    _check(per_ms, window)
    return _PEEKS[Window(window)](table, key, per_ms)


def used(count: Count, per_ms: int) -> int:
    """The hits that a limiter takes to be within the window.

    Example:
        >>> used(Count(current=2, previous=9, age_ms=400, reset_after_ms=1600), 1000)
        7
    """
    return count.current + count.previous * (per_ms - count.age_ms) // per_ms


def _check(per_ms: int, window: int) -> None:
    if not 1 <= per_ms <= limits.TTL_MS_MAX:
        raise InvalidArgument(f"a limit per {per_ms} ms")
    if window not in _HITS:
        raise InvalidArgument(f"a limit with a window of kind {window}")


def _hit_fixed(table: Writer, key: bytes | str, rate: int, per_ms: int, cost: int) -> Verdict:
    while True:
        count = _fixed(table, key)
        if count + cost <= rate:
            count = table.incr(key, cost, 0, per_ms) or 0
            return Verdict(True, rate - count, 0)
        left_ms = table.ttl_ms(key)
        if left_ms is not None:  # else the window has ended since we looked
            return Verdict(False, max(0, rate - count), left_ms or per_ms)


def _peek_fixed(table: Writer, key: bytes | str, per_ms: int) -> Count:
    count = _fixed(table, key)
    left_ms = table.ttl_ms(key)
    if left_ms is None:
        return _NOTHING
    left_ms = left_ms or per_ms
    return Count(count, 0, max(0, per_ms - left_ms), left_ms)


def _fixed(table: Writer, key: bytes | str) -> int:
    found = table.read(key)
    if found is None:
        return 0
    if found[0] != codec.COUNTER:
        raise _not_a_state()
    count: int = codec.decode(codec.COUNTER, found[1])
    return count


def _hit_log(table: Writer, key: bytes | str, rate: int, per_ms: int, cost: int) -> Verdict:
    now_ms = _now_ms()
    times_ms = _log(table, key, now_ms - per_ms)
    too_many = len(times_ms) + cost - rate
    if too_many > 0:
        retry_after_ms = times_ms[too_many - 1] + per_ms - now_ms
        return Verdict(False, max(0, rate - len(times_ms)), retry_after_ms)
    times_ms.extend([now_ms] * cost)
    table.set(key, codec.BYTES, times_ms.tobytes(), per_ms)
    return Verdict(True, -too_many, 0)


def _peek_log(table: Writer, key: bytes | str, per_ms: int) -> Count:
    now_ms = _now_ms()
    times_ms = _log(table, key, now_ms - per_ms)
    if not times_ms:
        return _NOTHING
    return Count(len(times_ms), 0, max(0, now_ms - times_ms[0]), times_ms[-1] + per_ms - now_ms)


def _log(table: Writer, key: bytes | str, after_ms: int) -> array[int]:
    """The times of the hits after a moment."""
    times_ms = _items(table, key)
    del times_ms[: bisect_right(times_ms, after_ms)]
    return times_ms


def _hit_counter(table: Writer, key: bytes | str, rate: int, per_ms: int, cost: int) -> Verdict:
    count, began_ms = _counter(table, key, per_ms)
    room = rate - used(count, per_ms)
    if cost > room:
        return Verdict(False, max(0, room), _wait_ms(count, rate - cost, per_ms))
    state = array("Q", (began_ms, count.previous, count.current + cost))
    life_ms = min(2 * per_ms - count.age_ms, limits.TTL_MS_MAX)
    table.set(key, codec.BYTES, state.tobytes(), life_ms)
    return Verdict(True, room - cost, 0)


def _wait_ms(count: Count, used_max: int, per_ms: int) -> int:
    """Milliseconds until no more are used than this, if no hit is allowed meanwhile."""
    room = used_max - count.current
    if room >= 0:
        # While more than this is left of the window, too many of the one before count.
        left_ms = ((room + 1) * per_ms - 1) // count.previous
        return per_ms - left_ms - count.age_ms
    left_ms = min(per_ms, ((used_max + 1) * per_ms - 1) // count.current)  # of the next window
    return 2 * per_ms - left_ms - count.age_ms


def _peek_counter(table: Writer, key: bytes | str, per_ms: int) -> Count:
    return _counter(table, key, per_ms)[0]


def _counter(table: Writer, key: bytes | str, per_ms: int) -> tuple[Count, int]:
    """The count now, and when its window began."""
    now_ms = _now_ms()
    state = _items(table, key)
    if len(state) not in (0, _COUNTER_ITEMS):
        raise _not_a_state()
    began_ms, previous, current = state or (now_ms, 0, 0)
    age_ms = max(0, now_ms - began_ms)
    if age_ms >= per_ms:  # this window is the one before now
        age_ms, previous, current = age_ms - per_ms, current, 0
    if age_ms >= per_ms or not previous + current:
        return _NOTHING, now_ms
    left_ms = per_ms - age_ms
    return Count(current, previous, age_ms, left_ms + (per_ms if current else 0)), now_ms - age_ms


def _items(table: Writer, key: bytes | str) -> array[int]:
    """The state as numbers; none if there is none."""
    items = array("Q")
    found = table.read(key)
    if found is not None:
        if found[0] != codec.BYTES or len(found[1]) % _ITEM_BYTES:
            raise _not_a_state()
        items.frombytes(found[1])
    return items


def _now_ms() -> int:
    # The table's clock: the state is kept when the server is started anew.
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _not_a_state() -> NotACounter:
    return NotACounter("the limiter's key holds something else")


_NOTHING = Count(0, 0, 0, 0)
_HITS = {Window.FIXED: _hit_fixed, Window.LOG: _hit_log, Window.COUNTER: _hit_counter}
_PEEKS = {Window.FIXED: _peek_fixed, Window.LOG: _peek_log, Window.COUNTER: _peek_counter}

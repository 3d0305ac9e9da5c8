"""A rate limit that all processes share. The worker decides; see kvserve/execution/limiting.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kvserve.client.calls.operations import TTL, Operation, Operations, to_ttl_ms
from kvserve.client.recipes import key_layout
from kvserve.errors import InvalidArgument
from kvserve.execution.limiting import Count, used
from kvserve.limits import COUNTER_MAX, SLIDING_HITS_MAX
from kvserve.protocol.commands import Window

Sliding = bool | Literal["log", "counter"]
_WINDOWS = {False: Window.FIXED, "log": Window.LOG, "counter": Window.COUNTER}


@dataclass(frozen=True, slots=True)
class Hit:
    """A limiter's verdict on a hit; true if it was allowed.

    Attributes:
        allowed: whether it was allowed, and so counted.
        remaining: how many more would be allowed now.
        retry_after: seconds until this hit would be allowed, if no other comes before; 0.0 if it
            was; math.inf if it never will be, because its cost is more than the rate.
    """

    allowed: bool
    remaining: int
    retry_after: float

    def __bool__(self) -> bool:
        return self.allowed


class Usage(NamedTuple):
    """What a limiter has counted for an id; true if one more hit would be allowed now.

    Attributes:
        used: hits that count against the rate now; of a sliding counter this is an estimate.
        remaining: how many more would be allowed now.
        reset_after: seconds until none of these counts any more; 0.0 if none does.
        age: seconds since the window began; of a log, since its oldest hit; 0.0 if there is none.
        current: hits in the window.
        previous: of a sliding counter, hits in the window before, which end to count one by one
            until `age` is the window's length; 0 for other kinds.
    """

    used: int
    remaining: int
    reset_after: float
    age: float
    current: int
    previous: int

    def __bool__(self) -> bool:
        return self.remaining > 0


class LimiterTerms:
    """What both kinds of limiter share; see `Recipes.limiter` for the arguments."""

    def __init__(self, name: str, *, rate: int, per: TTL, sliding: Sliding) -> None:
        self._window = _window(sliding, rate)
        if per is None:
            raise InvalidArgument("per = None: use seconds or a timedelta")
        self._kind = key_layout.LIMITERS[self._window]
        self._name = key_layout.quoted(name)  # here, so that the faulty line raises
        self._rate = rate
        self._per_ms = to_ttl_ms(per)

    def _hit(self, operations: Operations, prefix: str, who: str | int, cost: int) -> Operation:
        if type(cost) is not int or cost < 1:
            raise InvalidArgument(f"cost = {cost!r}: use an int from 1")
        cost = min(cost, self._rate + 1)  # it is refused, however much more it is
        key = self._key(prefix, who)
        return operations.limit(key, self._rate, self._per_ms, cost, self._window.value)

    def _peek(self, operations: Operations, prefix: str, who: str | int) -> Operation:
        return operations.limit_peek(self._key(prefix, who), self._per_ms, self._window.value)

    def _reset(self, operations: Operations, prefix: str, who: str | int) -> Operation:
        return operations.limit_reset(self._key(prefix, who))

    def _key(self, prefix: str, who: str | int) -> str:
        if isinstance(who, bool) or not isinstance(who, (str, int)) or who == "":
            raise InvalidArgument(f"id = {who!r:.80}: use a str that is not empty, or an int")
        return key_layout.limiter_key(self._kind, prefix, self._name, str(who))

    def _as_usage(self, answer: tuple[int, int, int, int]) -> Usage:
        count = Count(*answer)
        hits = used(count, self._per_ms)
        return Usage(
            hits,
            max(0, self._rate - hits),
            count.reset_after_ms / 1000,
            count.age_ms / 1000,
            count.current,
            count.previous,
        )


def _window(sliding: Sliding, rate: int) -> Window:
    """The kind of window; raises InvalidArgument if it cannot have this rate."""
    if sliding is True:
        is_long = type(rate) is int and rate > SLIDING_HITS_MAX
        sliding = "counter" if is_long else "log"
    if not isinstance(sliding, (bool, str)) or sliding not in _WINDOWS:
        raise InvalidArgument(f"sliding = {sliding!r:.80}: use True, False, 'log' or 'counter'")
    window = _WINDOWS[sliding]
    rate_max = SLIDING_HITS_MAX if window is Window.LOG else COUNTER_MAX
    if type(rate) is not int or not 1 <= rate <= rate_max:
        raise InvalidArgument(f"rate = {rate!r}: use an int from 1 to {rate_max}")
    return window


def as_hit(verdict: tuple[bool, int, int | None]) -> Hit:
    allowed, remaining, retry_after_ms = verdict
    return Hit(allowed, remaining, math.inf if retry_after_ms is None else retry_after_ms / 1000)

"""A rate limit that all processes share. The worker decides; see kvserve/execution/limiting.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvserve.client.calls.operations import TTL, Operation, Operations, to_ttl_ms
from kvserve.client.recipes import key_layout
from kvserve.errors import InvalidArgument
from kvserve.limits import COUNTER_MAX, SLIDING_HITS_MAX


@dataclass(frozen=True, slots=True)
class Hit:
    """A limiter's verdict on a hit; true if it was allowed.

    Attributes:
        allowed: whether it was allowed, and so counted.
        remaining: how many more would be allowed now.
        retry_after: seconds until this hit would be allowed; 0.0 if it was.
    """

    allowed: bool
    remaining: int
    retry_after: float

    def __bool__(self) -> bool:
        return self.allowed


class LimiterTerms:
    """What both kinds of limiter share; see `Recipes.limiter` for the arguments."""

    def __init__(
        self, path: Sequence[str], name: str, *, rate: int, per: TTL, sliding: bool
    ) -> None:
        rate_max = SLIDING_HITS_MAX if sliding else COUNTER_MAX
        if type(rate) is not int or not 1 <= rate <= rate_max:
            raise InvalidArgument(f"rate = {rate!r}: use an int from 1 to {rate_max}")
        if per is None:
            raise InvalidArgument("per = None: use seconds or a timedelta")
        self._path = (*path, name)
        self._rate = rate
        self._per_ms = to_ttl_ms(per)
        self._sliding = bool(sliding)
        key_layout.named("fixed", path, name)  # here, so that the faulty line raises

    def _operation(self, operations: Operations, who: str | int, cost: int) -> Operation:
        if type(cost) is not int or not 1 <= cost <= self._rate:
            raise InvalidArgument(f"cost = {cost!r}: use an int from 1 to the rate, {self._rate}")
        kind = "sliding" if self._sliding else "fixed"
        key = key_layout.named(kind, self._path, _as_text(who))
        return operations.limit(key, self._rate, self._per_ms, cost, self._sliding)


def _as_text(who: str | int) -> str:
    if isinstance(who, bool) or not isinstance(who, (str, int)) or who == "":
        raise InvalidArgument(f"id = {who!r:.80}: use a str that is not empty, or an int")
    return str(who)


def as_hit(verdict: tuple[bool, int, int]) -> Hit:
    allowed, remaining, retry_after_ms = verdict
    return Hit(allowed, remaining, retry_after_ms / 1000)

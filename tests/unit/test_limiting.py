"""The limiter's decisions on a table, against the plainest account of what they should be."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from support.seeds import derived
from support.ways import own_table

from kvserve.errors import InvalidArgument, NotACounter
from kvserve.execution import limiting
from kvserve.limits import SLIDING_HITS_MAX, TTL_MS_MAX
from kvserve.names import Names
from kvserve.protocol import codec
from kvserve.protocol.commands import Window
from kvserve.table.geometry import plan
from kvserve.table.table import Table

HOUR_MS = 3_600_000


@pytest.fixture
def table(names: Names) -> Iterator[Table]:
    """A table without a server."""
    geometry = plan(memory=2**22, item_size=128, max_value=2**18, shards=1, workers=1)
    with own_table(names, geometry) as table:
        yield table


class Clock:
    """The clock of the host, and dice, both from one seed; the table's own clock goes on by itself.

    Args:
        seed: None for another one each day.
    """

    def __init__(self, seed: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        seed = derived("limiting") if seed is None else seed
        print(f"seed {seed}")
        self.dice = random.Random(seed)
        self.now_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 10**6
        monkeypatch.setattr(
            time, "clock_gettime_ns", lambda _: self.now_ms * 10**6 + self.dice.randrange(10**6)
        )


@pytest.mark.parametrize("seed", [*range(5), None])
def test_sliding_log_is_what_a_list_of_all_hits_says(
    table: Table, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(seed, monkeypatch)
    dice = clock.dice
    rate, per_ms = dice.randint(1, 20), dice.choice([1000, 60_000])
    hits: list[int] = []
    for _ in range(500):
        clock.now_ms += dice.choice([0, 0, 1, per_ms // 7, per_ms - 1, per_ms, per_ms + 1])
        now_ms = clock.now_ms
        cost = dice.randint(1, rate + 2)
        within = [hit for hit in hits if now_ms - per_ms < hit <= now_ms]
        count = limiting.peek(table, "key", per_ms, Window.LOG)
        assert count == (
            (len(within), 0, now_ms - within[0], within[-1] + per_ms - now_ms)
            if within
            else (0, 0, 0, 0)
        )
        verdict = limiting.hit(table, "key", rate, per_ms, cost, window=Window.LOG)
        table.touch("key", HOUR_MS)  # by the table's clock, which goes on by itself
        if len(within) + cost <= rate:
            hits += [now_ms] * cost
            assert verdict == (True, rate - len(within) - cost, 0)
        elif cost > rate:
            assert verdict == (False, rate - len(within), None)
        else:
            enough = sorted(within)[len(within) + cost - rate - 1]
            assert verdict == (False, rate - len(within), enough + per_ms - now_ms)
            assert verdict.retry_after_ms


class Windows:
    """The sliding counter as it is told: a list of all hits, and where their windows begin."""

    def __init__(self, rate: int, per_ms: int) -> None:
        self.rate, self.per_ms = rate, per_ms
        self.hits: list[tuple[int, int]] = []  # when some were allowed, and how many
        self._began_ms: int | None = None

    def began_ms(self, now_ms: int) -> int:
        """When the window began that is now, if a hit is counted now."""
        began_ms = now_ms if self._began_ms is None else self._began_ms
        began_ms += (now_ms - began_ms) // self.per_ms * self.per_ms
        return began_ms if any(at >= began_ms - self.per_ms for at, _ in self.hits) else now_ms

    def counts(self, now_ms: int) -> tuple[int, int]:
        """The hits of this window and of the one before."""
        began_ms = self.began_ms(now_ms)
        before_ms = began_ms - self.per_ms
        current = sum(hits for at, hits in self.hits if at >= began_ms)
        return current, sum(hits for at, hits in self.hits if before_ms <= at < began_ms)

    def used(self, now_ms: int) -> int:
        """The estimate, of exact fractions."""
        current, previous = self.counts(now_ms)
        left = Fraction(self.began_ms(now_ms) + self.per_ms - now_ms, self.per_ms)
        return current + math.floor(previous * left)

    def count(self, now_ms: int, cost: int) -> None:
        """Takes hits that were allowed."""
        self._began_ms = self.began_ms(now_ms)
        self.hits = [(at, hits) for at, hits in self.hits if at > now_ms - 3 * self.per_ms]
        self.hits.append((now_ms, cost))

    def retry_after_ms(self, now_ms: int, cost: int) -> int:
        """By trying every millisecond."""
        later = now_ms
        while self.used(later) + cost > self.rate:
            later += 1
        return later - now_ms


@pytest.mark.parametrize("seed", [*range(12), None])
def test_sliding_counter_is_what_its_definition_says(
    table: Table, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(seed, monkeypatch)
    dice = clock.dice
    rate, per_ms = dice.choice([1, 2, 7, 50, 5000]), dice.choice([10, 97, 400])
    model = Windows(rate, per_ms)
    for _ in range(250):
        clock.now_ms += dice.choice([0, 0, 0, 1, 1, per_ms // 7, per_ms // 2, per_ms, 2 * per_ms])
        now_ms = clock.now_ms
        cost = dice.choice([1, 1, dice.randint(1, rate + 1), rate])
        current, previous = model.counts(now_ms)
        count = limiting.peek(table, "key", per_ms, Window.COUNTER)
        assert count[:2] == (current, previous)
        assert limiting.used(count, per_ms) == model.used(now_ms)
        if current + previous:
            assert count.age_ms == now_ms - model.began_ms(now_ms)
        left_ms = count.reset_after_ms
        assert not any(model.counts(now_ms + left_ms))
        assert not left_ms or any(model.counts(now_ms + left_ms - 1))
        verdict = limiting.hit(table, "key", rate, per_ms, cost, window=Window.COUNTER)
        table.touch("key", HOUR_MS)
        room = rate - model.used(now_ms)
        if cost <= room:
            model.count(now_ms, cost)
            assert verdict == (True, room - cost, 0)
        elif cost > rate:
            assert verdict == (False, max(0, room), None)
        else:
            assert verdict == (False, max(0, room), model.retry_after_ms(now_ms, cost))


@pytest.mark.parametrize("seed", [*range(8), None])
def test_sliding_counter_is_within_its_error(
    table: Table, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within any time x, of at most a window, rate * (1 + x) hits at most; never more at once."""
    clock = Clock(seed, monkeypatch)
    dice = clock.dice
    rate, per_ms = dice.choice([3, 10, 40]), dice.choice([20, 100])
    hits: list[int] = []
    pause = 0
    for _ in range(3000):
        if not pause:
            pause = dice.choice([0, 0, 0, 1, per_ms - 1, per_ms])  # often at the end of a window
        clock.now_ms += pause if dice.random() < 0.1 else 1
        cost = dice.choice([1, 1, 2, rate])
        if limiting.hit(table, "key", rate, per_ms, cost, window=Window.COUNTER).allowed:
            hits += [clock.now_ms] * cost
            table.touch("key", HOUR_MS)
        pause = 0
    assert worst(hits, per_ms, rate) <= 0
    # And the other way: who leaves it alone for two windows is refused nothing.
    clock.now_ms += 2 * per_ms
    assert limiting.hit(table, "key", rate, per_ms, rate, window=Window.COUNTER).allowed


def worst(hits: list[int], per_ms: int, rate: int) -> int:
    """By how many hits at most any interval exceeds the bound; 0 or less if none does."""
    excess = -rate
    for first, begin in enumerate(hits):
        for last in range(first, len(hits)):
            length = hits[last] - begin
            if length >= per_ms:
                break
            bound = rate + math.ceil(Fraction(rate * length, per_ms))
            excess = max(excess, last - first + 1 - bound)
    return excess


def test_error_of_the_sliding_counter_is_reached(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is no greater than it must be."""
    clock = Clock(0, monkeypatch)
    rate, per_ms = 100, 1000
    hits: list[int] = []

    def hit(cost: int) -> None:
        while limiting.hit(table, "key", rate, per_ms, cost, window=Window.COUNTER).allowed:
            hits.extend([clock.now_ms] * cost)
            table.touch("key", HOUR_MS)

    assert limiting.hit(table, "key", rate, per_ms, 1, window=Window.COUNTER).allowed
    table.touch("key", HOUR_MS)
    clock.now_ms += per_ms - 1
    for _ in range(per_ms):
        hit(1)
        clock.now_ms += 1
    assert len(hits) >= 2 * rate - 3  # within one window, where a log would allow 100
    assert worst(hits, per_ms, rate) >= -3


def test_fixed_window_ends_where_it_began(table: Table) -> None:
    verdicts = [limiting.hit(table, "key", 3, HOUR_MS, 1, window=Window.FIXED) for _ in range(4)]
    assert verdicts[:3] == [(True, 2, 0), (True, 1, 0), (True, 0, 0)]
    assert verdicts[3][:2] == (False, 0)
    table.touch("key", 1000)  # as if the window had begun nearly an hour ago
    later = limiting.hit(table, "key", 3, HOUR_MS, 1, window=Window.FIXED)
    assert later[:2] == (False, 0)
    assert 0 < later.retry_after_ms <= 1000
    table.touch("key", 1)
    while limiting.hit(table, "key", 3, HOUR_MS, 3, window=Window.FIXED)[:2] != (True, 0):
        pass
    assert HOUR_MS - 60_000 < (table.ttl_ms("key") or 0) <= HOUR_MS


def test_refused_hit_leaves_the_state_alone(table: Table) -> None:
    for window in Window:
        key = f"key {window}"
        limiting.hit(table, key, 5, HOUR_MS, 4, window=window)
        before = table.read(key)
        assert not limiting.hit(table, key, 5, HOUR_MS, 2, window=window).allowed
        assert table.read(key) == before


def test_state_expires_with_its_window(table: Table) -> None:
    for window in Window:
        limiting.hit(table, f"key {window}", 5, HOUR_MS, 1, window=window)
        windows = 2 if window is Window.COUNTER else 1
        assert 0 < (table.ttl_ms(f"key {window}") or 0) <= windows * HOUR_MS


@pytest.mark.parametrize("rate", [1, SLIDING_HITS_MAX])
def test_largest_sliding_window(table: Table, rate: int) -> None:
    assert limiting.hit(table, "key", rate, HOUR_MS, rate, window=Window.LOG) == (True, 0, 0)
    found = table.read("key")
    assert found is not None
    assert len(found[1]) == 8 * rate
    assert limiting.peek(table, "key", HOUR_MS, Window.LOG)[:2] == (rate, 0)
    assert limiting.hit(table, "key", rate, HOUR_MS, 1, window=Window.LOG).allowed is False


def test_what_costs_more_than_the_rate_is_refused_and_costs_nothing(table: Table) -> None:
    for window in Window:
        key = f"key {window}"
        assert limiting.hit(table, key, 5, HOUR_MS, 6, window=window) == (False, 5, None)
        assert table.read(key) is None
        assert limiting.hit(table, key, 5, HOUR_MS, 3, window=window) == (True, 2, 0)
        before = table.read(key)
        assert limiting.hit(table, key, 5, HOUR_MS, 2**63, window=window) == (False, 2, None)
        assert table.read(key) == before
        assert limiting.hit(table, key, 2, HOUR_MS, 3, window=window) == (False, 0, None)


def test_looking_changes_nothing(table: Table) -> None:
    for window in Window:
        key = f"key {window}"
        assert limiting.peek(table, key, HOUR_MS, window) == (0, 0, 0, 0)
        assert table.read(key) is None
        limiting.hit(table, key, 5, HOUR_MS, 4, window=window)
        before = table.read(key)
        count = limiting.peek(table, key, HOUR_MS, window)
        assert count[:2] == (4, 0)
        assert 0 <= count.age_ms < 60_000
        windows = 2 if window is Window.COUNTER else 1
        assert abs(windows * HOUR_MS - count.age_ms - count.reset_after_ms) <= 1
        assert table.read(key) == before


def test_largest_counter(table: Table) -> None:
    most = 2**63 - 1
    verdicts = [
        limiting.hit(table, "key", most, TTL_MS_MAX, cost, window=Window.COUNTER)
        for cost in (most - 1, 1, 1)
    ]
    assert [verdict[:2] for verdict in verdicts] == [(True, 1), (True, 0), (False, 0)]
    found = table.read("key")
    assert found is not None
    assert len(found[1]) == 24


def test_counter_without_an_end_refuses_for_a_whole_window(table: Table) -> None:
    table.incr("key", 5, 0, 0)
    assert limiting.hit(table, "key", 5, HOUR_MS, 1, window=Window.FIXED) == (False, 0, HOUR_MS)
    table.incr("key", 5, 0, 0)  # more than the rate, which somebody has lowered
    assert limiting.hit(table, "key", 5, HOUR_MS, 1, window=Window.FIXED).remaining == 0


@pytest.mark.parametrize(
    ("codec_number", "payload", "window"),
    [
        (codec.TEXT, b"text", Window.FIXED),
        (codec.BYTES, bytes(8), Window.FIXED),
        (codec.TEXT, b"8 bytes!", Window.LOG),
        (codec.COUNTER, bytes(8), Window.LOG),
        (codec.BYTES, bytes(7), Window.LOG),
        (codec.BYTES, bytes(23), Window.COUNTER),
        (codec.BYTES, bytes(16), Window.COUNTER),
        (codec.COUNTER, bytes(8), Window.COUNTER),
    ],
)
def test_what_is_no_state(table: Table, codec_number: int, payload: bytes, window: int) -> None:
    table.set("key", codec_number, payload, 0)
    with pytest.raises(NotACounter):
        limiting.peek(table, "key", HOUR_MS, window)
    with pytest.raises(NotACounter):
        limiting.hit(table, "key", 5, HOUR_MS, 6, window=window)
    with pytest.raises(NotACounter):
        limiting.hit(table, "key", 5, HOUR_MS, 1, window=window)
    assert table.read("key") is not None


@pytest.mark.parametrize(
    "arguments",
    [
        {"cost": 0}, {"cost": -1}, {"rate": 0}, {"rate": 2**63}, {"window": 3}, {"window": -1},
        {"rate": SLIDING_HITS_MAX + 1, "window": 1}, {"per_ms": 0}, {"per_ms": TTL_MS_MAX + 1},
    ],
    ids=repr,
)  # fmt: skip
def test_numbers_out_of_range_are_refused(table: Table, arguments: dict[str, Any]) -> None:
    """They come from another process."""
    good: dict[str, Any] = {"rate": 5, "per_ms": HOUR_MS, "cost": 1, "window": 0}
    with pytest.raises(InvalidArgument):
        limiting.hit(table, "key", **good | arguments)
    assert table.read("key") is None

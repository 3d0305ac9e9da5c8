"""The limiter's decisions on a table, against the plainest account of what they should be."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.seeds import derived
from support.ways import own_table

from kvserve.errors import InvalidArgument, NotACounter
from kvserve.execution import limiting
from kvserve.limits import SLIDING_HITS_MAX, TTL_MS_MAX
from kvserve.names import Names
from kvserve.protocol import codec
from kvserve.table.geometry import plan
from kvserve.table.table import Table

HOUR_MS = 3_600_000


@pytest.fixture
def table(names: Names) -> Iterator[Table]:
    """A table without a server."""
    geometry = plan(memory=2**22, item_size=128, max_value=2**18, shards=1, workers=1)
    with own_table(names, geometry) as table:
        yield table


@pytest.mark.parametrize("seed", [*range(5), None])
def test_sliding_window_is_what_a_list_of_all_hits_says(
    table: Table, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = derived("limiting") if seed is None else seed
    print(f"seed {seed}")
    dice = random.Random(seed)
    rate, per_ms = dice.randint(1, 20), dice.choice([1000, 60_000])
    now_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 10**6
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _: now_ms * 10**6 + dice.randrange(10**6))
    hits: list[int] = []
    for _ in range(500):
        now_ms += dice.choice([0, 0, 1, per_ms // 7, per_ms - 1, per_ms, per_ms + 1])
        cost = dice.randint(1, rate)
        verdict = limiting.hit(table, "key", rate, per_ms, cost, sliding=True)
        table.touch("key", HOUR_MS)  # by the table's clock, which goes on by itself
        within = [hit for hit in hits if now_ms - per_ms < hit <= now_ms]
        allowed = len(within) + cost <= rate
        if allowed:
            hits += [now_ms] * cost
            assert verdict == (True, rate - len(within) - cost, 0)
        else:
            enough = sorted(within)[len(within) + cost - rate - 1]
            assert verdict == (False, rate - len(within), enough + per_ms - now_ms)
            assert verdict.retry_after_ms > 0


def test_fixed_window_ends_where_it_began(table: Table) -> None:
    verdicts = [limiting.hit(table, "key", 3, HOUR_MS, 1, sliding=False) for _ in range(4)]
    assert verdicts[:3] == [(True, 2, 0), (True, 1, 0), (True, 0, 0)]
    assert verdicts[3][:2] == (False, 0)
    table.touch("key", 1000)  # as if the window had begun nearly an hour ago
    later = limiting.hit(table, "key", 3, HOUR_MS, 1, sliding=False)
    assert later[:2] == (False, 0)
    assert 0 < later.retry_after_ms <= 1000
    table.touch("key", 1)
    while limiting.hit(table, "key", 3, HOUR_MS, 3, sliding=False)[:2] != (True, 0):
        pass
    assert HOUR_MS - 60_000 < (table.ttl_ms("key") or 0) <= HOUR_MS


def test_refused_hit_leaves_the_state_alone(table: Table) -> None:
    for sliding in (False, True):
        key = f"key {sliding}"
        limiting.hit(table, key, 5, HOUR_MS, 4, sliding=sliding)
        before = table.read(key)
        assert not limiting.hit(table, key, 5, HOUR_MS, 2, sliding=sliding).allowed
        assert table.read(key) == before


def test_state_expires_with_its_window(table: Table) -> None:
    for sliding in (False, True):
        limiting.hit(table, f"key {sliding}", 5, HOUR_MS, 1, sliding=sliding)
        assert 0 < (table.ttl_ms(f"key {sliding}") or 0) <= HOUR_MS


@pytest.mark.parametrize("rate", [1, SLIDING_HITS_MAX])
def test_largest_sliding_window(table: Table, rate: int) -> None:
    assert limiting.hit(table, "key", rate, HOUR_MS, rate, sliding=True) == (True, 0, 0)
    found = table.read("key")
    assert found is not None
    assert len(found[1]) == 8 * rate
    assert limiting.hit(table, "key", rate, HOUR_MS, 1, sliding=True).allowed is False


def test_counter_without_an_end_refuses_for_a_whole_window(table: Table) -> None:
    table.incr("key", 5, 0, 0)
    assert limiting.hit(table, "key", 5, HOUR_MS, 1, sliding=False) == (False, 0, HOUR_MS)
    table.incr("key", 5, 0, 0)  # more than the rate, which somebody has lowered
    assert limiting.hit(table, "key", 5, HOUR_MS, 1, sliding=False).remaining == 0


@pytest.mark.parametrize(
    ("codec_number", "payload", "sliding"),
    [
        (codec.TEXT, b"text", False),
        (codec.BYTES, bytes(8), False),
        (codec.TEXT, b"8 bytes!", True),
        (codec.COUNTER, bytes(8), True),
        (codec.BYTES, bytes(7), True),
    ],
)
def test_what_is_no_state(table: Table, codec_number: int, payload: bytes, sliding: bool) -> None:
    table.set("key", codec_number, payload, 0)
    with pytest.raises(NotACounter):
        limiting.hit(table, "key", 5, HOUR_MS, 1, sliding=sliding)
    assert table.read("key") is not None


@pytest.mark.parametrize(
    "arguments",
    [
        {"cost": 0}, {"cost": 6}, {"cost": -1}, {"rate": 0}, {"rate": 2**63},
        {"rate": SLIDING_HITS_MAX + 1, "sliding": True}, {"per_ms": 0}, {"per_ms": TTL_MS_MAX + 1},
    ],
    ids=repr,
)  # fmt: skip
def test_numbers_out_of_range_are_refused(table: Table, arguments: dict[str, Any]) -> None:
    """They come from another process."""
    good: dict[str, Any] = {"rate": 5, "per_ms": HOUR_MS, "cost": 1, "sliding": False}
    with pytest.raises(InvalidArgument):
        limiting.hit(table, "key", **good | arguments)
    assert table.read("key") is None

"""The sweeper: visits every bucket of every shard, a part at a time, and lets others in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import pytest
import uvloop

from kvserve import limits
from kvserve.table.table import Table
from kvserve.worker.sweeper import Sweeper

BUCKETS = 10 * limits.SWEEP_SHARE
SHARDS = range(1, 40, 4)


class Visits:
    """Stands in for a table: writes down which parts are visited, and goes round as it does."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []
        self.rounds: list[int] = []  # the event loop's, in which each was visited
        self.round = 0
        self.now = 0.0
        self.visit_seconds = 0.0  # what each takes

    def geometry(self) -> dict[str, int]:
        return {"buckets": BUCKETS}

    def sweep(self, shard: int, bucket: int, buckets: int) -> int:
        self.seen.append((shard, bucket, buckets))
        self.rounds.append(self.round)
        self.now += self.visit_seconds
        return (bucket + buckets) % BUCKETS


@pytest.fixture
def visits() -> Visits:
    return Visits()


def sweeper_of(visits: Visits, shards: range) -> Sweeper:
    """A sweeper on the running loop, by the visits' own clock."""
    loop = asyncio.get_running_loop()
    return Sweeper(cast(Table, visits), shards, loop, clock=lambda: visits.now)


async def sweep(visits: Visits, shards: range, turns: int) -> None:
    """Lets a sweeper take so many turns, whole ones."""
    sweeper = sweeper_of(visits, shards)
    for _ in range(turns):
        sweeper.turn()
        for _ in range(len(shards) + 1):  # at most a step for each, and one that finds none left
            visits.round += 1
            await asyncio.sleep(0)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("visit_seconds", [0.0, limits.SWEEP_STEP_SECONDS / 3, 1.0])
def test_a_pass_visits_every_bucket_of_every_shard_once(
    visits: Visits, run: Any, visit_seconds: float
) -> None:
    visits.visit_seconds = visit_seconds
    run(sweep(visits, SHARDS, limits.SWEEP_SHARE))
    parts = BUCKETS // limits.SWEEP_SHARE
    expected = [(shard, bucket, parts) for bucket in range(0, BUCKETS, parts) for shard in SHARDS]
    assert visits.seen == expected


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_others_have_their_turn_when_its_time_is_up(visits: Visits, run: Any) -> None:
    visits.visit_seconds = limits.SWEEP_STEP_SECONDS / 2
    run(sweep(visits, SHARDS, 3))
    assert max(Counter(visits.rounds).values()) == 2


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_turn_that_takes_no_time_is_done_at_once(visits: Visits, run: Any) -> None:
    run(sweep(visits, SHARDS, 3))
    assert set(Counter(visits.rounds).values()) == {len(SHARDS)}


def test_no_turn_begins_while_one_is_under_way(visits: Visits) -> None:
    async def turn_twice() -> None:
        sweeper = sweeper_of(visits, SHARDS)
        sweeper.turn()
        sweeper.turn()
        for _ in range(2 * len(SHARDS)):
            await asyncio.sleep(0)

    visits.visit_seconds = 1.0
    asyncio.run(turn_twice())
    assert [shard for shard, _, _ in visits.seen] == list(SHARDS)


def test_a_worker_without_shards_sweeps_nothing(visits: Visits) -> None:
    asyncio.run(sweep(visits, range(0), 2))
    assert visits.seen == []


def test_a_stop_ends_the_turn(visits: Visits) -> None:
    async def stop() -> None:
        sweeper = sweeper_of(visits, SHARDS)
        sweeper.turn()
        sweeper.stop()
        for _ in SHARDS:
            await asyncio.sleep(0)

    visits.visit_seconds = 1.0
    asyncio.run(stop())
    assert len(visits.seen) == 1

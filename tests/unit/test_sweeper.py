"""The sweeper: visits every bucket of every shard, a part at a time, and lets others in between."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import uvloop

from kvserve import limits
from kvserve.table.table import Table
from kvserve.worker.sweeper import Sweeper

BUCKETS = 1000
SHARDS = range(1, 40, 4)


class Visits:
    """Stands in for a table: writes down which parts are visited, and goes round as it does."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []
        self.rounds: list[int] = []  # the event loop's, in which each was visited
        self.round = 0

    def geometry(self) -> dict[str, int]:
        return {"buckets": BUCKETS}

    def sweep(self, shard: int, bucket: int, buckets: int) -> int:
        self.seen.append((shard, bucket, buckets))
        self.rounds.append(self.round)
        return (bucket + buckets) % BUCKETS


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> Visits:
    monkeypatch.setattr(limits, "SWEEP_INTERVAL_SECONDS", 0.001)
    return Visits()


async def sweep(visits: Visits, shards: range, turns: int) -> None:
    """Lets a sweeper take so many turns."""
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(cast(Table, visits), shards, loop)
    while len(visits.seen) < turns * len(shards):
        await asyncio.sleep(0)
        visits.round += 1
    sweeper.stop()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_pass_visits_every_bucket_of_every_shard_once(visits: Visits, run: Any) -> None:
    run(sweep(visits, SHARDS, limits.SWEEP_SHARE))
    parts = BUCKETS // limits.SWEEP_SHARE
    expected = [(shard, bucket, parts) for bucket in range(0, BUCKETS, parts) for shard in SHARDS]
    assert visits.seen == expected


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_others_have_their_turn_after_every_part(visits: Visits, run: Any) -> None:
    run(sweep(visits, SHARDS, 3))
    assert len(set(visits.rounds)) == 3 * len(SHARDS)


def test_a_worker_without_shards_sweeps_nothing(visits: Visits) -> None:
    async def wait() -> None:
        sweeper = Sweeper(cast(Table, visits), range(0), asyncio.get_running_loop())
        await asyncio.sleep(0.01)
        sweeper.stop()

    asyncio.run(wait())
    assert visits.seen == []


def test_none_after_the_end(visits: Visits) -> None:
    async def stop_and_wait() -> int:
        await sweep(visits, SHARDS, 1)
        seen = len(visits.seen)
        await asyncio.sleep(0.02)
        return len(visits.seen) - seen

    assert asyncio.run(stop_and_wait()) == 0

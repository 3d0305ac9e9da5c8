"""Goal 8: how many reads hit, at equal memory, beside memcached, Valkey and a simulated S3-FIFO?

Read-through: a miss is followed by a set. Items of 8 + 4,000 bytes, so that memcached's pages of
1 MiB and Valkey's own needs are small beside the memory. The loads: the trace in data/, and zipfian
draws of which 5 % or 50 % are sets and the first half only warms up. S3-FIFO is simulated with as
many objects as the memory would hold without any overhead.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from rich.progress import track

from benchmarks import report
from benchmarks.caches import (
    Open,
    Opened,
    kvserve_direct,
    memcached_by_pylibmc,
    valkey_by_redis,
)
from benchmarks.effort import Effort
from benchmarks.measuring import STDERR, Spread, on_cores, one_core
from benchmarks.peers import enter
from benchmarks.replay import S3_FIFO, TRACE, load, replay
from benchmarks.report import Goal, Report, Table
from benchmarks.simulation import S3Fifo
from kvserve.bench.operations import scattered, zipf_bounds

VALUE = b"v" * 4_000
ITEM_BYTES = 8 + len(VALUE)
SKEWS = (0.8, 0.99)
SET_SHARES = (0.05, 0.5)
ZIPF_MEMORY_SHARE = 10  # the memory is a tenth of the data
MARGIN = 0.01
REFERENCE = "S3-FIFO, simulated"

PEERS: dict[str, Callable[[int], AbstractContextManager[Open]]] = {
    "kvserve": lambda memory_mib: kvserve_direct(memory_mib, ITEM_BYTES),
    "memcached": memcached_by_pylibmc,
    "Valkey, allkeys-lru": valkey_by_redis,
    "Valkey, allkeys-lfu": lambda memory_mib: valkey_by_redis(memory_mib, "allkeys-lfu"),
}


@dataclass(frozen=True)
class Load:
    """Requests in order: which object, and whether it is set. Hits count from `warm` on."""

    name: str
    objects: Sequence[int]
    sets: Sequence[bool]
    warm: int


def traced() -> Load:
    objects = load(TRACE).tolist()
    return Load("trace web07", objects, [False] * len(objects), 0)


def zipfian(skew: float, set_share: float, count: int, requests: int, seed: int) -> Load:
    source = random.Random(seed)
    popular = scattered(range(count))
    objects = source.choices(popular, cum_weights=zipf_bounds(count, skew), k=requests)
    sets = [source.random() < set_share for _ in range(requests)]
    return Load(f"zipf {skew:g}, {set_share:.0%} sets", objects, sets, requests // 2)


def hit_ratio(
    load: Load, ask: Callable[[int], bool], put: Callable[[int], Any], what: str
) -> float:
    """The share of reads that hit."""
    hits = reads = 0
    requests = zip(load.objects, load.sets, strict=True)
    for number, (key, is_set) in enumerate(
        track(requests, f"{load.name}: {what}", len(load.objects), console=STDERR, transient=True)
    ):
        if is_set:
            put(key)
            continue
        hit = ask(key)
        if number >= load.warm:
            reads += 1
            hits += hit
    return hits / reads


def through(opened: Opened) -> tuple[Callable[[int], bool], Callable[[int], Any]]:
    """Asks and puts on a real cache."""
    get, store = opened.get, opened.put

    def ask(number: int) -> bool:
        key = b"%08x" % number
        if get(key) is not None:
            return True
        store(key, VALUE)
        return False

    return ask, lambda number: store(b"%08x" % number, VALUE)


def measure_load(load: Load, memory_mib: int, answer: Report) -> dict[str, float]:
    """The hit ratio of every cache, each alone on the machine."""
    ratios = {}
    for name, peer in PEERS.items():
        with ExitStack() as stack:
            opens = enter(stack, peer(memory_mib), answer.missing)
            if opens is not None:
                ratios[name] = hit_ratio(load, *through(opens()), f"{name}, {memory_mib} MiB")
    ideal = S3Fifo(memory_mib * 2**20 // ITEM_BYTES)
    ratios[REFERENCE] = hit_ratio(load, ideal.ask, ideal.put, REFERENCE)
    return ratios


def measure(effort: Effort) -> Report:
    answer = Report()
    rounds = 5 if effort.is_full else 1  # a hit ratio hardly depends on what else the machine does
    memories = (8, 16, 32, 64) if effort.is_full else (8, 32)
    count, requests = (100_000, 200_000) if effort.is_full else (20_000, 40_000)
    zipf_mib = count * ITEM_BYTES // ZIPF_MEMORY_SHARE >> 20
    cells: dict[tuple[str, int], list[dict[str, float]]] = {}
    with on_cores(one_core()):  # quicker where waking another core is slow
        for seed in range(rounds):
            loads = [(traced(), memory_mib) for memory_mib in memories]
            for skew, share in itertools.product(SKEWS, SET_SHARES):
                loads.append((zipfian(skew, share, count, requests, seed), zipf_mib))
            for each, memory_mib in loads:
                ratios = measure_load(each, memory_mib, answer)
                cells.setdefault((each.name, memory_mib), []).append(ratios)
    answer.missing = list(dict.fromkeys(answer.missing))
    _conclude(cells, answer)
    _replayed(answer)
    answer.notes.append(
        "the replay is faster than life: Valkey's LRU clock ticks once a second and memcached "
        "notes a use once a minute, so both see less of the order than they would in production"
    )
    return answer


def _conclude(cells: dict[tuple[str, int], list[dict[str, float]]], answer: Report) -> None:
    names = [name for name in [*PEERS, REFERENCE] if name in next(iter(cells.values()))[0]]
    rows: list[list[Any]] = []
    ahead: dict[str, Spread] = {}
    behind: dict[str, Spread] = {}
    for (load_name, memory_mib), rounds in cells.items():
        row = [Spread.of([ratios[name] for ratios in rounds]).median for name in names]
        rows.append([f"{load_name}, {memory_mib} MiB", *row])
        for name in set(names) - {"kvserve", REFERENCE}:
            margin = [ratios["kvserve"] - ratios[name] for ratios in rounds]
            ahead[f"{load_name}, {memory_mib} MiB, against {name}"] = Spread.of(margin)
        if load_name.startswith("trace"):
            margin = [ratios[REFERENCE] - ratios["kvserve"] for ratios in rounds]
            behind[f"{load_name}, {memory_mib} MiB"] = Spread.of(margin)
    answer.tables.append(Table("hit ratio at equal memory", ["", *names], rows))
    answer.data["cells"] = [
        {
            "load": load_name,
            "memory_mib": memory_mib,
            "ratios": dict(zip(names, row[1:], strict=True)),
        }
        for (load_name, memory_mib), row in zip(cells, rows, strict=True)
    ]
    if ahead:
        worst = min(ahead, key=lambda what: ahead[what].median)
        what = f"hit ratio less the peer's, worst: {worst}"
        answer.goals.append(Goal(8, what, ahead[worst], 0.0, at_most=False, unit=""))
    worst = max(behind, key=lambda what: behind[what].median)
    what = f"S3-FIFO's hit ratio less ours, worst: {worst}"
    answer.goals.append(Goal(8, what, behind[worst], MARGIN, unit=""))


def _replayed(answer: Report) -> None:
    """The published figures: the trace over a table that holds so many objects exactly."""
    rows = []
    for objects, reference in S3_FIFO.items():
        done = replay(TRACE, objects, "direct", progress=True)
        rows.append([objects, done.miss_ratio, reference])
        difference = done.miss_ratio - reference
        spread = Spread(difference, difference, difference)
        what = f"miss ratio less S3-FIFO's as published, {objects:,} objects"
        answer.goals.append(Goal(8, what, spread, MARGIN, unit=""))
    columns = ["objects", "kvserve's miss ratio", "S3-FIFO's"]
    answer.tables.append(Table("the trace in a table of so many objects", columns, rows))


if __name__ == "__main__":
    report.main("hit_ratio", measure)

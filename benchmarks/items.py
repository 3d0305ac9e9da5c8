"""Goal 6: does a get cost more when there are more items, and by how much more than a dict's does?

Items of 12 + 100 bytes, asked for at random, by key objects that are new in every round: both have
to hash the key, and to find it in memory that no cache of the processor holds any more. A get_many
fetches for some keys at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import kvserve
from benchmarks import report
from benchmarks.effort import Effort
from benchmarks.instance import running
from benchmarks.measuring import Figures, Spread, Turn, alternate
from benchmarks.report import Goal, Report, Table

GETS = 100_000  # in a turn
MANY = 100  # to a get_many
BATCH = 10_000
VALUE_BYTES = 100
ITEM_BYTES = 12 + VALUE_BYTES
TABLE_BYTES_AN_ITEM = 200  # generous: nothing is to be evicted
BYTES_AN_ITEM = 500  # of the dict and the table together
BOUND = 1.5


def counts(effort: Effort) -> list[int]:
    """10**3 to 10**7 items; a quick run ends at 10**6, and 10**7 need 5 GB."""
    last = 7 if effort.is_full else 6
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [10**power for power in range(3, last + 1) if 10**power * BYTES_AN_ITEM < available]


def key_of(number: int) -> bytes:
    return b"key:%08d" % number


def value_of(number: int) -> bytes:
    return b"%0100d" % number  # each an object of its own, as values are


def measure(effort: Effort) -> Report:
    answer = Report()
    rows: list[list[Any]] = []
    for count in counts(effort):
        table_mib = max(16, count * TABLE_BYTES_AN_ITEM >> 20)
        flags = ("--memory", f"{table_mib}MiB", "--item-size", str(ITEM_BYTES), "--workers", "1")
        with running(*flags) as name, kvserve.connect(name, timeout=10) as cache:
            items: dict[bytes, bytes] = {}
            for start in range(0, count, BATCH):
                batch = {
                    key_of(number): value_of(number)
                    for number in range(start, min(count, start + BATCH))
                }
                items |= batch
                cache.set_many(batch)
            turns = {
                "dict": _turn(items.get, count),
                "kvserve": _turn(cache.get, count),
                "get_many": _turn_of_many(cache, count),
            }
            rounds = alternate(turns, effort.rounds, f"{count:,} items")
            rows.append([count, *(rounds.median(turn, "ns") for turn in turns)])
            answer.data.setdefault("ratios", []).append(
                [
                    ours / theirs
                    for ours, theirs in zip(
                        rounds.values("kvserve", "ns"), rounds.values("dict", "ns"), strict=True
                    )
                ]
            )
    columns = ["items", "dict ns", "kvserve ns", "get_many ns an item"]
    answer.tables.append(Table("a get among so many items", columns, rows))
    answer.data["rows"] = rows
    ratios = answer.data["ratios"]
    growth = [many / few for few, many in zip(ratios[0], ratios[-1], strict=True)]
    what = f"growth of a get from {rows[0][0]:,} to {rows[-1][0]:,} items / a dict's"
    answer.goals.append(Goal(6, what, Spread.of(growth), BOUND))
    if rows[-1][0] < 10**7:
        answer.notes.append("10,000,000 items are asked for by --time full, where memory allows it")
    return answer


def _keys(generator: np.random.Generator, count: int) -> list[bytes]:
    return [key_of(number) for number in generator.integers(0, count, GETS).tolist()]


def _turn(get: Callable[[bytes], Any], count: int) -> Turn:
    generator = np.random.default_rng(count)

    def turn() -> Figures:
        keys = _keys(generator, count)
        started = time.perf_counter()
        for key in keys:
            if get(key) is None:
                raise AssertionError(f"{key!r} is missing")
        return {"ns": (time.perf_counter() - started) * 1e9 / GETS}

    return turn


def _turn_of_many(cache: kvserve.Client, count: int) -> Turn:
    generator = np.random.default_rng(count)

    def turn() -> Figures:
        keys = _keys(generator, count)
        batches = [keys[start : start + MANY] for start in range(0, GETS, MANY)]
        different = [len(set(batch)) for batch in batches]
        started = time.perf_counter()
        for batch, hits in zip(batches, different, strict=True):
            if len(cache.get_many(batch)) != hits:
                raise AssertionError("a key is missing")
        return {"ns": (time.perf_counter() - started) * 1e9 / GETS}

    return turn


if __name__ == "__main__":
    report.main("items", measure)

"""Fair comparisons: contenders take turns, and what counts is the median of the rounds' ratios.

A busy or throttled machine changes from second to second, but within a round it is much the same
for all. So a ratio is taken within each round, and its median and its spread over the rounds are
what is reported.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

Figures = dict[str, float]
Turn = Callable[[], Figures]
STDERR = Console(stderr=True)


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and the least and the largest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


class Rounds:
    """The figures of every contender in every round."""

    def __init__(self) -> None:
        self.figures: dict[str, list[Figures]] = {}

    def add(self, contender: str, figures: Figures) -> None:
        self.figures.setdefault(contender, []).append(figures)

    def values(self, contender: str, figure: str) -> list[float]:
        return [figures[figure] for figures in self.figures[contender]]

    def median(self, contender: str, figure: str) -> float:
        return statistics.median(self.values(contender, figure))

    def ratio(self, contender: str, other: str, figure: str) -> Spread:
        """A contender's figure over another's, within each round."""
        pairs = zip(self.values(contender, figure), self.values(other, figure), strict=True)
        return Spread.of([ours / theirs for ours, theirs in pairs])

    def medians(self) -> dict[str, Figures]:
        return {
            contender: {figure: self.median(contender, figure) for figure in rounds[0]}
            for contender, rounds in self.figures.items()
        }


def alternate(turns: Mapping[str, Turn], rounds: int, description: str) -> Rounds:
    """Gives every contender its turn in every round; another one begins each time."""
    measured = Rounds()
    names = list(turns)
    for number in track(range(rounds), description, console=STDERR, transient=True):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            measured.add(name, turns[name]())
    return measured


def loop_turn(run: Callable[[int], Any], seconds: float, items: int = 1) -> Turn:
    """A turn of a loop of ours: `run(count)` does so many operations of `items` items each.

    The count is found once, so that each turn takes about so many seconds.
    """
    count = 1
    while (spent := _seconds(run, count)) < seconds / 10:
        count *= 2
    count = max(1, int(count * seconds / spent))

    def turn() -> Figures:
        return {"ns": _seconds(run, count) * 1e9 / count / items}

    return turn


def _seconds(run: Callable[[int], Any], count: int) -> float:
    started = time.perf_counter()
    run(count)
    return time.perf_counter() - started


def latency_turn(operation: Callable[[], Any], seconds: float) -> Turn:
    """A turn that takes the time of each single call."""

    def turn() -> Figures:
        clock = time.perf_counter_ns
        spent: list[int] = []
        now = clock()
        end = now + int(seconds * 1e9)
        while now < end:
            begin = clock()
            operation()
            now = clock()
            spent.append(now - begin)
        return latencies(np.array(spent))

    return turn


def latencies(spent_ns: Any) -> Figures:
    """Median and 99th percentile of an array of nanoseconds, in microseconds."""
    p50, p99 = np.percentile(spent_ns, [50, 99]) / 1000
    return {"p50_us": float(p50), "p99_us": float(p99)}


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Keeps this process, and those that it starts meanwhile, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def one_core() -> set[int]:
    """A core that we may use."""
    return {max(os.sched_getaffinity(0))}

"""Goal 10: how much of a core do the workers use when nothing comes?

With two workers, a connected client that is silent, and items in the table: the sweeper runs on.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.progress import track

import kvserve
from benchmarks import report
from benchmarks.effort import Effort
from benchmarks.instance import place, serving
from benchmarks.measuring import STDERR, Spread
from benchmarks.report import Goal, Report, Table

SECONDS = 20
ITEMS = 100_000
BATCH = 1_000
BOUND_PERCENT = 0.5
SETTLE_SECONDS = 1.0


def used_seconds(pid: int) -> float:
    """The time that a process, with all its threads, was on a processor."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(effort: Effort) -> Report:
    del effort  # the goal names the time
    answer = Report()
    flags = ("--no-keep", "--memory", "256MiB", "--workers", "2")
    with place() as name, serving(name, *flags) as pid, kvserve.connect(name) as cache:
        for start in range(0, ITEMS, BATCH):
            numbers = range(start, start + BATCH)
            cache.set_many({b"key:%08d" % number: b"x" * 100 for number in numbers})
        workers = cache.stats()["workers"]
        pids = {f"worker {worker['index']}": worker["pid"] for worker in workers}
        pids["parent"] = pid
        time.sleep(SETTLE_SECONDS)
        before = {who: used_seconds(each) for who, each in pids.items()}
        started = time.monotonic()
        for _ in track(range(SECONDS), "idle", console=STDERR, transient=True):
            time.sleep(1)
        elapsed = time.monotonic() - started
        used = {who: used_seconds(each) - before[who] for who, each in pids.items()}
    percents = {who: 100 * seconds / elapsed for who, seconds in used.items()}
    rows = [[who, percent] for who, percent in percents.items()]
    answer.tables.append(Table("processor used while idle", ["", "% of a core"], rows))
    together = sum(percent for who, percent in percents.items() if who != "parent")
    spread = Spread(together, together, together)
    answer.goals.append(Goal(10, "all workers together", spread, BOUND_PERCENT, unit="% of a core"))
    return answer


if __name__ == "__main__":
    report.main("idle", measure)

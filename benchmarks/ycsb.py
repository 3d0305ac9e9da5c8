"""YCSB A, B, C, D, F: how many operations a second do 1, 2, 4, 8 processes get from each cache?

100,000 records of 1,000 bytes, zipfian .99. Each cache has its own processes, forked once; in every
round each cache's processes get a turn while all others sleep.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import numpy as np
from rich.progress import Progress

from benchmarks import report
from benchmarks.caches import OURS, Open, Opened, all_caches
from benchmarks.effort import Effort
from benchmarks.measuring import STDERR, Figures, Rounds, Spread, latencies
from benchmarks.peers import enter
from benchmarks.report import Goal, Report, Table
from kvserve.bench.operations import INSERTS_MAX, MODIFY, WRITE, YCSB, Draws

RECORDS = 100_000
VALUE_BYTES = 1_000
MEMORY_MIB = 512
PROCESSES = (1, 2, 4, 8)
DRAWS = 50_000  # operations of a process, which it then repeats
PATIENCE_SECONDS = 120.0
LOAD_BATCH = 100

VALUE = b"v" * VALUE_BYTES

T = TypeVar("T")
Plan = list[tuple[int, bytes]]  # READ, WRITE or MODIFY, and the key


class Failed(Exception):
    """A cache's process could not go on; the sentence says why."""


class Team:
    """The processes of one cache, each at the other end of a pipe."""

    def __init__(self, name: str, opens: Open) -> None:
        self.name = name
        context = multiprocessing.get_context("fork")
        self._pipes: list[Connection[Any, Any]] = []
        self._processes = []
        for number in range(max(PROCESSES)):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_live, args=(theirs, [*self._pipes, ours], opens, number), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def load(self) -> None:
        self._pipes[0].send(("load", 0.0))
        self._answer(self._pipes[0])

    def turn(self, workload: str, processes: int, seconds: float) -> Figures:
        """What so many processes get done in so many seconds."""
        chosen = self._pipes[:processes]
        for pipe in chosen:
            pipe.send((workload, seconds))
        parts = [self._answer(pipe) for pipe in chosen]
        spent = np.concatenate([np.frombuffer(part["spent_ns"], np.int64) for part in parts])
        return {
            "operations": sum(part["operations"] / part["seconds"] for part in parts),
            "misses": sum(part["misses"] for part in parts),
            **latencies(spent),
        }

    def _answer(self, pipe: Connection[Any, Any]) -> Any:
        if not pipe.poll(PATIENCE_SECONDS):
            raise Failed(f"{self.name}: no answer within {PATIENCE_SECONDS:.0f} s")
        try:
            answer = pipe.recv()
        except EOFError:
            raise Failed(f"{self.name}: a process died") from None
        if isinstance(answer, str):
            raise Failed(f"{self.name}: {answer}")
        return answer

    def dismiss(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(1.0)
            if process.is_alive():
                process.kill()
                process.join()


def _live(
    pipe: Connection[Any, Any], others: list[Connection[Any, Any]], opens: Open, number: int
) -> None:
    """A process's life: does what is asked until its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks has it too, and closes the pipe
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    with suppress(EOFError, ConnectionError):
        _answer_all(pipe, opens, number)


def _answer_all(pipe: Connection[Any, Any], opens: Open, number: int) -> None:
    opened: Opened | None = None
    plans: dict[str, Plan] = {}
    while True:
        task, seconds = pipe.recv()
        answer: Any
        try:
            opened = opened or opens()
            if task == "load":
                answer = _load(opened)
            else:
                if task not in plans:
                    plans[task] = _plan(task, number)
                answer = _drive(opened, plans[task], seconds)
        except Exception as error:  # whatever a peer raises is that peer's result
            answer = f"{type(error).__name__}: {error}"
        pipe.send(answer)


def _plan(workload: str, number: int) -> Plan:
    """What the process of this number does, the same at every run."""
    new_keys = [b"new%02d%07d" % (number, inserted) for inserted in range(INSERTS_MAX)]
    return Draws(YCSB[workload], _record_keys()).operations(DRAWS, new_keys, str(number))


def _record_keys() -> list[bytes]:
    return [b"user%08d" % number for number in range(RECORDS)]


def _load(opened: Opened) -> int:
    keys = _record_keys()
    for start in range(0, RECORDS, LOAD_BATCH):
        opened.put_many(dict.fromkeys(keys[start : start + LOAD_BATCH], VALUE))
    for key in keys[:: RECORDS // 100]:
        found = opened.get(key)
        if found != VALUE:
            raise ValueError(f"{key!r} holds {found!r:.20}")
    return RECORDS


def _drive(opened: Opened, plan: Plan, seconds: float) -> dict[str, Any]:
    """Repeats the plan for so many seconds, and takes the time of every operation."""
    clock, get, put = time.perf_counter_ns, opened.get, opened.put
    spent = array("q")
    misses = 0
    begin = now = clock()
    end = begin + int(seconds * 1e9)
    for kind, key in itertools.cycle(plan):
        started = now
        if kind == WRITE:
            put(key, VALUE)
        else:
            misses += get(key) is None
            if kind == MODIFY:
                put(key, VALUE)
        now = clock()
        spent.append(now - started)
        if now >= end:
            break
    return {
        "operations": len(spent),
        "seconds": (now - begin) / 1e9,
        "misses": misses,
        "spent_ns": spent.tobytes(),
    }


def measure(effort: Effort) -> Report:
    answer = Report()
    with ExitStack() as stack:
        teams = []
        for name, cache in all_caches(MEMORY_MIB, VALUE_BYTES + 12, max(PROCESSES)).items():
            opens = enter(stack, cache, answer.missing)
            if opens is not None:
                team = Team(name, opens)
                stack.callback(team.dismiss)
                teams.append(team)
        cells = list(itertools.product(YCSB, PROCESSES))
        with Progress(console=STDERR, transient=True) as progress:
            task = progress.add_task("YCSB", total=len(teams) + len(cells) * effort.rounds)
            for team in list(teams):
                progress.update(task, description=f"loading {team.name}", advance=1)
                _try(team.load, team, teams, answer, "the start")
            measured = {}
            for workload, processes in cells:
                progress.update(task, description=f"{workload}, {processes} processes")
                measured[workload, processes] = _cell(
                    teams, workload, processes, effort, answer, lambda: progress.advance(task)
                )
    _conclude(measured, answer)
    return answer


def _cell(
    teams: list[Team], workload: str, processes: int, effort: Effort, answer: Report, step: Any
) -> Rounds:
    rounds = Rounds()
    seconds = effort.cell_seconds / effort.rounds
    for number in range(effort.rounds):
        first = number % len(teams)
        for team in teams[first:] + teams[:first]:
            turn = partial(team.turn, workload, processes, seconds)
            where = f"{workload} x {processes}"
            if (figures := _try(turn, team, teams, answer, where)) is not None:
                rounds.add(team.name, figures)
        step()
    for name in [name for name, all_ in rounds.figures.items() if len(all_) < effort.rounds]:
        del rounds.figures[name]
    return rounds


def _try(
    work: Callable[[], T], team: Team, teams: list[Team], answer: Report, where: str
) -> T | None:
    """A cache that fails is out for the rest, and the report says why. Not so kvserve."""
    try:
        return work()
    except Failed as sentence:
        if team.name in OURS:
            raise
        teams.remove(team)
        answer.missing.append(f"{sentence}; it has no figures from {where} on")
        return None


def _conclude(measured: dict[tuple[str, int], Rounds], answer: Report) -> None:
    names = list(dict.fromkeys(name for rounds in measured.values() for name in rounds.figures))
    rows: dict[str, list[list[Any]]] = {"operations": [], "p50_us": [], "p99_us": []}
    ratios: dict[str, dict[str, Spread]] = {ours: {} for ours in OURS}
    for (workload, processes), rounds in measured.items():
        medians = rounds.medians()
        for figure, lines in rows.items():
            cells = [medians[name][figure] if name in medians else None for name in names]
            lines.append([f"{workload} x {processes}", *cells])
        others = [name for name in medians if name not in OURS]
        if not others:
            continue
        best = max(others, key=lambda name: medians[name]["operations"])
        for ours in OURS:
            ratio = rounds.ratio(ours, best, "operations")
            rows["operations"][-1].append(ratio.median)
            ratios[ours][f"{workload} x {processes} against {best}"] = ratio
        rows["operations"][-1].append(best)
    titles = {
        "operations": "operations a second",
        "p50_us": "median latency, us",
        "p99_us": "99th percentile of latency, us",
    }
    for figure, lines in rows.items():
        columns = ["workload x processes", *names]
        if figure == "operations":
            columns += [*(f"{ours} / best other" for ours in OURS), "best other"]
        answer.tables.append(Table(titles[figure], columns, lines))
    for ours, against in ratios.items():
        if against:
            worst = min(against, key=lambda row: against[row].median)
            ahead = sum(ratio.median > 1 for ratio in against.values())
            what = f"{ours}: ahead in {ahead} of {len(against)} rows; the worst: {worst}"
            answer.goals.append(Goal(5, what, against[worst], 1.0, at_most=False))
    if missed := {name: count for name, count in _misses(measured).items() if count}:
        answer.notes.append(f"reads that found nothing, per turn: {missed}")
    answer.data["cells"] = [
        {"workload": workload, "processes": processes, "figures": rounds.medians()}
        for (workload, processes), rounds in measured.items()
    ]
    answer.notes.append(
        "in D a process reads what it inserted itself last, then what was loaded; it inserts "
        "some 2,500 keys, then writes these again"
    )


def _misses(measured: dict[tuple[str, int], Rounds]) -> dict[str, float]:
    """The largest median of misses of each cache: what evicts or loses is quick for it."""
    worst: dict[str, float] = {}
    for rounds in measured.values():
        for name, figures in rounds.medians().items():
            worst[name] = max(worst.get(name, 0), figures["misses"])
    return worst


if __name__ == "__main__":
    report.main("ycsb", measure)

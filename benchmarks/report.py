"""What a question answers: tables, goals kept or missed, a JSON file; and the command around it."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from benchmarks import machine
from benchmarks.effort import EFFORTS, Effort
from benchmarks.measuring import Spread

RESULTS = Path(__file__).parent / "runs"  # of this machine; not tracked
PUBLISHED = Path(__file__).parent / "results"  # what the pages show


@dataclass(frozen=True)
class Goal:
    """One of the goals of speed: what was measured, and the bound that it has to keep."""

    number: int
    what: str
    measured: Spread
    bound: float
    at_most: bool = True
    unit: str = "x"

    @property
    def kept(self) -> bool:
        if self.at_most:
            return self.measured.median <= self.bound
        return self.measured.median >= self.bound

    def in_words(self) -> tuple[str, str, str]:
        """The bound, what was measured with its spread, and the verdict."""
        measured = self.measured
        return (
            f"{'at most' if self.at_most else 'at least'} {self.bound:g} {self.unit}",
            f"{number(measured.median)} ({number(measured.low)} to {number(measured.high)})",
            "kept" if self.kept else "missed",
        )


@dataclass(frozen=True)
class Table:
    """Rows of figures and words under their columns."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


@dataclass
class Report:
    """All that a question found out.

    `missing` says which peers were not there and how to get them; `data` is for the pictures.
    """

    goals: list[Goal] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


Measure = Callable[[Effort], Report]


def main(question: str, measure: Measure) -> None:
    """Runs a question as a command: `python -m benchmarks.NAME --time full`."""

    @click.command(help=sys.modules["__main__"].__doc__)
    @time_option
    @output_option
    def command(effort: str, output: Path) -> None:
        end_in_order()
        save(question, measure, EFFORTS[effort], output)

    command()


def end_in_order() -> None:
    """Makes TERM an exception, as Ctrl-C is: servers, files and shared memory are removed first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


time_option = click.option(
    "--time", "effort", type=click.Choice(list(EFFORTS)), default="quick", show_default=True,
    help="How long to measure.",
)  # fmt: skip
output_option = click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS,
    show_default=True, help="Where the JSON goes.",
)  # fmt: skip


def save(question: str, measure: Measure, effort: Effort, output: Path) -> None:
    """Measures, prints, and writes `question.json`."""
    described = machine.describe()
    began, started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    report = measure(effort)
    _print(question, report)
    result = {
        "question": question,
        "time": effort.name,
        "rounds": effort.rounds,
        "began": began,
        "seconds": round(time.monotonic() - started, 1),
        "machine": described,
        **dataclasses.asdict(report),
    }
    for goal, written in zip(report.goals, result["goals"], strict=True):
        written["kept"] = goal.kept
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{question}.json").write_text(json.dumps(result, indent=1) + "\n")


def load(output: Path, question: str) -> dict[str, Any] | None:
    """What `save` wrote; None if the question was not asked yet."""
    path = output / f"{question}.json"
    return json.loads(path.read_text()) if path.exists() else None


def goals_of(result: dict[str, Any]) -> list[Goal]:
    """The goals in a loaded result."""
    return [
        Goal(**{**goal, "measured": Spread(**goal["measured"])})
        for goal in ({k: v for k, v in goal.items() if k != "kept"} for goal in result["goals"])
    ]


def number(value: float) -> str:
    """Three digits that count.

    Example:
        >>> number(1234.5), number(12.345), number(0.00123)
        ('1,234', '12.3', '0.00123')
    """
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def cell(value: Any) -> str:
    """A table's cell; None is a cell that has no figure."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)


def wide_console() -> Console:
    """Where the tables go; in a file or a pipe they need not be narrow."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def _print(question: str, report: Report) -> None:
    console = wide_console()
    for table in report.tables:
        drawn = RichTable(title=escape(table.title), box=box.SIMPLE, title_justify="left")
        for index, column in enumerate(table.columns):
            drawn.add_column(column, justify="right" if index else "left")
        for row in table.rows:
            drawn.add_row(*(escape(cell(value)) for value in row))
        console.print(drawn)
    for goal in report.goals:
        bound, measured, verdict = goal.in_words()
        style = "green" if goal.kept else "red"
        console.print(
            f"goal {goal.number}, {escape(goal.what)}: {bound}, measured {measured}: "
            f"[{style}]{verdict}[/]"
        )
    for note in report.notes:
        console.print(f"note: {escape(note)}")
    for sentence in report.missing:
        console.print(f"[yellow]missing:[/] {escape(sentence)}")
    console.print(f"[dim]{question} done[/]")

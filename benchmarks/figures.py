"""Prints the tables of both README.md and of docs/ipc.md: `python -m benchmarks.figures`.

They are made of the results of this machine's runs. With --publish it takes these results over
into `results/`, which is tracked, and puts the tables in their places on the pages, between the
marks `<!-- figures NAME -->` and `<!-- end -->`, and the picture of the means of IPC into docs/.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import click

from benchmarks import machine
from benchmarks.report import PUBLISHED, cell, goals_of, load, output_option, wide_console

HERE = Path(__file__).parent
README = HERE / "README.md"
FRONT_PAGE = HERE.parent / "README.md"
IPC_PAGE = HERE.parent / "docs" / "ipc.md"
BY_GOAL = (
    *("hit", "round_trip", "batches", "writer", "ycsb", "items", "memory", "hit_ratio", "start"),
    "idle",
)
IPC_TABLES = ("round trip, p50", "messages a second")

Rows = list[list[str]]


def markdown(columns: list[str], rows: Rows, *, words: int = 1) -> str:
    """A table in Markdown; so many columns hold words, the others figures."""
    lines = [columns, [*["---"] * words, *["---:"] * (len(columns) - words)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def goals(output: Path) -> Rows:
    """A row for each goal that was measured, and one for each question that gave none."""
    rows: Rows = []
    for question in BY_GOAL:
        result = load(output, question)
        if result is None:
            rows.append(["", question, "not asked yet", "", "", ""])
            continue
        found = goals_of(result)
        for goal in found:
            rows.append([str(goal.number), question, goal.what, *goal.in_words()])
        if not found:
            rows.append(["", question, "; ".join(result["missing"]), "", "", ""])
    return rows


def goals_table(output: Path) -> str:
    columns = ["goal", "question", "what", "bound", "measured (spread)", ""]
    table = markdown(columns, goals(output), words=6)
    return f"{_machine(output, BY_GOAL)}\n\n{table}{_left_out(output)}"


def front_table(output: Path) -> str:
    """The goals without their numbers, for those who only want to know what it costs."""
    rows = [row[1:] for row in goals(output) if row[0]]
    columns = ["question", "what", "goal", "measured (spread)", ""]
    return markdown(columns, rows, words=5) + _left_out(output)


def _left_out(output: Path) -> str:
    """Which peers had no figures, or not in all rows: who is ahead is ahead of the others only."""
    results = [(question, load(output, question)) for question in BY_GOAL]
    found = [f"{name}: {each}" for name, result in results if result for each in result["missing"]]
    return "".join(f"\n\nMissing in {sentence}." for sentence in found)


def parts_table(output: Path) -> str:
    """What pytest-benchmark wrote."""
    result = load(output, "parts")
    if result is None:
        return "Not measured yet."
    rows = [
        [part["name"].removeprefix("test_").replace("_", " "), f"{part['median'] * 1e6:.3g}"]
        for part in result["parts"]
    ]
    table = markdown(["part", "median, us"], rows)
    return f"The load average before these was {result['machine']['load'][0]}.\n\n{table}"


def ipc_tables(output: Path) -> str:
    result = load(output, "ipc")
    if result is None:
        return "Not measured yet."
    tables = [
        f"**{table['title']}**\n\n" + markdown(table["columns"], _cells(table["rows"]))
        for table in result["tables"]
        if table["title"].startswith((*IPC_TABLES, "Python"))
    ]
    return "\n\n".join([_machine(output, ("ipc",)), *tables])


def _cells(rows: list[list[Any]]) -> Rows:
    return [[cell(value) for value in row] for row in rows]


def _machine(output: Path, questions: tuple[str, ...]) -> str:
    """What all these results were measured on, and how."""
    results = [result for question in questions if (result := load(output, question))]
    if not results:
        return "Not measured yet."
    times = ", ".join(sorted({result["time"] for result in results}))
    loads = [result["machine"]["load"][0] for result in results]
    found = results[0]["machine"]
    versions = [f"{name} {version}" for name, version in found["packages"].items() if version]
    versions += [found[server] for server in ("valkey", "memcached") if found[server]]
    return (
        f"On a {machine.in_a_sentence(found)}, {found['libc']}; {', '.join(versions)}. "
        f"Runs: {times}, begun on {results[0]['began']}; the load average before each question "
        f"was {min(loads)} to {max(loads)}."
    )


def show(output: Path) -> None:
    """Prints how the goals stand."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table("goal", "question", "what", "bound", "measured", "", box=box.SIMPLE)
    for row in goals(output):
        style = {"kept": "green", "missed": "red"}.get(row[-1], "")
        table.add_row(*map(escape, row), style=style)
    wide_console().print(table)


def fill(page: Path, name: str, text: str) -> None:
    """Puts a text between a page's marks.

    Raises:
        ValueError: the page has no such marks.
    """
    marks = re.compile(rf"(<!-- figures {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    filled, count = marks.subn(lambda match: f"{match[1]}{text}\n{match[2]}", page.read_text())
    if count != 1:
        raise ValueError(f"{page} has no marks for {name}")
    page.write_text(filled)


def publish(output: Path) -> None:
    """Takes the results in `output` over as the published ones, and writes the pages' tables.

    A question that `output` has no results of keeps those that were published before.
    """
    if output.resolve() != PUBLISHED:
        for result in (*output.glob("*.json"), *output.glob("*.svg")):
            shutil.copy(result, PUBLISHED)
    fill(README, "goals", goals_table(PUBLISHED))
    fill(README, "parts", parts_table(PUBLISHED))
    fill(FRONT_PAGE, "front", front_table(PUBLISHED))
    fill(IPC_PAGE, "ipc", ipc_tables(PUBLISHED))
    if (picture := PUBLISHED / "ipc.svg").exists():
        shutil.copy(picture, IPC_PAGE.parent)


@click.command()
@output_option
@click.option("--publish", "is_published", is_flag=True, help="Write them into the pages.")
def main(output: Path, is_published: bool) -> None:
    """Prints the tables made of the results in --output, or publishes these results."""
    if is_published:
        publish(output)
    else:
        print(goals_table(output), parts_table(output), ipc_tables(output), sep="\n\n")


if __name__ == "__main__":
    main()

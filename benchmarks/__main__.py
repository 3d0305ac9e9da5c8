"""Asks all questions, one after the other, each in a process of its own; then draws pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console

from benchmarks import figures, pictures
from benchmarks.report import end_in_order, output_option, time_option

HERE = Path(__file__).parent
QUESTIONS = (
    *("hit", "round_trip", "batches", "writer", "ycsb", "items", "memory", "hit_ratio", "start"),
    *("idle", "ipc"),
)
PARTS = "parts"  # of kvserve by themselves, by pytest-benchmark


@click.command()
@click.argument("questions", nargs=-1, type=click.Choice([*QUESTIONS, PARTS]))
@time_option
@output_option
def main(questions: tuple[str, ...], effort: str, output: Path) -> None:
    """Asks QUESTIONS, all of them by default, and prints how the goals stand.

    A question that fails does not keep the others from being asked; the exit status tells.
    """
    end_in_order()
    console = Console(stderr=True)
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    failed = []
    for question in questions or (*QUESTIONS, PARTS):
        console.rule(question)
        if question == PARTS:
            parts = [str(path) for path in sorted(HERE.glob("test_*.py"))]
            command = [sys.executable, "-m", "pytest", "-q", *parts]
            command.append(f"--benchmark-json={output / PARTS}.json")
        else:
            module = f"benchmarks.{question}"
            command = [sys.executable, "-m", module, "--time", effort, "--output", str(output)]
        if _run(command) != 0:
            failed.append(question)
    pictures.draw_all(output)
    console.rule("goals")
    figures.show(output)
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


def _run(command: list[str]) -> int:
    """Runs a question; where we are ended, it is left the time to remove what it made."""
    process = subprocess.Popen(command, cwd=HERE.parent)
    try:
        return process.wait()
    except KeyboardInterrupt:  # it has the same Ctrl-C
        process.wait()
        raise
    except SystemExit:
        process.terminate()
        process.wait()
        raise


if __name__ == "__main__":
    main()

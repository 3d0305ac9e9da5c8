"""Asks all questions, one after the other, each in a process of its own; then draws pictures."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from benchmarks import figures, machine, pictures
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
        command = [sys.executable, "-m", f"benchmarks.{question}"]
        command += ["--time", effort, "--output", str(output)]
        status = _parts(output) if question == PARTS else _run(command)
        if status != 0:
            failed.append(question)
    pictures.draw_all(output)
    console.rule("goals")
    figures.show(output)
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


def _parts(output: Path) -> int:
    """Runs pytest-benchmark, and keeps of what it writes what our other results have."""
    with tempfile.TemporaryDirectory() as directory:
        written = Path(directory) / "benchmark.json"
        tests = [str(path) for path in sorted(HERE.glob("test_*.py"))]
        command = [sys.executable, "-m", "pytest", "-q", f"--benchmark-json={written}", *tests]
        described = machine.describe()
        status = _run(command)
        if status == 0:
            parts = [
                {"name": part["name"], "median": part["stats"]["median"]}
                for part in json.loads(written.read_text())["benchmarks"]
            ]
            result = {"question": PARTS, "machine": described, "parts": parts}
            (output / f"{PARTS}.json").write_text(json.dumps(result, indent=1) + "\n")
    return status


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

"""The command bench: flags, a progress bar, and a table of what was measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from kvserve.cli import output
from kvserve.cli.main import INTERRUPTED
from kvserve.cli.options import client_options, json_option

if TYPE_CHECKING:
    from kvserve.cli.workload import Load, Measured, Samples

PERCENTILES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p99.9_us": 0.999}


@click.command("bench")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to measure.",
)
@click.option(
    "--value-size",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    metavar="BYTES",
    help="Size of each value.",
)
@click.option(
    "--keys",
    type=click.IntRange(1, 10_000_000),
    default=10_000,
    show_default=True,
    metavar="N",
    help="How many keys, all equally likely.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="N",
    help="How many processes measure at once.",
)
@click.option(
    "--mode",
    type=click.Choice(["direct", "worker"]),
    default="direct",
    show_default=True,
    help="Read from shared memory, or ask the worker even for reads.",
)
@click.option(
    "--write-share",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    metavar="SHARE",
    help="Share of sets among the operations, from 0 to 1.",
)
@json_option
@client_options
def bench_command(as_json: bool, **flags: Any) -> None:
    """Measure gets and sets against a running instance.

    Fills keys of its own, gets and sets them at random, and deletes them. Prints the rate and
    the latencies, in microseconds, of gets that hit, gets that missed, and sets; each process
    does one after the other. A latency contains what taking the time costs, and a rate the
    loop around it; both costs are printed too. A full instance evicts other keys to make room.

    Ctrl-C ends it early and prints what was measured until then.

    \b
    Example:
      $ kvserve bench --seconds 10 --processes 4 --write-share 0.05
      $ kvserve bench --mode worker --json | jq '.get["p99_us"]'
    """
    from kvserve.cli import workload  # not above: --help needs no processes

    load = workload.Load(**flags)
    with _progress(load.seconds) as show:
        measured, interrupted = workload.run(load, show)
    report = summarize(load, measured, interrupted)
    if as_json:
        output.write_json(report)
    elif output.on_terminal():
        _print_table(report)
    else:
        for field, value in report.items():
            if isinstance(value, dict):
                for part, number in value.items():
                    output.write_line(f"{field}.{part} {number}")
            else:
                plain = str(value).lower() if isinstance(value, bool) else value
                output.write_line(f"{field} {plain}")
    if interrupted:
        raise click.exceptions.Exit(INTERRUPTED)


@contextmanager
def _progress(total_seconds: float) -> Iterator[Callable[[float], None]]:
    """A bar on standard error while a person watches; it draws itself without a thread."""
    if not sys.stderr.isatty():
        yield lambda _seconds: None
        return
    from rich.console import Console  # not above: only the bar needs it
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("measuring"), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=False
    ) as progress:
        task = progress.add_task("", total=total_seconds)

        def show(seconds: float) -> None:
            progress.update(task, completed=seconds, refresh=True)

        yield show


def summarize(load: Load, measured: Sequence[Measured], interrupted: bool) -> dict[str, Any]:
    """What `--json` prints; times in microseconds end in `_us`."""
    return {
        "mode": load.mode,
        "processes": load.processes,
        "keys": load.keys,
        "value_size": load.value_size,
        "write_share": load.write_share,
        "seconds": round(max(part.seconds for part in measured), 3),
        "interrupted": interrupted,
        "get": _latencies([(part.hits, part.seconds) for part in measured]),
        "miss": _latencies([(part.misses, part.seconds) for part in measured]),
        "set": _latencies([(part.sets, part.seconds) for part in measured]),
        "failures": sum(part.failures for part in measured),
        "clock_us": round(max(part.clock_ns for part in measured) / 1000, 3),
        "loop_us": round(max(part.loop_ns for part in measured) / 1000, 3),
    }


def _latencies(parts: Sequence[tuple[Samples, float]]) -> dict[str, Any]:
    """One kind of operation over all processes, each with the seconds that it measured."""
    from kvserve.cli import workload

    latencies_ns = workload.merge([samples for samples, _ in parts])
    row: dict[str, Any] = {
        "operations": sum(samples.count for samples, _ in parts),
        "per_second": round(sum(samples.count / seconds for samples, seconds in parts)),
    }
    for name, share in PERCENTILES.items():
        value_ns = workload.percentile(latencies_ns, share) if latencies_ns else None
        row[name] = None if value_ns is None else value_ns / 1000
    row["max_us"] = max(samples.max_ns for samples, _ in parts) / 1000 if latencies_ns else None
    return row


def _print_table(report: dict[str, Any]) -> None:
    from rich import box  # not above: only the table needs it
    from rich.console import Console
    from rich.table import Table

    table = Table(
        box=box.SIMPLE,
        title=f"{report['mode']} for {report['seconds']} s, processes: {report['processes']}, "
        f"keys: {report['keys']:,}, bytes a value: {report['value_size']:,}",
    )
    table.add_column("")
    for column in report["get"]:
        table.add_column(
            column.removesuffix("_us").replace("_", " "), justify="right", header_style="cyan"
        )
    for kind in ("get", "miss", "set"):
        if report[kind]["operations"]:
            table.add_row(kind, *map(_cell, report[kind].values()))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"Latencies are in microseconds; {report['clock_us']} of each is for taking the time. "
        f"The loop alone takes {report['loop_us']} an operation. "
        f"Operations that failed: {report['failures']:,}."
    )


def _cell(value: float) -> str:
    """A count, or microseconds with as many digits as anybody reads."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{0 if value >= 1000 else 2}f}"

"""The commands that look at an instance and change nothing: stats ping verify."""

from __future__ import annotations

from typing import Any

import click

from kvserve import names
from kvserve.cli import output
from kvserve.cli.main import REFUSED
from kvserve.cli.options import client_options, connect, json_option
from kvserve.config import format_size
from kvserve.errors import ServerUnavailable
from kvserve.names import Names
from kvserve.runtime import not_served

_WORKERS_ABREAST = 4  # fit into 80 columns


@click.command("stats")
@json_option
@client_options
def stats_command(as_json: bool, name: str | None, timeout: float) -> None:
    """Print the instance's statistics.

    On a terminal as tables, with sizes and times for people; elsewhere as "name value" lines
    with plain numbers, those of worker 0 as "worker.0.requests" and so on.

    \b
    Example:
      $ kvserve stats
      $ kvserve stats | grep hit_ratio
      hit_ratio 0.9734
      $ kvserve stats --json | jq '.workers[].requests'
    """
    with connect(name, timeout) as cache:
        stats = cache.stats()
    if as_json:
        output.write_json(stats)
    elif output.on_terminal():
        _print_tables(stats)
    else:
        for field, value in _flat(stats):
            output.write_line(f"{field} {value}")


def _flat(stats: dict[str, Any]) -> list[tuple[str, Any]]:
    """The statistics as pairs, a worker's with its index in the name."""
    pairs: list[tuple[str, Any]] = []
    for field, value in stats.items():
        if field != "workers":
            pairs.append((field, value))
            continue
        pairs.append(("workers", len(value)))
        for worker in value:
            pairs += [(f"worker.{worker['index']}.{key}", item) for key, item in worker.items()]
    return pairs


def _print_tables(stats: dict[str, Any]) -> None:
    from rich import box  # not above: only tables need it
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE, show_header=False, title=f"instance {stats['name']!r}")
    table.add_column(style="cyan")
    table.add_column(justify="right")
    for field, value in stats.items():
        if field not in ("name", "workers"):
            table.add_row(field, for_people(field, value))
    console.print(table)
    for start in range(0, len(stats["workers"]), _WORKERS_ABREAST):
        workers = stats["workers"][start : start + _WORKERS_ABREAST]
        table = Table(box=box.SIMPLE)
        table.add_column("worker", style="cyan")
        for worker in workers:
            table.add_column(str(worker["index"]), justify="right")
        for field in workers[0]:
            if field != "index":
                table.add_row(field, *(for_people(field, worker[field]) for worker in workers))
        console.print(table)


def for_people(field: str, value: Any) -> str:
    """A number in the unit that its field's name ends in, as people write it.

    Example:
        >>> for_people("memory_bytes", 2**20), for_people("hits", 12345), for_people("pid", 4321)
        ('1 MiB', '12,345', '4321')
        >>> for_people("uptime_seconds", 93_784.2), for_people("hit_ratio", 0.97)
        ('1 d 2 h', '97.00 %')
    """
    if field in ("pid", "version") or isinstance(value, (str, bool)) or value is None:
        return str(value)
    if field.endswith("_ratio"):
        return f"{value:.2%}".replace("%", " %")
    if "_bytes" in field:
        return format_size(value)
    if field.endswith("_seconds"):
        return _duration(value)
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


@click.command("ping")
@json_option
@client_options
def ping_command(as_json: bool, name: str | None, timeout: float) -> None:
    """Ask every worker and print the slowest round trip.

    Exits with 3 if a worker does not answer in time, which makes it a health check.

    \b
    Example:
      $ kvserve ping
      0.214 ms
      $ kvserve ping --timeout 1 || systemctl restart kvserve
    """
    with connect(name, timeout) as cache:
        round_trip_ms = cache.ping() * 1000
    if as_json:
        output.write_json({"round_trip_ms": round(round_trip_ms, 3)})
    else:
        output.write_line(f"{round_trip_ms:.3f} ms")


@click.command("verify")
@json_option
@client_options
def verify_command(as_json: bool, name: str | None, timeout: float) -> None:
    """Check the whole table against its invariants.

    Without a server it checks the table that the last one left, and keeps servers from starting
    meanwhile. What a killed process left half done is mended in a copy first, as the next serve
    does it in the table, and is told as "unrecovered". Only the server's own user can do that.

    Prints each violation on a line. Exits with 1 if there is any, and with 3 if there is neither
    a server nor a table.

    \b
    Example:
      $ kvserve verify
      the table keeps its invariants
    """
    try:
        cache = connect(name, timeout)
    except ServerUnavailable:
        is_kept = True
        violations, unrecovered = _verify_kept(names.instance(name))
    else:
        is_kept, unrecovered = False, 0
        with cache:
            violations = cache.verify()
    if as_json:
        output.write_json(
            {"violations": violations, "kept": is_kept, "unrecovered_shards": unrecovered}
        )
    else:
        table = "the kept table" if is_kept else "the table"
        for line in violations or [f"{table} keeps its invariants"]:
            output.write_line(line)
        if unrecovered:
            output.write_line(
                f"unrecovered: {unrecovered} of its shards, in each of which a process was killed; "
                "the next serve recovers them"
            )
    if violations:
        raise click.exceptions.Exit(REFUSED)


def _verify_kept(kept: Names) -> tuple[list[str], int]:
    """The violations of the table that a server left, and how many of its shards were mended."""
    from kvserve.parent.inspection import inspect_kept  # not above: it needs the server's modules

    found = inspect_kept(kept)
    if found is None:
        raise not_served(kept, ", and no table of it is kept")
    return found.violations, found.unrecovered

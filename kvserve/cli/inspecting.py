"""The commands that look at an instance and change nothing: stats ping verify."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from kvserve import names
from kvserve.cli import output
from kvserve.cli.exits import REFUSED
from kvserve.cli.options import client_options, connect, json_option
from kvserve.errors import ServerUnavailable
from kvserve.names import Names
from kvserve.runtime import not_served
from kvserve.stats.catalog import INSTANCE, NODE, STORE, WORKER
from kvserve.stats.prometheus import exposition
from kvserve.units import format_size

_WORKERS_ABREAST = 4  # fit into 80 columns
_HISTOGRAM = "request_times"


@click.command("stats")
@json_option
@click.option("--prometheus", is_flag=True, help="Print the text that Prometheus collects.")
@click.option("--explain", is_flag=True, help="Print what each figure means, and no figures.")
@client_options
def stats_command(
    as_json: bool, prometheus: bool, explain: bool, name: str | None, timeout: float
) -> None:
    """Print the instance's statistics.

    On a terminal as tables, with sizes and times for people; elsewhere as "name value" lines
    with plain numbers, those of worker 0 as "worker.0.requests" and so on. --explain says in a
    sentence each what they mean.

    \b
    Example:
      $ kvserve stats
      $ kvserve stats | grep hit_ratio
      hit_ratio 0.9734
      $ kvserve stats --json | jq '.workers[].requests'
      $ kvserve stats --prometheus > /var/lib/node_exporter/kvserve.prom
    """
    if as_json + prometheus + explain > 1:
        raise click.UsageError("Use one of --json, --prometheus and --explain.")
    if explain:
        _explain()
        return
    with connect(name, timeout) as cache:
        stats = cache.stats()
    if as_json:
        output.write_json(stats)
    elif prometheus:
        output.write(exposition(stats).encode())
    elif output.on_terminal():
        _print_tables(stats)
    else:
        for field, value in flat(stats):
            output.write_line(f"{field} {value}")


def _explain() -> None:
    for prefix, figures in (
        ("", INSTANCE),
        ("worker.N.", WORKER),
        ("worker.N.store.", STORE),
        ("worker.N.store.nodes.HOST:PORT.", NODE),
    ):
        for field, figure in figures.items():
            output.write_line(f"{prefix}{field}: {figure.sentence}")


def flat(stats: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The statistics as pairs, a worker's with its index in the name.

    Example:
        >>> list(flat({"operations": {"get": 1}, "workers": [{"index": 0, "pid": 7}]}))
        [('operations.get', 1), ('workers', 1), ('worker.0.index', 0), ('worker.0.pid', 7)]
    """
    for field, value in stats.items():
        if field == "workers":
            yield field, len(value)
            for worker in value:
                yield from ((f"worker.{worker['index']}.{own}", it) for own, it in flat(worker))
        elif isinstance(value, dict):
            yield from ((f"{field}.{own}", it) for own, it in flat(value))
        else:
            yield field, value


def _print_tables(stats: dict[str, Any]) -> None:
    from rich import box  # not above: only tables need it
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    workers = [dict(_for_table(worker)) for worker in stats.pop("workers")]
    table = Table(box=box.SIMPLE, show_header=False, title=f"instance {stats.pop('name')!r}")
    table.add_column(style="cyan")
    table.add_column(justify="right")
    for field, value in _for_table(stats):
        table.add_row(field, for_people(field, value))
    console.print(table)
    for start in range(0, len(workers), _WORKERS_ABREAST):
        abreast = workers[start : start + _WORKERS_ABREAST]
        table = Table(box=box.SIMPLE)
        table.add_column("worker", style="cyan")
        for worker in abreast:
            table.add_column(str(worker.pop("index")), justify="right")
        for field in dict.fromkeys(field for worker in abreast for field in worker):
            values = [worker.get(field, 0) for worker in abreast]
            table.add_row(field, *(for_people(field, value) for value in values))
        console.print(table)


def _for_table(stats: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The rows that a person looks at: no histogram, and only operations that occurred."""
    for field, value in flat({name: each for name, each in stats.items() if name != _HISTOGRAM}):
        if value or not field.startswith("operations."):
            yield field, value


def for_people(field: str, value: Any) -> str:
    """A number as people write it, in the unit that its field's name ends in.

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
    if field.endswith("_us"):
        return f"{value:,.1f} µs"
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
    meanwhile. What a killed process left half done is repaired in a copy first, as the next serve
    does it in the table, and is reported as "unrecovered". Only the server's own user can do that.

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
    """The violations of the table that a server left, and how many of its shards were repaired."""
    from kvserve.parent.inspection import inspect_kept  # not above: it needs the server's modules

    found = inspect_kept(kept)
    if found is None:
        raise not_served(kept, ", and no table of it is kept")
    return found.violations, found.unrecovered

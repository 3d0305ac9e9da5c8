"""Formats a measurement or a replay: as figures for --json, as lines, and as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvserve.bench.driver import Load
from kvserve.bench.replay import Replayed
from kvserve.bench.samples import KINDS, Measured, Samples, merge, percentile
from kvserve.bench.survey import Sizes, Survey
from kvserve.cli import output
from kvserve.cli.inspecting import for_people

PERCENTILES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p99.9_us": 0.999}


def of_load(load: Load, measured: Sequence[Measured], interrupted: bool) -> dict[str, Any]:
    """The result of a measurement; times in microseconds end in `_us`."""
    kinds = {
        kind: _latencies([(part.samples[kind], part.seconds) for part in measured])
        for kind in KINDS
    }
    return {
        "workload": load.workload_name,
        "mode": load.mode,
        "processes": load.processes,
        "keys": load.keys,
        "value_size": load.value_size,
        "write_share": round(1 - load.workload.reads, 9),
        "seconds": round(max(part.seconds for part in measured), 3),
        "interrupted": interrupted,
        "per_second": sum(row["per_second"] for row in kinds.values()),
        **kinds,
        "failures": sum(part.failures for part in measured),
        "clock_us": round(max(part.clock_ns for part in measured) / 1000, 3),
        "loop_us": round(max(part.loop_ns for part in measured) / 1000, 3),
    }


def _latencies(parts: Sequence[tuple[Samples, float]]) -> dict[str, Any]:
    """One kind of operation over all processes, each with the seconds that it measured."""
    latencies_ns = merge([samples for samples, _ in parts])
    row: dict[str, Any] = {
        "operations": sum(samples.count for samples, _ in parts),
        "per_second": round(sum(samples.count / seconds for samples, seconds in parts)),
    }
    for name, share in PERCENTILES.items():
        value_ns = percentile(latencies_ns, share) if latencies_ns else None
        row[name] = None if value_ns is None else value_ns / 1000
    row["max_us"] = max(samples.max_ns for samples, _ in parts) / 1000 if latencies_ns else None
    return row


def of_replay(trace: str, found: Survey, sizes: Sizes, replayed: Replayed) -> dict[str, Any]:
    """The result of a replay; sizes in bytes end in `_bytes`."""
    return {
        "trace": trace,
        "requests": replayed.requests,
        "gets": replayed.gets,
        "keys": found.keys,
        "item_bytes": found.item_bytes,
        "interrupted": replayed.interrupted,
        "sizes": [
            {
                "memory_bytes": row.memory_bytes,
                "is_live": row.memory_bytes == sizes.live_bytes,
                "items": row.items,
                "hits": row.hits,
                "hit_ratio": round(row.hits / replayed.gets, 6) if replayed.gets else None,
                "too_large": row.too_large,
            }
            for row in replayed.rows
        ],
    }


def write_lines(report: Mapping[str, Any]) -> None:
    """Writes "name value" lines; lines of the third size begin with "size.2."."""
    for field, value in _flat(report):
        plain = str(value).lower() if isinstance(value, bool) else value
        output.write_line(f"{field} {plain}")


def _flat(report: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for field, value in report.items():
        if isinstance(value, dict):
            yield from ((f"{field}.{own}", it) for own, it in _flat(value))
        elif isinstance(value, list):
            one = field.removesuffix("s")
            yield from _flat({f"{one}.{index}": it for index, it in enumerate(value)})
        else:
            yield field, value


def print_replay(report: Mapping[str, Any]) -> None:
    """Prints a replay as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    fields = ["memory_bytes", "items", "hits", "hit_ratio"]
    if any(size["too_large"] for size in report["sizes"]):
        fields.append("too_large")
    table = Table(
        box=box.SIMPLE,
        title=f"{report['trace']}, requests: {report['requests']:,}, gets: {report['gets']:,}",
    )
    for field in fields:
        title = field.removesuffix("_bytes").replace("_", " ")
        table.add_column(title, justify="right", header_style="cyan")
    table.add_column("")
    for size in report["sizes"]:
        cells = (for_people(field, size[field]) for field in fields)
        table.add_row(*cells, "the live instance" if size["is_live"] else "")
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"Different keys: {report['keys']:,}, with their values {report['item_bytes']:,} bytes on "
        f"average. The sizes are those of kvserve serve --item-size {report['item_bytes']}."
    )


def title_of_load(report: Mapping[str, Any]) -> str:
    """What was measured, for people."""
    workload = report["workload"]
    return (
        f"{workload if workload == 'uniform' else f'YCSB {workload}'}, {report['mode']}, "
        f"{report['seconds']} s, processes: {report['processes']}, keys: {report['keys']:,}, "
        f"bytes a value: {report['value_size']:,}"
    )


def print_load(report: Mapping[str, Any]) -> None:
    """Prints a measurement as a table."""
    from rich import box  # not above: only the table needs it
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=title_of_load(report))
    table.add_column("")
    for column in report["get"]:
        table.add_column(
            column.removesuffix("_us").replace("_", " "), justify="right", header_style="cyan"
        )
    for kind in KINDS:
        if report[kind]["operations"]:
            table.add_row(kind, *map(_cell, report[kind].values()))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"Operations a second: {report['per_second']:,}. "
        f"Operations that failed: {report['failures']:,}. "
        f"Latencies are in microseconds; {report['clock_us']} of each is for taking the time. "
        f"The loop alone takes {report['loop_us']} an operation."
    )


def _cell(value: float) -> str:
    """A count, or microseconds with as many digits as are useful."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{0 if value >= 1000 else 2}f}"

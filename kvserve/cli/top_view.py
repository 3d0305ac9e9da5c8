"""Draws what `kvserve top` shows: the rates of an interval as tables. Imported only for drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kvserve.cli.inspecting import for_people
from kvserve.errors import ServerError
from kvserve.escaping import visible
from kvserve.units import format_size

_BAR_CHARACTERS = 30
_HIDDEN = {"ping", "stats"}  # mostly our own

# Title and field of each column.
_WORKER = (
    ("worker", "index"),
    ("pid", "pid"),
    ("up", "uptime_seconds"),
    ("cpu", "cpu_ratio"),
    ("requests/s", "requests_per_second"),
    ("p50", "request_p50_us"),
    ("p99", "request_p99_us"),
    ("clients", "sessions"),
    ("queue", "queue_length"),
)
_STORE = (
    ("store of", "index"),
    ("loads/s", "loads_per_second"),
    ("hit ratio", "load_hit_ratio"),
    ("saves/s", "saves_per_second"),
    ("failures/s", "failures_per_second"),
    ("behind", "writes_behind"),
    ("breaker", "breaker"),
)


def picture(rates: Mapping[str, Any]) -> RenderableType:
    """One screen of the rates that `kvserve.stats.rates.between` returns."""
    workers = rates["workers"]
    stores = [{"index": each["index"], **each["store"]} for each in workers if "store" in each]
    title = f"pid {rates['pid']}, up {_shown('uptime_seconds', rates)}"
    return Group(
        _title(rates["name"], title),
        "",
        _summary(rates),
        _table(_WORKER, workers),
        *([_table(_STORE, stores)] if stores else []),
    )


def waiting(instance: str, error: ServerError | None) -> RenderableType:
    """The screen while there are no rates: until the first interval ends, or without a server.

    Args:
        instance: its name.
        error: why there are none; None while they are being counted.
    """
    if error is None:
        return Group(_title(instance, "counting"))
    return Group(
        _title(instance, "waiting for the server"), "", Text(visible(str(error)), style="yellow")
    )


def _title(instance: str, text: str) -> RenderableType:
    line = Table.grid(expand=True)
    line.add_column()
    line.add_column(justify="right")
    left = Text("kvserve top  ", style="bold").append(instance, style="bold cyan")
    line.add_row(left.append(f"  {text}", style="not bold"), Text("q quits", style="dim"))
    return line


def _summary(rates: Mapping[str, Any]) -> RenderableType:
    def shown(field: str) -> str:
        return _shown(field, rates)

    used = f"{format_size(rates['live_bytes'])} of {format_size(rates['capacity_bytes'])}"
    memory = Table.grid(padding=(0, 1))
    memory.add_row(
        ProgressBar(
            total=rates["capacity_bytes"], completed=rates["live_bytes"], width=_BAR_CHARACTERS
        ),
        f"{used}, {rates['items']:,} items",
    )
    grid = Table.grid(padding=(0, 2, 0, 1))
    grid.add_column(style="dim")
    grid.add_column()
    hits = "" if rates["hit_ratio"] is None else f", {shown('hit_ratio')} hits"
    grid.add_row("reads", f"{shown('reads_per_second')} /s{hits}")
    grid.add_row("requests", _operations(rates["operations_per_second"]))
    if rates["request_p50_us"] is None:
        grid.add_row("latency", "-")
    else:
        half, most = shown("request_p50_us"), shown("request_p99_us")
        grid.add_row("latency", f"50 % within {half}, 99 % within {most}, of requests to workers")
    grid.add_row("memory", memory)
    grid.add_row(
        "removed",
        f"{shown('evictions_per_second')} evictions /s, "
        f"{shown('expirations_per_second')} expirations /s",
    )
    return grid


def _operations(per_second: Mapping[str, float]) -> str:
    shown = {name: rate for name, rate in per_second.items() if rate and name not in _HIDDEN}
    by_rate = sorted(shown.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{_rate(rate)} {name} /s" for name, rate in by_rate) or "none"


def _table(columns: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, header_style="dim")
    for title, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(_shown(field, row) for _, field in columns))
    return table


def _shown(field: str, row: Mapping[str, Any]) -> str:
    """A value in the shortest readable form."""
    value = row.get(field)
    if value is None:
        return "-"
    if field.endswith("_per_second"):
        return _rate(value)
    if field == "cpu_ratio":
        return f"{value * 100:.0f} %"
    if field.endswith("_us") and value >= 1000:
        return f"{value / 1000:,.1f} ms"
    if field == "uptime_seconds":
        return " ".join(for_people(field, value).split()[:2]) if value >= 60 else f"{value:.0f} s"
    return for_people(field, value)


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"

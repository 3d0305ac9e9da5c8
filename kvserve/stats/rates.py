"""The rates between two readings of the statistics: for `kvserve top`. Reads no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvserve.stats.collect import added, percentiles

Stats = Mapping[str, Any]

_STATES = (
    *("name", "version", "pid", "uptime_seconds"),
    *("items", "live_bytes", "capacity_bytes", "memory_bytes"),
)
_WORKER_STATES = ("index", "pid", "uptime_seconds", "sessions", "queue_length")


def between(before: Stats, after: Stats, seconds: float) -> dict[str, Any]:
    """The rates of an interval, and the state at its end.

    Args:
        before, after: as `Client.stats` returns them. A worker that is not in `before` began at 0.
        seconds: from the one to the other.

    Returns:
        Rates and states by name. A ratio of nothing, and the latency of no request, is None.

    Example:
        >>> before = {"hits": 10, "misses": 0, "workers": []}
        >>> rates = between(before, {"hits": 40, "misses": 10, "workers": []}, 2.0)
        >>> rates["reads_per_second"], rates["hit_ratio"]
        (20.0, 0.75)
    """
    hits, misses = (_growth(before, after, field) for field in ("hits", "misses"))
    former = {worker["pid"]: worker for worker in before["workers"]}
    pairs = [(former.get(worker["pid"], {}), worker) for worker in after["workers"]]
    operations = added(_growths(old, new, "operations") for old, new in pairs)
    return {
        **{field: after.get(field) for field in _STATES},
        "seconds": round(seconds, 3),
        "reads_per_second": _rate(hits + misses, seconds),
        "hit_ratio": round(hits / (hits + misses), 6) if hits + misses else None,
        "operations_per_second": {
            command: _rate(count, seconds) for command, count in operations.items()
        },
        "evictions_per_second": _rate(_growth(before, after, "evictions"), seconds),
        "expirations_per_second": _rate(_growth(before, after, "expirations"), seconds),
        **_latency(added(_growths(old, new, "request_times") for old, new in pairs)),
        "workers": [_worker_between(old, new, seconds) for old, new in pairs],
    }


def _worker_between(before: Stats, after: Stats, seconds: float) -> dict[str, Any]:
    cpu_seconds = _growth(before, after, "cpu_seconds")
    worker = {
        **{field: after.get(field) for field in _WORKER_STATES},
        "cpu_ratio": round(cpu_seconds / seconds, 4) if before else None,
        "requests_per_second": _rate(_growth(before, after, "requests"), seconds),
        **_latency(_growths(before, after, "request_times")),
    }
    if after.get("store"):
        worker["store"] = _store_between(before.get("store", {}), after["store"], seconds)
    return worker


def _store_between(before: Stats, after: Stats, seconds: float) -> dict[str, Any]:
    loads, saves = (_growth(before, after, field) for field in ("loads", "saves"))
    return {
        "loads_per_second": _rate(loads, seconds),
        "load_hit_ratio": round(_growth(before, after, "load_hits") / loads, 6) if loads else None,
        "saves_per_second": _rate(saves, seconds),
        "failures_per_second": _rate(_growth(before, after, "failures"), seconds),
        "writes_behind": after.get("writes_behind"),
        "breaker": after.get("breaker"),
    }


def _growth(before: Stats, after: Stats, field: str) -> float:
    """How much a counter grew; 0 if it began anew."""
    grown: float = max(0, after.get(field, 0) - before.get(field, 0))
    return grown


def _growths(before: Stats, after: Stats, field: str) -> dict[Any, int]:
    """The same for a dictionary of counters."""
    old = before.get(field, {})
    return {name: max(0, count - old.get(name, 0)) for name, count in after.get(field, {}).items()}


def _rate(count: float, seconds: float) -> float:
    return round(count / seconds, 1)


def _latency(times: dict[int, int]) -> dict[str, float | None]:
    found = percentiles(times)
    return dict(found) if any(times.values()) else dict.fromkeys(found)

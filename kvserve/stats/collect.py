"""Puts the statistics together, from the table and from what the workers report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.table._core import Reader

Times = Mapping[int, int]  # requests by the nanoseconds that they took less than


def collect(
    names: Names, manifest: Manifest, reader: Reader, workers: list[dict[str, Any]]
) -> dict[str, Any]:
    """All statistics of an instance by name.

    Args:
        names: the instance's.
        manifest: what it consists of.
        reader: attached to its table.
        workers: what each worker reports of itself.
    """
    import importlib.metadata  # slow to import, and of use here alone

    geometry = reader._geometry()
    shards = [reader._shard_stats(shard) for shard in range(geometry["shards"])]
    hits, misses = reader._reads()
    ring_bytes = geometry["small_capacity"] + geometry["main_capacity"]
    totals = {figure: sum(shard[figure] for shard in shards) for figure in shards[0]}
    items = totals.pop("items")
    live_bytes = totals.pop("live_bytes")
    # A server that was started before an upgrade reports less.
    operations = added(worker.get("operations", {}) for worker in workers)
    times = [worker.get("request_times", {}) for worker in workers]
    writers = [worker.pop("writers", 0) for worker in workers]  # all see the same ones
    return {
        "name": names.name,
        "version": importlib.metadata.version("kvserve"),
        "pid": manifest.pid,
        "uptime_seconds": round(time.time() - names.manifest.stat().st_mtime, 3),
        "hits": hits,
        "misses": misses,
        "hit_ratio": round(hits / (hits + misses), 6) if hits + misses else 0.0,
        "items": items,
        "live_bytes": live_bytes,
        "capacity_bytes": geometry["shards"] * ring_bytes,
        "memory_bytes": geometry["table_bytes"] + geometry["hints_bytes"],
        "value_bytes_max": geometry["value_bytes_max"],
        "shards": geometry["shards"],
        **totals,
        "operations": operations,
        **percentiles(added(times)),
        "writers": max(writers, default=0),
        "writers_max": manifest.writers,
        "workers": [worker | percentiles(own) for worker, own in zip(workers, times, strict=True)],
    }


def added(counts: Iterable[Mapping[Any, int]]) -> dict[Any, int]:
    """The sums by name.

    Example:
        >>> added([{"get": 1, "set": 0}, {"get": 2}])
        {'get': 3, 'set': 0}
    """
    total: Counter[Any] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def percentiles(times: Times) -> dict[str, float]:
    """The median and 99th percentile of the requests' times, in microseconds; 0 if there are none.

    Example:
        >>> percentiles({1024: 98, 2048: 1, 4096: 1})
        {'request_p50_us': 1.024, 'request_p99_us': 2.048}
    """
    return {f"request_p{share}_us": _percentile_ns(times, share) / 1000 for share in (50, 99)}


def _percentile_ns(times: Times, share: int) -> int:
    wanted = sum(times.values()) * share / 100
    for bound_ns, count in sorted(times.items()):
        wanted -= count
        if wanted <= 0:
            return bound_ns
    return 0

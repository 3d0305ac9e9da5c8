"""The statistics that a client puts together from the table and from what the workers tell."""

from __future__ import annotations

import time
from typing import Any

from kvserve.names import Names
from kvserve.runtime import Manifest
from kvserve.table._core import Reader


def collect(
    names: Names, manifest: Manifest, reader: Reader, workers: list[dict[str, Any]]
) -> dict[str, Any]:
    """All figures of an instance by name.

    Args:
        names: whose.
        manifest: what it consists of.
        reader: attached to its table.
        workers: what each worker tells of itself.
    """
    import importlib.metadata  # slow to import, and of use here alone

    geometry = reader._geometry()
    shards = [reader._shard_stats(shard) for shard in range(geometry["shards"])]
    hits, misses = reader._reads()
    ring_bytes = geometry["small_capacity"] + geometry["main_capacity"]
    totals = {figure: sum(shard[figure] for shard in shards) for figure in shards[0]}
    items = totals.pop("items")
    live_bytes = totals.pop("live_bytes")
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
        "capacity_bytes": geometry["shards"] * (ring_bytes - geometry["largest_record"]),
        "memory_bytes": geometry["table_bytes"] + geometry["hints_bytes"],
        "value_bytes_max": geometry["value_bytes_max"],
        "shards": geometry["shards"],
        **totals,
        "workers": workers,
    }

"""The statistics that a client puts together from the table and from what the workers tell."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.table._core import Reader

Kind = Literal["counter", "gauge", "text"]
Times = Mapping[int, int]  # requests by the nanoseconds that they took less than


class Figure(NamedTuple):
    """What a figure tells, and whether it only grows while its process lives."""

    kind: Kind
    sentence: str


INSTANCE = {
    "name": Figure("text", "The instance's name."),
    "version": Figure("text", "The version of the kvserve that reads these figures."),
    "pid": Figure("text", "The parent's process."),
    "uptime_seconds": Figure("gauge", "How long the server has run."),
    "hits": Figure("counter", "Reads that found their key, in shared memory or by a worker."),
    "misses": Figure("counter", "Reads that did not."),
    "hit_ratio": Figure("gauge", "The share of hits in all reads since the table was made."),
    "items": Figure("gauge", "Keys in the table, expired ones not swept yet among them."),
    "live_bytes": Figure("gauge", "What these items take, with their headers and padding."),
    "capacity_bytes": Figure("gauge", "What all items may take at most."),
    "memory_bytes": Figure("gauge", "Shared memory that the table and its hints occupy, always."),
    "value_bytes_max": Figure("gauge", "The largest value that the table was made for."),
    "shards": Figure("gauge", "Parts of the table, each with a lock and logs of its own."),
    "overflow_buckets": Figure(
        "gauge", "Extra buckets in use; many mean that items are smaller than --item-size."
    ),
    "sets": Figure("counter", "Values stored, by set, add, replace, cas, and loads of a store."),
    "deletes": Figure("counter", "Keys deleted."),
    "touches": Figure("counter", "Times to live changed."),
    "increments": Figure("counter", "Counters changed in place by incr and decr."),
    "evictions": Figure("counter", "Items removed to make room before they expired."),
    "expirations": Figure("counter", "Expired items removed."),
    "index_evictions": Figure(
        "counter", "Items removed because the index was full: serve with a smaller --item-size."
    ),
    "promotions": Figure("counter", "Items moved from the small log to the main one."),
    "reinsertions": Figure("counter", "Items that eviction spared because they had been read."),
    "cleaned": Figure("counter", "Items moved together to use the gaps that dead ones left."),
    "ghost_hits": Figure("counter", "Items stored again soon after they had been evicted."),
    "flushes": Figure("counter", "Shards emptied by flush."),
    "lock_recoveries": Figure("counter", "Locks that a killed process held and lost."),
    "withdrawals": Figure("counter", "Keys taken out of the table while the store got new values."),
    "operations": Figure(
        "counter", "Requests to workers by command, those in batches each for itself."
    ),
    "request_p50_us": Figure(
        "gauge", "Half of the requests took a worker less than these microseconds."
    ),
    "request_p99_us": Figure("gauge", "99 of 100 requests took a worker less than this."),
    "writers": Figure("gauge", "Other processes that may write into the table at this moment."),
    "writers_max": Figure("gauge", "How many may at once, see --writers."),
    "workers": Figure("gauge", "Worker processes; the figures of each follow."),
}
WORKER = {
    "index": Figure("text", "Which worker this is, from 0."),
    "pid": Figure("text", "Its process."),
    "uptime_seconds": Figure("gauge", "How long it has run."),
    "settings_version": Figure("gauge", "The version of the live settings that it follows."),
    "requests": Figure("counter", "Frames received, bad and late ones and hellos too."),
    "replies": Figure("counter", "Replies sent."),
    "bad_requests": Figure("counter", "Frames that were no valid request."),
    "late_requests": Figure("counter", "Requests not executed, as their client had given up."),
    "unknown_sessions": Figure("counter", "Requests of clients that had no session here."),
    "cut_off_clients": Figure(
        "counter",
        "Clients cut off because they did not read replies, or did not finish a request while "
        "others waited.",
    ),
    "refused_requests": Figure(
        "counter", "Requests refused because there was no memory for them, see buffer_memory."
    ),
    "buffer_bytes": Figure(
        "gauge", "Memory that requests, replies and writes on their way take now."
    ),
    "sessions": Figure("gauge", "Clients connected."),
    "queue_length": Figure("gauge", "Requests that wait in the message queue."),
    "cpu_seconds": Figure("counter", "Processor time used."),
    "operations": Figure("counter", "Requests by command, those in batches each for itself."),
    "request_times": Figure(
        "counter",
        "Requests by the nanoseconds that they took less than, at most a quarter more than they "
        "took; from being received to being answered, waiting for a store included.",
    ),
    "request_p50_us": INSTANCE["request_p50_us"],
    "request_p99_us": INSTANCE["request_p99_us"],
    "store": Figure("counter", "The store's figures, with --store; each is explained below."),
}
STORE = {
    "loads": Figure("counter", "Keys asked of the store."),
    "load_hits": Figure("counter", "Keys that it had."),
    "load_seconds": Figure("counter", "Time spent waiting for loads, those together as one."),
    "saves": Figure("counter", "Values written to the store."),
    "save_seconds": Figure("counter", "Time spent waiting for these."),
    "deletes": Figure("counter", "Keys deleted from the store."),
    "failures": Figure("counter", "Keys whose call failed or took too long."),
    "refused": Figure("counter", "Keys not asked for, as the breaker was open."),
    "breaker": Figure(
        "text",
        "closed: the store is used; open: it is left alone; half-open: tried; of several servers "
        "the worst.",
    ),
    "breaker_openings": Figure("counter", "How often the breaker opened."),
    "absence_hits": Figure("counter", "Misses answered from memory, without asking the store."),
    "writes_behind": Figure("gauge", "Keys whose write still waits, with --write-behind."),
    "invalidations": Figure("counter", "Keys dropped because another host changed them."),
    "losses": Figure("counter", "How often everything was dropped, the link being lost."),
    "nodes": Figure("text", "The servers of a Valkey store; the figures of each follow."),
}
NODE = {
    "breaker": Figure("text", "As of the store; each server has one of its own."),
    "left_alone": Figure("gauge", "1 while the breaker is not closed, else 0."),
    "breaker_openings": Figure("counter", "How often this server's breaker opened."),
    "connections": Figure("gauge", "Open to this server for loads and writes, at most 16."),
    "heard_seconds": Figure(
        "gauge",
        "Since when all that changed on this server is sure to have been told; none: it is not "
        "listened to.",
    ),
}


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
    # A server that was started before an upgrade tells less.
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
    """The median and the 99th percentile of the requests' times, in microseconds; 0 of none.

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

"""The names of all statistics, their kinds, and what each means in one sentence."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "text"]


class Statistic(NamedTuple):
    """What a statistic means, and whether it only grows while its process lives."""

    kind: Kind
    sentence: str


INSTANCE = {
    "name": Statistic("text", "The instance's name."),
    "version": Statistic("text", "The version of the kvserve that reads these figures."),
    "pid": Statistic("text", "The parent's process."),
    "uptime_seconds": Statistic("gauge", "How long the server has run."),
    "hits": Statistic("counter", "Reads that found their key, in shared memory or by a worker."),
    "misses": Statistic("counter", "Reads that did not."),
    "hit_ratio": Statistic("gauge", "The share of hits in all reads since the table was made."),
    "items": Statistic("gauge", "Keys in the table, expired ones not swept yet among them."),
    "live_bytes": Statistic("gauge", "What these items take, with their headers and padding."),
    "capacity_bytes": Statistic("gauge", "What all items may take at most."),
    "memory_bytes": Statistic(
        "gauge", "Shared memory that the table and its hints occupy, always."
    ),
    "value_bytes_max": Statistic("gauge", "The largest value that the table was made for."),
    "shards": Statistic("gauge", "Parts of the table, each with a lock and logs of its own."),
    "overflow_buckets": Statistic(
        "gauge", "Extra buckets in use; many mean that items are smaller than --item-size."
    ),
    "sets": Statistic("counter", "Values stored, by set, add, replace, cas, and loads of a store."),
    "deletes": Statistic("counter", "Keys deleted."),
    "touches": Statistic("counter", "Times to live changed."),
    "increments": Statistic("counter", "Counters changed in place by incr and decr."),
    "evictions": Statistic("counter", "Items removed to make room before they expired."),
    "expirations": Statistic("counter", "Items removed that had expired, or lost a tag."),
    "index_evictions": Statistic(
        "counter", "Items removed because the index was full: serve with a smaller --item-size."
    ),
    "promotions": Statistic("counter", "Items moved from the small log to the main one."),
    "reinsertions": Statistic("counter", "Items that eviction spared because they had been read."),
    "cleaned": Statistic("counter", "Items moved together to use the gaps that dead ones left."),
    "ghost_hits": Statistic("counter", "Items stored again soon after they had been evicted."),
    "flushes": Statistic("counter", "Shards emptied by flush."),
    "lock_recoveries": Statistic("counter", "Locks that a killed process held and lost."),
    "withdrawals": Statistic(
        "counter", "Keys taken out of the table while the store got new values."
    ),
    "operations": Statistic(
        "counter", "Requests to workers by command, those in batches each for itself."
    ),
    "request_p50_us": Statistic(
        "gauge", "Half of the requests took a worker less than these microseconds."
    ),
    "request_p99_us": Statistic("gauge", "99 of 100 requests took a worker less than this."),
    "writers": Statistic("gauge", "Other processes that may write into the table at this moment."),
    "writers_max": Statistic("gauge", "How many may at once, see --writers."),
    "workers": Statistic("gauge", "Worker processes; the figures of each follow."),
}
WORKER = {
    "index": Statistic("text", "Which worker this is, from 0."),
    "pid": Statistic("text", "Its process."),
    "uptime_seconds": Statistic("gauge", "How long it has run."),
    "settings_version": Statistic("gauge", "The version of the live settings that it follows."),
    "requests": Statistic("counter", "Frames received, bad and late ones and hellos too."),
    "replies": Statistic("counter", "Replies sent."),
    "bad_requests": Statistic("counter", "Frames that were no valid request."),
    "late_requests": Statistic("counter", "Requests not executed, as their client had given up."),
    "unknown_sessions": Statistic("counter", "Requests of clients that had no session here."),
    "cut_off_clients": Statistic(
        "counter",
        "Clients cut off because they did not read replies, or did not finish a request while "
        "others waited.",
    ),
    "refused_requests": Statistic(
        "counter", "Requests refused because there was no memory for them, see buffer_memory."
    ),
    "buffer_bytes": Statistic(
        "gauge", "Memory that requests, replies and writes on their way take now."
    ),
    "sessions": Statistic("gauge", "Clients connected."),
    "queue_length": Statistic("gauge", "Requests that wait in the message queue."),
    "cpu_seconds": Statistic("counter", "Processor time used."),
    "operations": Statistic("counter", "Requests by command, those in batches each for itself."),
    "request_times": Statistic(
        "counter",
        "Requests by the nanoseconds that they took less than, at most a quarter more than they "
        "took; from being received to being answered, waiting for a store included.",
    ),
    "request_p50_us": INSTANCE["request_p50_us"],
    "request_p99_us": INSTANCE["request_p99_us"],
    "store": Statistic("counter", "The store's figures, with --store; each is explained below."),
}
STORE = {
    "loads": Statistic("counter", "Keys asked of the store."),
    "load_hits": Statistic("counter", "Keys that it had."),
    "load_seconds": Statistic("counter", "Time spent waiting for loads, those together as one."),
    "saves": Statistic("counter", "Values written to the store."),
    "save_seconds": Statistic("counter", "Time spent waiting for these."),
    "deletes": Statistic("counter", "Keys deleted from the store."),
    "failures": Statistic("counter", "Keys whose call failed or took too long."),
    "refused": Statistic("counter", "Keys not asked for, as the breaker was open."),
    "breaker": Statistic(
        "text",
        "closed: the store is used; open: it is left alone; half-open: tried; of several servers "
        "the worst.",
    ),
    "breaker_openings": Statistic("counter", "How often the breaker opened."),
    "negative_hits": Statistic("counter", "Misses answered from memory, without asking the store."),
    "writes_behind": Statistic("gauge", "Keys whose write still waits, with --write-behind."),
    "invalidations": Statistic("counter", "Keys dropped because another host changed them."),
    "losses": Statistic("counter", "How often everything was dropped, the link being lost."),
    "nodes": Statistic("text", "The servers of a Valkey store; the figures of each follow."),
}
NODE = {
    "breaker": Statistic("text", "As of the store; each server has one of its own."),
    "left_alone": Statistic("gauge", "1 while the breaker is not closed, else 0."),
    "breaker_openings": Statistic("counter", "How often this server's breaker opened."),
    "connections": Statistic("gauge", "Open to this server for loads and writes, at most 16."),
    "heard_seconds": Statistic(
        "gauge",
        "Since when all changes on this server are sure to have been reported; none: it is not "
        "followed.",
    ),
}

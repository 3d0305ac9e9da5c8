"""The names of all statistics, their kinds, and what each means in one sentence."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "text"]


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

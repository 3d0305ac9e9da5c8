"""Collects expired records, a hundredth of a worker's buckets at a time, on its event loop."""

from __future__ import annotations

import asyncio

from kvserve import limits
from kvserve.table.table import Table


class Sweeper:
    """Goes round the shards that a worker serves, for ever.

    A turn visits a part of each shard, and lets the loop serve whoever waits after every one: a
    large table has hundreds.

    Args:
        table: this process's.
        shards: those of this worker.
        loop: the worker's.
    """

    def __init__(self, table: Table, shards: range, loop: asyncio.AbstractEventLoop) -> None:
        self._table = table
        self._shards = shards
        self._next_bucket = dict.fromkeys(shards, 0)
        self._buckets = -(-table.geometry()["buckets"] // limits.SWEEP_SHARE)
        self._loop = loop
        self._due = loop.time() + limits.SWEEP_INTERVAL_SECONDS  # the next turn
        self._next: asyncio.Handle = loop.call_at(self._due, self._turn)

    def _turn(self) -> None:
        # Turns that were missed are not made up for.
        self._due = max(self._due + limits.SWEEP_INTERVAL_SECONDS, self._loop.time())
        self._visit(0)

    def _visit(self, place: int) -> None:
        if place == len(self._shards):
            self._next = self._loop.call_at(self._due, self._turn)
            return
        shard = self._shards[place]
        bucket = self._next_bucket[shard]
        self._next_bucket[shard] = self._table.sweep(shard, bucket, self._buckets)
        self._next = self._loop.call_soon(self._visit, place + 1)

    def stop(self) -> None:
        """No more turns."""
        self._next.cancel()

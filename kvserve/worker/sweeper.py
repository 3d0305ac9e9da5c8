"""Collects expired records, a hundredth of a worker's buckets at a time, on its event loop."""

from __future__ import annotations

import asyncio

from kvserve import limits
from kvserve.table.table import Table


class Sweeper:
    """Goes round the shards that a worker serves, for ever.

    Args:
        table: this process's.
        shards: those of this worker.
        loop: the worker's.
    """

    def __init__(self, table: Table, shards: range, loop: asyncio.AbstractEventLoop) -> None:
        self._table = table
        self._next_bucket = dict.fromkeys(shards, 0)
        self._buckets = -(-table.geometry()["buckets"] // limits.SWEEP_SHARE)
        self._loop = loop
        self._timer = loop.call_later(limits.SWEEP_INTERVAL_SECONDS, self._turn)

    def _turn(self) -> None:
        for shard, bucket in self._next_bucket.items():
            self._next_bucket[shard] = self._table.sweep(shard, bucket, self._buckets)
        self._timer = self._loop.call_later(limits.SWEEP_INTERVAL_SECONDS, self._turn)

    def stop(self) -> None:
        """No more turns."""
        self._timer.cancel()

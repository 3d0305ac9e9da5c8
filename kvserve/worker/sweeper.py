"""Collects expired records, a small part of a worker's buckets at a time, on its event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from kvserve import limits
from kvserve.table.table import Table


class Sweeper:
    """Goes round the shards that a worker serves, for ever.

    A turn visits a part of each shard. A large table has hundreds, so the turn lets the loop serve
    waiting clients once it has used its time; in a small one it is done before that.

    Args:
        table: this process's.
        shards: those of this worker.
        loop: the worker's.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        table: Table,
        shards: range,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._shards = shards
        self._next_bucket = dict.fromkeys(shards, 0)
        self._buckets = -(-table.geometry()["buckets"] // limits.SWEEP_SHARE)
        self._loop = loop
        self._clock = clock
        self._rest: asyncio.Handle | None = None  # of a turn that is under way

    def turn(self) -> None:
        """Begins a turn; called every `limits.TICK_SECONDS`.

        It does nothing while the turn before is under way: missed turns are not made up for.
        """
        if self._rest is None:
            self._visit(0)

    def _visit(self, first: int) -> None:
        """Visits the shards from index `first` on; after a while, the rest in another call."""
        give_way = self._clock() + limits.SWEEP_STEP_SECONDS
        for place in range(first, len(self._shards)):
            shard = self._shards[place]
            bucket = self._next_bucket[shard]
            self._next_bucket[shard] = self._table.sweep(shard, bucket, self._buckets)
            if self._clock() >= give_way:
                self._rest = self._loop.call_soon(self._visit, place + 1)
                return
        self._rest = None

    def stop(self) -> None:
        """Ends a turn that is under way."""
        if self._rest is not None:
            self._rest.cancel()

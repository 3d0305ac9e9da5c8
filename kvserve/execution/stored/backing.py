"""Builds the store stack of one worker: store, guard, write-behind, negative cache.

The store is opened after the fork, and the worker does not wait for it: while it cannot be reached,
hits are served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from kvserve import limits
from kvserve.config import Config
from kvserve.errors import KvserveError
from kvserve.execution.budget import Allowance
from kvserve.execution.executor import Executor
from kvserve.execution.stored.coherence import Coherence
from kvserve.execution.stored.executor import StoredExecutor
from kvserve.protocol.messages import Reply, Request
from kvserve.store.guard import GuardedStore
from kvserve.store.negative_cache import NegativeCache
from kvserve.store.urls import open_store
from kvserve.store.write_behind import WriteBehind
from kvserve.table.table import Table

_log = logging.getLogger(__name__)
_OPEN_AGAIN_SECONDS = 0.5
_SHARED_PART = 0.5  # of the bound; the rest is for waiting callers, and for delays


class Backing:
    """A worker's way to its store; see `backing`.

    Args:
        store: guarded, not open yet.
        behind: where writes wait; None: they go through.
        negative_cache, coherence: see their classes.
        executor: executes what may need the store.
        loop: the worker's.
    """

    def __init__(
        self,
        store: GuardedStore,
        behind: WriteBehind | None,
        negative_cache: NegativeCache,
        coherence: Coherence,
        executor: StoredExecutor,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._store = store
        self._behind = behind
        self._negative_cache = negative_cache
        self._coherence = coherence
        self._executor = executor
        if store.is_shared:
            coherence.drop_all()  # no worker followed the store meanwhile
        self._opening = loop.create_task(self._open())

    async def _open(self) -> None:
        while True:
            try:
                await self._store.open()
                break
            except KvserveError as error:
                _log.error("the store cannot be opened: %s", error)
                await asyncio.sleep(_OPEN_AGAIN_SECONDS)
        if self._store.is_shared:
            self._store.shared.follow(self._coherence.on_invalid, self._coherence.on_fresh)

    def submit(
        self, request: Request, reply: Callable[[Reply], None], allowance: Allowance
    ) -> None:
        """Executes a request, now or later; `reply` is called with its outcome."""
        self._executor.submit(request, reply, allowance)

    @property
    def is_idle(self) -> bool:
        """Whether no request waits for the store."""
        return self._executor.is_idle

    def held(self) -> int:
        """The memory of what waits for the store, is on its way there, or is known of it."""
        behind = 0 if self._behind is None else self._behind.held_bytes
        return self._store.call_bytes + self._negative_cache.held_bytes + behind

    def configure(self, config: Config) -> None:
        """Takes the live settings of a configuration."""
        self._store.resize(config.buffer_bytes // limits.STORE_SHARE)
        self._negative_cache.bytes_max = config.buffer_bytes // limits.NEGATIVE_CACHE_SHARE
        if self._behind is not None:
            self._behind.bytes_max = config.buffer_bytes // limits.BEHIND_SHARE
        self._store.tune(config.store_timeout, config.near_cache_staleness)
        self._negative_cache.seconds = config.negative_ttl
        if self._store.is_shared:
            self._coherence.share_seconds = config.near_cache_staleness * _SHARED_PART

    def stats(self) -> dict[str, Any]:
        """The store's statistics in this worker; `kvserve stats --help` explains them."""
        return self._store.stats() | {
            "negative_hits": self._negative_cache.hits,
            "writes_behind": 0 if self._behind is None else len(self._behind),
            "invalidations": self._coherence.invalidations,
            "losses": self._coherence.losses,
            "nodes": self._store.nodes(),
        }

    async def close(self) -> None:
        """Writes what waits, and disconnects."""
        self._opening.cancel()
        if self._behind is not None:
            await self._behind.flush()
            if len(self._behind):
                _log.error("%d writes did not reach the store and are lost", len(self._behind))
        try:
            await self._store.close()
        except KvserveError as error:
            _log.error("the store did not close: %s", error)


def backing(
    url: str,
    config: Config,
    table: Table,
    shards: range,
    index: int,
    executor: Executor,
    loop: asyncio.AbstractEventLoop,
) -> Backing | None:
    """Builds the store stack behind a worker's table; None if there is no store.

    Args:
        url: the store's, with its password.
        config: everything else.
        table: this process's.
        shards: those that this worker serves.
        index: which worker this is.
        executor: executes what needs no store.
        loop: the worker's.

    Raises:
        ConfigError: a bad URL.
    """
    database = open_store(url, config.store_timeout, config.near_cache_staleness)
    if database is None:
        return None
    store = GuardedStore(database, loop, config.store_timeout, config.max_value)
    negative_cache = NegativeCache(config.negative_ttl, time.monotonic)
    coherence = Coherence(table, shards, index, negative_cache, is_shared=store.is_shared)
    behind = WriteBehind(store, loop, config.write_behind) if config.write_behind else None
    stored = StoredExecutor(
        table, index, executor, store, behind, negative_cache, coherence, loop, config.max_value
    )
    return Backing(store, behind, negative_cache, coherence, stored, loop)

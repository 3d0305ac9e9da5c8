"""Single requests by the shortest way to the store: no task, and no turn of the loop in between.

These would be half of what a miss costs a worker. Requests that come while connections are in use,
that wait for their turn, or that come in a batch go the usual way, and are sent together.
"""

from __future__ import annotations

import asyncio
from typing import Any

from kvserve.errors import KvserveError
from kvserve.execution.stored.coherence import Coherence
from kvserve.execution.stored.entry import raw_key_of
from kvserve.execution.stored.key_queues import KeyQueues
from kvserve.execution.stored.running import Running
from kvserve.execution.stored.table import StoredTable
from kvserve.store.base import Key, Record
from kvserve.store.guard import GuardedStore


class AtOnce:
    """Executes single requests by the shortest way.

    Args:
        stored: the table over the store.
        store: the database.
        queues: of the keys' jobs.
        coherence: whether the table may be believed.
        loop: the worker's.
    """

    def __init__(
        self,
        stored: StoredTable,
        store: GuardedStore,
        queues: KeyQueues,
        coherence: Coherence,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._stored = stored
        self._store = store
        self._queues = queues
        self._coherence = coherence
        self._loop = loop

    def read(self, running: Running, key: Key, raw_key: bytes) -> asyncio.Future[Any] | None:
        """Loads a key that no other request asks for by the shortest way; None: there is no such
        way just now."""
        if self._queues.is_full:
            return None
        result: asyncio.Future[Any] = self._loop.create_future()
        call = self._coherence.begin(raw_key)

        def done(outcome: Record | KvserveError | None) -> None:
            try:
                if isinstance(outcome, KvserveError):
                    raise outcome
                with running:
                    record = self._stored.loaded(outcome, call)
                    result.set_result(None if record is None else self._stored.fill(record, call))
            except Exception as error:  # it is raised where the result is awaited
                result.set_exception(error)
            finally:
                self._coherence.end(call)

        if not self._store.load_at_once(key, done):
            self._coherence.end(call)
            return None
        self._queues.adopt(raw_key, result, is_read=True)
        return result

    def set(
        self, running: Running, key: Key, codec_id: int, payload: bytes, ttl_ms: int
    ) -> asyncio.Future[Any] | None:
        """Stores a value by the shortest way; returns its future version. None: there is no such
        way just now. See `StoredTable.write`."""
        raw_key = raw_key_of(key)
        if self._queues.is_full or self._queues.is_busy(raw_key):
            return None
        record = self._stored.record(key, codec_id, payload, ttl_ms)
        result: asyncio.Future[Any] = self._loop.create_future()
        call = self._coherence.begin(raw_key)

        def done(outcome: KvserveError | None) -> None:
            try:
                if outcome is not None:
                    raise outcome
                with running:
                    self._stored.forget_negative(raw_key)
                    result.set_result(self._stored.fill(record, call).version)
            except Exception as error:  # it is raised where the result is awaited
                result.set_exception(error)
            finally:
                self._coherence.end(call)

        if not self._store.save_at_once(record, done):
            self._coherence.end(call)
            return None
        self._stored.forget_negative(raw_key)
        self._queues.adopt(raw_key, result, is_read=False)
        return result

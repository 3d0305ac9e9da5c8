"""Methods that look at, or change, all that a key holds: of the asyncio client and namespaces."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable
from typing import Any

from kvserve.client.aio.locks import driver_of
from kvserve.client.aio.recipes import AsyncRecipes
from kvserve.client.calls.operations import TTL, Key, Operations, Record, record_of
from kvserve.client.recipes.updates import update
from kvserve.errors import KvserveError
from kvserve.table._core import AskWorker


class AsyncRecords(AsyncRecipes):
    """See `blocking.records.Records`."""

    _operations: Operations

    async def get_record(self, key: Key) -> Record | None:
        """See `Client.get_record`."""
        root, full_key = self._root, await self._full_key(key)
        found = root._record_here(full_key)
        if isinstance(found, AskWorker):
            return await root._record_from_worker(full_key)
        return None if found is None else record_of(*found)

    async def _record_from_worker(self, full_key: Key) -> Record | None:
        await self._root._follow_table()
        record: Record | None = await self._root._run(self._operations.get_record(full_key))
        return record

    async def update(
        self, key: Key, function: Callable[[Any], Any], default: Any = None, ttl: TTL = None
    ) -> Any:
        """See `Client.update`. The function may be a coroutine function.

        Example:
            >>> async def add_tea(had):
            ...     return [*had, "tea"]
            >>> async def main():
            ...     async with await kvserve.connect_async() as cache:
            ...         await cache.delete("basket:8")
            ...         return await cache.update("basket:8", add_tea, [])
            >>> asyncio.run(main())
            ['tea']
        """

        async def call(value: Any) -> Any:
            result = function(value)
            return await result if inspect.isawaitable(result) else result

        full_key = await self._full_key(key)
        return await update(driver_of(self._root), self._operations, full_key, call, default, ttl)

    async def expire_at(self, key: Key, when: datetime.datetime | float) -> bool:
        """See `Client.expire_at`."""
        operation = self._operations.expire_at(await self._full_key(key), when)
        (done,) = await self._root._run_batch([operation])
        if isinstance(done, KvserveError):
            raise done
        return bool(done)

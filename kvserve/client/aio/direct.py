"""The asyncio client that writes into the table itself: `connect_async(write="direct")`.

Nothing here waits for a shard's lock: a call that finds it taken lets the event loop go on, and
tries again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kvserve.client.aio.client import AsyncClient
from kvserve.client.calls.call import raise_combined
from kvserve.client.calls.naming import naming
from kvserve.client.calls.operations import TTL, Key, Operation, Operations
from kvserve.client.deadlines import deadline_of
from kvserve.client.options import Options
from kvserve.client.writer.executor import DirectTable
from kvserve.errors import ClientClosed, KvserveError, ServerBusy, UnreadableValue, ValueTooLarge
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.protocol.codec import Value
from kvserve.table._core import check_key, check_keys

_RETRY_SECONDS = 0.002  # a lock is held for microseconds, unless its holder was killed or stopped


class AsyncDirectClient(AsyncClient):
    """An asyncio client that is a trusted writer; made by `kvserve.connect_async`.

    Arguments and errors are those of `blocking.direct.DirectClient`.
    """

    def __init__(self, names: Names, options: Options) -> None:
        super().__init__(names, options)
        self._timeout = options.timeout
        self._closed = False
        self._table = DirectTable(names, wait_seconds=0)
        if options.is_lazy:
            return  # the first write joins
        try:
            self._join_writers()
        except BaseException:
            self._reader.close()
            raise

    def _join_writers(self) -> None:
        if self._closed:
            raise ClientClosed("this client was closed")
        self._table.enter()
        self._operations.value_bytes_max = self._table.settings.value_bytes_max

    async def _run(self, operation: Operation) -> Any:
        if operation.command in commands.LIMITING:
            return await super()._run(operation)
        return await self._execute(operation, deadline_of(time.monotonic(), self._timeout))

    async def _run_batch(self, operations: list[Operation]) -> list[Any]:
        for operation in operations:
            check_key(operation.key)  # all keys, before anything is done
        deadline = deadline_of(time.monotonic(), self._timeout)
        await self._until(self._require_slot, deadline)
        results: list[Any] = []
        for operation in operations:
            try:
                results.append(await self._execute(operation, deadline))
            except ClientClosed:
                raise
            except KvserveError as error:
                results.append(error)
        return results

    async def _run_all(self, operations: list[Operation]) -> list[Any]:
        """As `_run_batch`, but raises one error for all if something failed."""
        results = await self._run_batch(operations)
        self._raise_for_all(operations, results)
        return results

    def _raise_for_all(self, operations: list[Operation], results: list[Any]) -> None:
        raise_combined([each.call(self._reader._shard_of) for each in operations], results)

    # One key after another, so that the event loop goes on between two of them if a lock is taken.

    async def _get_many_from_worker(self, found: dict[Key, Any], rest: list[Key]) -> dict[Key, Any]:
        await self._follow_table()
        missing = object()
        gets = [self._operations.get(key, missing) for key in rest]
        values = [
            missing if isinstance(value, UnreadableValue) else value
            for value in await self._run_batch(gets)
        ]
        self._raise_for_all(gets, values)
        for key, value in zip(rest, values, strict=True):
            if value is not missing:
                found[key] = value
        return found

    async def _store_many(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        values: Mapping[Any, Value],
        ttl: TTL,
    ) -> None:
        items = {key: values[name] for key, name in names.items()}
        failed: list[Key] = list(items)
        with naming(operations, names, items, lambda: failed):
            operations.ttl_ms(ttl)  # also if there is nothing to store
            try:
                operations.check_values(items)
            except ValueTooLarge:
                if large := operations.to_remove(items):
                    await self.delete_many(large)
                raise
            sets = [operations.set(key, value, ttl) for key, value in items.items()]
            results = await self._run_batch(sets)
            failed = [
                key
                for key, result in zip(items, results, strict=True)
                if isinstance(result, KvserveError)
            ]
            self._raise_for_all(sets, results)

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`."""
        operations = [self._operations.delete(key) for key in check_keys(keys)]
        return sum(await self._run_all(operations))

    async def _execute(self, operation: Operation, deadline: float) -> Any:
        def attempt() -> Any:
            self._require_slot()
            return self._table.execute(operation)

        return await self._until(attempt, deadline)

    def _require_slot(self) -> None:
        if not self._table.is_current:
            self._join_writers()

    @staticmethod
    async def _until(attempt: Callable[[], Any], deadline: float) -> Any:
        """What an attempt returns in the end; while something is busy, other tasks run."""
        while True:
            try:
                return attempt()
            except ServerBusy:
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    def _close(self) -> None:
        super()._close()
        self._closed = True
        self._table.leave()

"""Many keys in few round trips: the asyncio kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kvserve.client.aio.workers import AsyncWorkerPool
from kvserve.client.calls.batches import Batch
from kvserve.client.calls.many import DeleteMany, Many, SetMany
from kvserve.client.calls.naming import naming
from kvserve.client.calls.operations import (
    NOT_KEPT_MS,
    TTL,
    AnyKey,
    Key,
    Operation,
    Operations,
    check_mapping,
)
from kvserve.client.follower import TableFollower
from kvserve.errors import ValueTooLarge
from kvserve.protocol.codec import Value
from kvserve.table._core import check_keys


class AsyncManyKeys:
    """Methods of the asyncio client; see `blocking.many.ManyKeys`."""

    _operations: Operations
    _reader: TableFollower
    _workers: AsyncWorkerPool

    async def _run(self, operation: Operation) -> Any:
        raise NotImplementedError

    async def _run_calls(self, call: Batch | Many) -> None:
        raise NotImplementedError

    async def _get_many_from_worker(self, found: dict[Key, Any], rest: list[Key]) -> dict[Key, Any]:
        raise NotImplementedError

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `Client.get_many`."""
        found, rest = self._reader._get_many_here(keys)
        return await self._get_many_from_worker(found, rest) if rest else found

    async def set_many(self, values: Mapping[AnyKey, Value], ttl: TTL = None) -> None:
        """See `Client.set_many`."""
        operations = self._operations
        names = {operations.key(key): key for key in check_mapping(values)}
        await self._store_many(operations, names, values, ttl)

    async def _store_many(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        values: Mapping[Any, Value],
        ttl: TTL,
    ) -> None:
        items = {key: values[name] for key, name in names.items()}
        sets: SetMany | None = None
        with naming(operations, names, items, lambda: sets.unconfirmed() if sets else items):
            ttl_ms = operations.ttl_ms(ttl)
            try:
                if ttl_ms == NOT_KEPT_MS:
                    operations.check_values(items)
                    await self.delete_many(items)
                    return
                workers = self._workers
                by_worker = self._reader._split(items, await workers.count())
                encode, bytes_max = operations.encode, workers.frame_bytes_max
                sets = SetMany(by_worker, items, encode, ttl_ms, bytes_max)
                await self._run_calls(sets)
            except ValueTooLarge:
                if large := operations.to_remove(items):
                    await self.delete_many(large)
                raise

    async def _set_by(self, operations: Operations, key: Key, value: Value, ttl: TTL) -> int:
        operation = operations.set(key, value, ttl)
        try:
            version: int = await self._run(operation)
        except ValueTooLarge:  # by the worker's bound, perhaps
            if operations.rules.too_large == "remove":
                await self._run(operations.delete(key))
            raise
        return version

    async def _run_or_lose(self, operation: Operation) -> Any:
        """As `_run`, for namespaces, as this client's own methods treat errors."""
        return await self._run(operation)

    async def _set_or_lose(self, operations: Operations, key: Key, value: Value, ttl: TTL) -> int:
        """As `_set_by`, for namespaces, as this client's own methods treat errors."""
        return await self._set_by(operations, key, value, ttl)

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`."""
        keys = map(self._operations.key, check_keys(keys))
        deletes = DeleteMany(self._reader._split(keys, await self._workers.count()))
        await self._run_calls(deletes)
        return deletes.count

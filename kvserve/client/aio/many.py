"""Many keys in few round trips: the asyncio kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kvserve.client.aio.workers import AsyncWorkerPool
from kvserve.client.calls.batches import Batch
from kvserve.client.calls.call import raise_combined
from kvserve.client.calls.many import DeleteMany, Many, SetMany
from kvserve.client.calls.naming import failures, naming
from kvserve.client.calls.operations import (
    NOT_KEPT_MS,
    TTL,
    AnyKey,
    Key,
    Operation,
    Operations,
    Tags,
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

    async def _marks(self, tags: Tags | None) -> bytes:
        raise NotImplementedError

    async def _run_batch(self, operations: list[Operation]) -> list[Any]:
        raise NotImplementedError

    async def _run_calls(self, call: Batch | Many) -> None:
        raise NotImplementedError

    async def _get_many_from_worker(self, found: dict[Key, Any], rest: list[Key]) -> dict[Key, Any]:
        raise NotImplementedError

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `Client.get_many`."""
        found, rest = self._reader._get_many_here(keys)
        return await self._get_many_from_worker(found, rest) if rest else found

    async def set_many(
        self, values: Mapping[AnyKey, Value], ttl: TTL = None, *, tags: Tags | None = None
    ) -> None:
        """See `Client.set_many`."""
        operations = self._operations
        names = {operations.key(key): key for key in check_mapping(values)}
        await self._store_many(operations, names, values, ttl, tags)

    async def _store_many(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        values: Mapping[Any, Value],
        ttl: TTL,
        tags: Tags | None = None,
    ) -> None:
        items = {key: values[name] for key, name in names.items()}
        if tags is not None:
            await self._store_marked(operations, names, items, ttl, await self._marks(tags))
            return
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

    async def _store_marked(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        items: Mapping[Key, Value],
        ttl: TTL,
        marks: bytes,
    ) -> None:
        """Stores items that begin with these marks: one operation for each."""
        failed: list[Key] = list(items)
        with naming(operations, names, items, lambda: failed, len(marks)):
            try:
                operations.check_values(items, len(marks))
            except ValueTooLarge:
                if large := operations.to_remove(items, len(marks)):
                    await self.delete_many(large)
                raise
            sets = [operations.set(key, value, ttl, marks=marks) for key, value in items.items()]
            results = await self._run_batch(sets)
            failed = failures(items, results)
            raise_combined([each.call(self._reader._shard_of) for each in sets], results)

    async def _set_by(
        self, operations: Operations, key: Key, value: Value, ttl: TTL, marks: bytes = b""
    ) -> int:
        operation = operations.set(key, value, ttl, marks=marks)
        try:
            version: int = await self._run(operation)
        except ValueTooLarge:  # by the worker's bound, perhaps
            if operations.rules.too_large == "remove":
                await self._run(operations.delete(key))
            raise
        return version

    async def _change(
        self,
        operations: Operations,
        name: str,
        key: Key,
        *arguments: Any,
        tags: Tags | None = None,
        **options: Any,
    ) -> Any:
        """What the method of this name returns, by the rules of these operations."""
        marks = await self._marks(tags)
        if name == "set":
            value, ttl = arguments
            return await self._set_by(operations, key, value, ttl, marks)
        if marks:
            options["marks"] = marks
        return await self._run(getattr(operations, name)(key, *arguments, **options))

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`."""
        keys = map(self._operations.key, check_keys(keys))
        deletes = DeleteMany(self._reader._split(keys, await self._workers.count()))
        await self._run_calls(deletes)
        return deletes.count

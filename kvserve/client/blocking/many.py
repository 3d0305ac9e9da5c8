"""Changes of many keys in few round trips: the blocking kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kvserve.client.blocking.dispatch import Dispatcher
from kvserve.client.calls.call import raise_combined
from kvserve.client.calls.many import DeleteMany, SetMany
from kvserve.client.calls.naming import failures, naming
from kvserve.client.calls.operations import (
    NOT_KEPT_MS,
    TTL,
    AnyKey,
    Key,
    Operations,
    Tags,
    check_mapping,
)
from kvserve.errors import ValueTooLarge
from kvserve.protocol.codec import Value
from kvserve.table._core import check_keys


class ManyKeys(Dispatcher):
    """Methods of the blocking client."""

    def _marks(self, tags: Tags | None) -> bytes:
        raise NotImplementedError

    def set_many(
        self, values: Mapping[AnyKey, Value], ttl: TTL = None, *, tags: Tags | None = None
    ) -> None:
        """Stores many values in few round trips, all with the same tags. Not a transaction.

        Raises:
            InvalidKey, InvalidValue, ValueTooLarge, InvalidTTL: as `set`, before anything is sent;
                the error's `key` is the one that was refused.
            ServerError: some values may be stored.
                The `failed` of every error is a list of the keys that are not known to be stored.

        Example:
            >>> cache.set_many({"a": 1, "b": 2}, ttl=60)
            >>> try:
            ...     cache.set_many({"c": 3, "d": object()})
            ... except kvserve.InvalidValue as error:
            ...     print(error.key, error.failed)
            d ['c', 'd']
        """
        operations = self._operations
        names = {operations.key(key): key for key in check_mapping(values)}
        self._store_many(operations, names, values, ttl, tags)

    def _store_many(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        values: Mapping[Any, Value],
        ttl: TTL,
        tags: Tags | None = None,
    ) -> None:
        """Stores values by the caller's keys, which `names` has under each key itself."""
        items = {key: values[name] for key, name in names.items()}
        if tags is not None:
            self._store_marked(operations, names, items, ttl, self._marks(tags))
            return
        sets: SetMany | None = None
        with naming(operations, names, items, lambda: sets.unconfirmed() if sets else items):
            ttl_ms = operations.ttl_ms(ttl)
            try:
                if ttl_ms == NOT_KEPT_MS:
                    operations.check_values(items)
                    self.delete_many(items)
                    return
                workers = self._workers
                by_worker = self._split(items, workers.count())
                encode, bytes_max = operations.encode, workers.frame_bytes_max
                sets = SetMany(by_worker, items, encode, ttl_ms, bytes_max)
                self._run_calls(sets)
            except ValueTooLarge:
                if large := operations.to_remove(items):
                    self.delete_many(large)
                raise

    def _store_marked(
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
                    self.delete_many(large)
                raise
            sets = [operations.set(key, value, ttl, marks=marks) for key, value in items.items()]
            results = self._run_batch(sets)
            failed = failures(items, results)
            raise_combined([each.call(self._shard_of) for each in sets], results)

    def _set_by(
        self, operations: Operations, key: Key, value: Value, ttl: TTL, marks: bytes = b""
    ) -> int:
        """Stores a value by the rules of these operations."""
        operation = operations.set(key, value, ttl, marks=marks)
        try:
            version: int = self._run(operation)
        except ValueTooLarge:  # by the worker's bound, perhaps
            if operations.rules.too_large == "remove":
                self._run(operations.delete(key))
            raise
        return version

    def _change(
        self,
        operations: Operations,
        name: str,
        key: Key,
        *arguments: Any,
        tags: Tags | None = None,
        **options: Any,
    ) -> Any:
        """What the method of this name returns, by the rules of these operations."""
        marks = self._marks(tags)
        if name == "set":
            value, ttl = arguments
            return self._set_by(operations, key, value, ttl, marks)
        if marks:
            options["marks"] = marks
        return self._run(getattr(operations, name)(key, *arguments, **options))

    def delete_many(self, keys: Iterable[Key]) -> int:
        """Removes many keys; returns how many were there.

        Example:
            >>> cache.set_many({"a": 1, "b": 2})
            >>> cache.delete_many(["a", "b", "nobody"])
            2
        """
        keys = map(self._operations.key, check_keys(keys))
        deletes = DeleteMany(self._split(keys, self._workers.count()))
        self._run_calls(deletes)
        return deletes.count

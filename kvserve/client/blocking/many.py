"""Changes of many keys in few round trips: the blocking kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kvserve.client.blocking.dispatch import Dispatcher
from kvserve.client.calls.many import DeleteMany, SetMany
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
from kvserve.errors import ValueTooLarge
from kvserve.protocol.codec import Value
from kvserve.table._core import check_keys


class ManyKeys(Dispatcher):
    """Methods of the blocking client."""

    def set_many(self, values: Mapping[AnyKey, Value], ttl: TTL = None) -> None:
        """Stores many values in few round trips. Not a transaction.

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
        self._store_many(operations, names, values, ttl)

    def _store_many(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        values: Mapping[Any, Value],
        ttl: TTL,
    ) -> None:
        """Stores values by the caller's keys, which `names` has under each key itself."""
        items = {key: values[name] for key, name in names.items()}
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

    def _set_by(self, operations: Operations, key: Key, value: Value, ttl: TTL) -> int:
        """Stores a value by the rules of these operations."""
        operation = operations.set(key, value, ttl)
        try:
            version: int = self._run(operation)
        except ValueTooLarge:  # by the worker's bound, perhaps
            if operations.rules.too_large == "remove":
                self._run(operations.delete(key))
            raise
        return version

    def _run_or_lose(self, operation: Operation) -> Any:
        """As `_run`, for namespaces, as this client's own methods treat errors."""
        return self._run(operation)

    def _set_or_lose(self, operations: Operations, key: Key, value: Value, ttl: TTL) -> int:
        """As `_set_by`, for namespaces, as this client's own methods treat errors."""
        return self._set_by(operations, key, value, ttl)

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

"""Changes of many keys in few round trips: the blocking kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kvserve.client.blocking.dispatch import Dispatcher
from kvserve.client.calls.many import DeleteMany, SetMany
from kvserve.client.calls.operations import TTL, AnyKey, Key, check_mapping, to_ttl_ms
from kvserve.protocol.codec import Value
from kvserve.table._core import check_keys


class ManyKeys(Dispatcher):
    """Methods of the blocking client."""

    def set_many(self, values: Mapping[AnyKey, Value], ttl: TTL = None) -> None:
        """Stores many values in few round trips. Not a transaction. Raises as `set`.

        Example:
            >>> cache.set_many({"a": 1, "b": 2}, ttl=60)
        """
        workers = self._workers
        items = check_mapping(values)
        by_worker = self._split(items, workers.count())
        encode, ttl_ms = self._operations.encode, to_ttl_ms(ttl)
        sets = SetMany(by_worker, items, encode, ttl_ms, workers.frame_bytes_max)
        self._run_calls(sets)

    def delete_many(self, keys: Iterable[Key]) -> int:
        """Removes many keys; returns how many were there.

        Example:
            >>> cache.set_many({"a": 1, "b": 2})
            >>> cache.delete_many(["a", "b", "nobody"])
            2
        """
        by_worker = self._split(check_keys(keys), self._workers.count())
        deletes = DeleteMany(by_worker)
        self._run_calls(deletes)
        return deletes.count

"""The blocking client of `connect(on_error="miss")`: no error of the server reaches its caller.

Below the methods here everything raises as in any client, but through the circuit breaker of
`Outage`: so recipes, which must know, use `_strict`. What a method returns for an error stands
here once; the methods that are not here raise as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Self, TypeVar, cast

from kvserve.client.absent.kinds import Kind
from kvserve.client.absent.losses import LOST_SET, check_items, losses
from kvserve.client.absent.lost import Lost
from kvserve.client.absent.outage import Outage
from kvserve.client.absent.reads import ReaderOfTheRest
from kvserve.client.blocking.attended import AttendedClient
from kvserve.client.blocking.telling import teller
from kvserve.client.calls.operations import (
    TTL,
    Key,
    Operation,
    Operations,
    Record,
)
from kvserve.client.follower import TableFollower
from kvserve.client.options import Options
from kvserve.errors import ServerError
from kvserve.names import Names
from kvserve.protocol.codec import Value
from kvserve.table._core import check_key, check_keys

T = TypeVar("T")
_get = TableFollower.get


class ForgivingClient(ReaderOfTheRest, AttendedClient):
    """A client to which a server that does not answer is an empty cache.

    Args:
        names, options: as for any client.
    """

    def __init__(self, names: Names, options: Options) -> None:
        self._outage = Outage(names, teller(names, options), self)
        super().__init__(names, options)

    @property
    def _strict(self) -> Self:
        return cast("Self", super())

    @property
    def lost(self) -> Lost:
        """See `Client.lost`."""
        return self._outage.lost

    def _missed(self, error: ServerError, keys: list[Key] | None = None) -> None:
        if keys is None:
            self._outage.lose_read(error)
        else:
            self._lose_write(error, keys)

    def _lose_write(self, error: ServerError, keys: list[Key] | None) -> None:
        if keys is not None:
            keys = [self._operations.key(key) for key in keys]
        self._outage.lose_write(error, keys)

    def _attended(self, kind: Kind, miss: T, function: Callable[..., T], *args: Any) -> T:
        self._outage.check()
        try:
            return super()._attended(kind, miss, function, *args)
        except ServerError as error:
            self._outage.failed(error)
            raise

    def _read(self, miss: T, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(*args)
        except ServerError as error:
            self._outage.lose_read(error)
            return miss

    def _write(self, lost: T, keys: list[Key] | None, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(*args)
        except ServerError as error:
            self._lose_write(error, keys)
            return lost

    def get(self, key: Key, default: Any = None) -> Any:
        """See `Client.get`; an error is a miss."""
        try:  # as `_read` does, in a third of the time where nothing is lost
            if self._outage.error is None:
                return _get(self, key, default)
            return super().get(key, default)
        except ServerError as error:
            self._outage.lose_read(error)
            return default

    def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]:
        """See `Client.gets`; an error is a miss."""
        miss: tuple[Any, int | None] = (default, None)
        return self._read(miss, super().gets, key, default)

    def ttl(self, key: Key) -> float | None:
        """See `Client.ttl`; an error is a miss."""
        return self._read(None, super().ttl, key)

    def _record_from_worker(self, full_key: Key) -> Record | None:
        return self._read(None, super()._record_from_worker, full_key)

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `Client.get_many`; what an error kept from being read is left out."""
        found, rest = self._get_many_here(keys)
        if not rest:
            return found
        return self._read(found, self._get_many_from_worker, found, rest)

    def set(self, key: Key, value: Value, ttl: TTL = None) -> int:
        """See `Client.set`; returns 0 if it was lost."""
        return self._write(LOST_SET, [key], super().set, key, value, ttl)

    def add(self, key: Key, value: Value, ttl: TTL = None) -> bool:
        """See `Client.add`; returns False if it was lost."""
        return self._write(False, [key], super().add, key, value, ttl)

    def replace(self, key: Key, value: Value, ttl: TTL = None, *, keep_ttl: bool = False) -> bool:
        """See `Client.replace`; returns False if it was lost."""
        replace = partial(super().replace, keep_ttl=keep_ttl)
        return self._write(False, [key], replace, key, value, ttl)

    def touch(self, key: Key, ttl: TTL = None) -> bool:
        """See `Client.touch`; returns False if it was lost."""
        return self._write(False, [key], super().touch, key, ttl)

    def delete(self, key: Key, version: int | None = None) -> bool:
        """See `Client.delete`; returns False if it was lost."""
        return self._write(False, [key], super().delete, key, version)

    def __delitem__(self, key: Key) -> None:
        """See `Client.delete`; raises KeyError on a miss, but not if it was lost."""
        if not self._write(True, [key], super().delete, key):
            raise KeyError(key)

    def _run_or_lose(self, operation: Operation) -> Any:
        try:
            return self._run(operation)
        except ServerError as error:
            (instead,) = losses([operation], [error], self._outage)
            if instead is error:
                raise
            return instead

    def _set_or_lose(self, operations: Operations, key: Key, value: Value, ttl: TTL) -> int:
        try:
            return self._set_by(operations, key, value, ttl)
        except ServerError as error:
            self._outage.lose_write(error, [operations.key(key)])
            return LOST_SET

    def _store_many(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        values: Mapping[Any, Value],
        ttl: TTL,
    ) -> None:
        items = {key: values[name] for key, name in names.items()}
        check_items(names, items, ttl, operations)
        try:
            super()._store_many(operations, names, values, ttl)
        except ServerError as error:  # all of it is lost
            self._outage.lose_write(error, list(items))

    def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`; returns 0 if it was lost."""
        keys = list(check_keys(keys))
        for key in keys:
            check_key(self._operations.key(key))
        return self._write(0, keys, super().delete_many, keys)

    def _run_batch(self, operations: list[Operation]) -> list[Any]:
        try:
            results = super()._run_batch(operations)
        except ServerError as error:
            results = [error] * len(operations)
        return losses(operations, results, self._outage)

    def flush(self) -> None:
        """See `Client.flush`; if it is lost everything is a miss here until the server knows."""
        self._write(None, None, super().flush)

    def close(self) -> None:
        """See `Client.close`."""
        self._outage.is_over = True
        super().close()

"""The asyncio client of `on_error="miss"`; the twin of client/blocking/forgiving.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Self, TypeVar, cast

from kvserve import names as naming
from kvserve.client.absent.kinds import Kind
from kvserve.client.absent.losses import LOST_SET, check_items, losses
from kvserve.client.absent.lost import Lost
from kvserve.client.absent.outage import Outage
from kvserve.client.absent.reads import ReaderOfTheRest
from kvserve.client.aio.attended import AttendedAsyncClient
from kvserve.client.blocking.telling import teller
from kvserve.client.calls.operations import TTL, Key, Operation, Operations, Record
from kvserve.client.follower import TableFollower
from kvserve.client.options import Options
from kvserve.client.values import Values
from kvserve.errors import ServerError
from kvserve.protocol.codec import Value
from kvserve.table._core import check_key, check_keys

T = TypeVar("T")


class _Reader(ReaderOfTheRest):
    """The table of a client, without what it has lost."""

    def __init__(
        self, names: naming.Names, options: Options, values: Values, outage: Outage
    ) -> None:
        self._outage = outage
        super().__init__(names, options.read, values, is_lazy=options.is_lazy)


class ForgivingAsyncClient(AttendedAsyncClient):
    """See `ForgivingClient`."""

    def __init__(self, names: naming.Names, options: Options) -> None:
        self._outage = Outage(names, teller(names, options), self)
        super().__init__(names, options)

    def _made_reader(self, names: naming.Names, options: Options, values: Values) -> TableFollower:
        return _Reader(names, options, values, self._outage)

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

    async def _attended(
        self, kind: Kind, miss: T, function: Callable[..., Awaitable[T]], *args: Any
    ) -> T:
        self._outage.check()
        try:
            return await super()._attended(kind, miss, function, *args)
        except ServerError as error:
            self._outage.failed(error)
            raise

    async def _read(self, miss: T, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        try:
            return await function(*args)
        except ServerError as error:
            self._outage.lose_read(error)
            return miss

    async def _write(
        self, lost: T, keys: list[Key] | None, function: Callable[..., Awaitable[T]], *args: Any
    ) -> T:
        try:
            return await function(*args)
        except ServerError as error:
            self._lose_write(error, keys)
            return lost

    async def get(self, key: Key, default: Any = None) -> Any:
        """See `Client.get`; an error is a miss."""
        try:  # as `_read` does, but in half the time
            return await super().get(key, default)
        except ServerError as error:
            self._outage.lose_read(error)
            return default

    async def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]:
        """See `Client.gets`; an error is a miss."""
        miss: tuple[Any, int | None] = (default, None)
        return await self._read(miss, super().gets, key, default)

    async def ttl(self, key: Key) -> float | None:
        """See `Client.ttl`; an error is a miss."""
        return await self._read(None, super().ttl, key)

    async def _record_from_worker(self, full_key: Key) -> Record | None:
        return await self._read(None, super()._record_from_worker, full_key)

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `Client.get_many`; what an error kept from being read is left out."""
        found, rest = self._reader._get_many_here(keys)
        if not rest:
            return found
        return await self._read(found, self._get_many_from_worker, found, rest)

    async def set(self, key: Key, value: Value, ttl: TTL = None) -> int:
        """See `Client.set`; returns 0 if it was lost."""
        return await self._write(LOST_SET, [key], super().set, key, value, ttl)

    async def add(self, key: Key, value: Value, ttl: TTL = None) -> bool:
        """See `Client.add`; returns False if it was lost."""
        return await self._write(False, [key], super().add, key, value, ttl)

    async def replace(
        self, key: Key, value: Value, ttl: TTL = None, *, keep_ttl: bool = False
    ) -> bool:
        """See `Client.replace`; returns False if it was lost."""
        replace = partial(super().replace, keep_ttl=keep_ttl)
        return await self._write(False, [key], replace, key, value, ttl)

    async def touch(self, key: Key, ttl: TTL = None) -> bool:
        """See `Client.touch`; returns False if it was lost."""
        return await self._write(False, [key], super().touch, key, ttl)

    async def delete(self, key: Key, version: int | None = None) -> bool:
        """See `Client.delete`; returns False if it was lost."""
        return await self._write(False, [key], super().delete, key, version)

    async def _run_or_lose(self, operation: Operation) -> Any:
        try:
            return await self._run(operation)
        except ServerError as error:
            (instead,) = losses([operation], [error], self._outage)
            if instead is error:
                raise
            return instead

    async def _set_or_lose(self, operations: Operations, key: Key, value: Value, ttl: TTL) -> int:
        try:
            return await self._set_by(operations, key, value, ttl)
        except ServerError as error:
            self._outage.lose_write(error, [operations.key(key)])
            return LOST_SET

    async def _store_many(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        values: Mapping[Any, Value],
        ttl: TTL,
    ) -> None:
        items = {key: values[name] for key, name in names.items()}
        check_items(names, items, ttl, operations)
        try:
            await super()._store_many(operations, names, values, ttl)
        except ServerError as error:  # all of it is lost
            self._outage.lose_write(error, list(items))

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`; returns 0 if it was lost."""
        keys = list(check_keys(keys))
        for key in keys:
            check_key(self._operations.key(key))
        return await self._write(0, keys, super().delete_many, keys)

    async def _run_batch(self, operations: list[Operation]) -> list[Any]:
        try:
            results = await super()._run_batch(operations)
        except ServerError as error:
            results = [error] * len(operations)
        return losses(operations, results, self._outage)

    async def flush(self) -> None:
        """See `Client.flush`; if it is lost everything is a miss here until the server knows."""
        await self._write(None, None, super().flush)

    def _close(self) -> None:
        self._outage.is_over = True
        super()._close()

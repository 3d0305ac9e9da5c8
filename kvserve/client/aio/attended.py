"""The asyncio client that is made before its server; the twin of client/blocking/attended.py.

While it waits for a server, or for one that it starts, the event loop goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from kvserve import names as naming
from kvserve.client.absent.arrival import Arrival
from kvserve.client.absent.kinds import Kind, kind_of, kind_of_all
from kvserve.client.absent.patience import pauses
from kvserve.client.aio.client import AsyncClient
from kvserve.client.calls.operations import TTL, Key, Operation, Operations
from kvserve.client.options import Options
from kvserve.errors import ServerUnavailable
from kvserve.protocol import commands
from kvserve.protocol.codec import Value
from kvserve.protocol.commands import Command
from kvserve.runtime import named_errors
from kvserve.table._core import check_key, check_keys

T = TypeVar("T")


class AttendedAsyncClient(AsyncClient):
    """A client that is made before its server; made by `kvserve.async_client`."""

    def __init__(self, names: naming.Names, options: Options) -> None:
        self._arrival = Arrival(names, options)
        super().__init__(names, options)

    async def _attended(
        self, kind: Kind, miss: T, function: Callable[..., Awaitable[T]], *args: Any
    ) -> T:
        """See `AttendedClient._attended`."""
        arrival = self._arrival
        is_started = False
        for pause in pauses():
            try:
                self._find()
                return await function(*args)
            except ServerUnavailable:
                if arrival.launch is not None:
                    if kind is Kind.READ:
                        return miss
                    if kind is Kind.WRITE and not is_started:
                        await asyncio.to_thread(arrival.launch.run)
                        is_started = True
                        continue
                if not arrival.may_wait(asyncio.get_running_loop().time()):
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("pauses have no end")

    def _find(self) -> None:
        with named_errors():
            self._reader._follow_table()
        self._arrival.came()

    async def _follow_table(self) -> None:
        await self._attended(Kind.READ, None, _nothing)

    async def _run(self, operation: Operation) -> Any:
        check_key(operation.key)
        kind = kind_of(operation.command)
        miss = operation.interpret(None) if kind is Kind.READ else None
        return await self._attended(kind, miss, super()._run, operation)

    async def _get_many_from_worker(self, found: dict[Key, Any], rest: list[Key]) -> dict[Key, Any]:
        return await self._attended(Kind.READ, found, super()._get_many_from_worker, found, rest)

    async def _run_batch(self, operations: list[Operation]) -> list[Any]:
        kind = kind_of_all(operation.command for operation in operations)
        misses = [each.interpret(None) for each in operations] if kind is Kind.READ else []
        return await self._attended(kind, misses, super()._run_batch, operations)

    async def _store_many(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        values: Mapping[Any, Value],
        ttl: TTL,
    ) -> None:
        await self._attended(Kind.WRITE, None, super()._store_many, operations, names, values, ttl)

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`."""
        return await self._attended(Kind.WRITE, 0, super().delete_many, list(check_keys(keys)))

    async def _ask_all_workers(self, command: Command) -> list[Any]:
        kind = Kind.WRITE if command is commands.FLUSH else Kind.QUESTION
        return await self._attended(kind, [], super()._ask_all_workers, command)


async def _nothing() -> None:
    pass

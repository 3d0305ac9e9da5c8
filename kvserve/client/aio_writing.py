"""The asyncio client that writes into the table itself: `connect_async(write="direct")`.

Nothing here waits for a shard's lock: who finds it taken lets the event loop go on, and tries
again.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from kvserve.client.aio import AsyncClient
from kvserve.client.direct import Read
from kvserve.client.direct_table import DirectTable
from kvserve.client.operations import Operation
from kvserve.errors import ClientClosed, InvalidArgument, KvserveError, ServerBusy
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.table._core import check_key

_RETRY_SECONDS = 0.002  # a lock is held for microseconds, unless its holder was killed or stopped


class AsyncDirectClient(AsyncClient):
    """An asyncio client that is a trusted writer; made by `kvserve.connect_async`.

    Arguments and errors are those of `writing.DirectClient`.
    """

    def __init__(
        self, names: Names, *, timeout: float, read: Read, queue_bytes: int | None
    ) -> None:
        if read != "direct":
            raise InvalidArgument("write = 'direct' goes with read = 'direct' alone")
        super().__init__(names, timeout=timeout, read=read, queue_bytes=queue_bytes)
        self._timeout = timeout
        self._closed = False
        self._table = DirectTable(names, wait_seconds=0)
        try:
            self._sit_down()
        except BaseException:
            self._reader.close()
            raise

    def _sit_down(self) -> None:
        if self._closed:
            raise ClientClosed("this client was closed")
        self._table.enter()
        self._operations.value_bytes_max = self._table.settings.value_bytes_max

    async def _run(self, operation: Operation) -> Any:
        if operation.command is commands.LIMIT:
            return await super()._run(operation)
        return await self._execute(operation, time.monotonic() + self._timeout)

    async def _run_batch(self, operations: list[Operation]) -> list[Any]:
        for operation in operations:
            check_key(operation.key)  # of all, before anything is done
        deadline = time.monotonic() + self._timeout
        results: list[Any] = []
        for operation in operations:
            try:
                results.append(await self._execute(operation, deadline))
            except ClientClosed:
                raise
            except KvserveError as error:
                results.append(error)
        return results

    async def _execute(self, operation: Operation, deadline: float) -> Any:
        while True:
            try:
                if not self._table.is_current:
                    self._sit_down()
                return self._table.execute(operation)
            except ServerBusy:
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    async def close(self) -> None:
        """See `Client.close`."""
        await super().close()
        self._closed = True
        self._table.leave()

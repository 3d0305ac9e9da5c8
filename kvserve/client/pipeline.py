"""Operations collected for one batch: the same for both clients but for `execute`."""

from __future__ import annotations

import datetime
from typing import Any, Self

from kvserve.client.calls.operations import TTL, Key, Operation, Operations
from kvserve.client.contract import AsyncBatches, Batches
from kvserve.errors import KvserveError, MisuseError
from kvserve.protocol.codec import Value


class Collector:
    """Collects operations. Their results stand in `results`, in the same order, once executed.

    A pipeline saves round trips; it is no transaction: other clients may come in between.
    """

    def __init__(self, operations: Operations) -> None:
        self._make = operations
        self._collected: list[Operation] = []
        self._results: list[Any] | None = None

    def __len__(self) -> int:
        return len(self._collected)

    @property
    def results(self) -> list[Any]:
        """One result per operation.

        Raises:
            MisuseError: the pipeline has not been executed.
        """
        if self._results is None:
            raise MisuseError("the pipeline has no results before it was executed")
        return self._results

    def get(self, key: Key, default: Any = None) -> Self:
        """See `Client.get`."""
        return self._add(self._make.get(key, default))

    def gets(self, key: Key, default: Any = None) -> Self:
        """See `Client.gets`."""
        return self._add(self._make.gets(key, default))

    def get_record(self, key: Key) -> Self:
        """See `Client.get_record`."""
        return self._add(self._make.get_record(key))

    def ttl(self, key: Key) -> Self:
        """See `Client.ttl`."""
        return self._add(self._make.ttl(key))

    def set(self, key: Key, value: Value, ttl: TTL = None) -> Self:
        """See `Client.set`."""
        return self._add(self._make.set(key, value, ttl))

    def add(self, key: Key, value: Value, ttl: TTL = None) -> Self:
        """See `Client.add`."""
        return self._add(self._make.add(key, value, ttl))

    def replace(self, key: Key, value: Value, ttl: TTL = None, *, keep_ttl: bool = False) -> Self:
        """See `Client.replace`. Without a ttl or `keep_ttl`, that of the old value is dropped."""
        return self._add(self._make.replace(key, value, ttl, keep_ttl=keep_ttl))

    def cas(
        self, key: Key, value: Value, version: int, ttl: TTL = None, *, keep_ttl: bool = False
    ) -> Self:
        """See `Client.cas`. Without a ttl or `keep_ttl`, that of the old value is dropped."""
        return self._add(self._make.cas(key, value, version, ttl, keep_ttl=keep_ttl))

    def delete(self, key: Key, version: int | None = None) -> Self:
        """See `Client.delete`."""
        return self._add(self._make.delete(key, version))

    def touch(self, key: Key, ttl: TTL = None) -> Self:
        """See `Client.touch`. Without a ttl the key never expires any more."""
        return self._add(self._make.touch(key, ttl))

    def expire_at(self, key: Key, when: datetime.datetime | float) -> Self:
        """See `Client.expire_at`."""
        return self._add(self._make.expire_at(key, when))

    def incr(self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None) -> Self:
        """See `Client.incr`."""
        return self._add(self._make.incr(key, delta, initial, ttl))

    def decr(self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None) -> Self:
        """See `Client.decr`."""
        return self._add(self._make.decr(key, delta, initial, ttl))

    def _add(self, operation: Operation) -> Self:
        self._make.check_key(operation.key)  # here, so that the faulty line raises
        self._collected.append(operation)
        return self

    def _take_collected(self) -> list[Operation]:
        collected, self._collected = self._collected, []
        return collected

    def _finish(self, results: list[Any], *, raise_on_error: bool) -> list[Any]:
        self._results = results
        return first_error(results) if raise_on_error else results


def first_error(results: list[Any]) -> list[Any]:
    """The results themselves; raises the first error among them instead."""
    for result in results:
        if isinstance(result, KvserveError):
            raise result
    return results


class Pipeline(Collector):
    """Collects operations of a blocking client; made by `Client.pipeline`."""

    def __init__(self, client: Batches) -> None:
        super().__init__(client._operations)
        self._client = client

    def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """Sends what was collected; returns one result per operation.

        Args:
            raise_on_error: raise the first error; else errors stand among the results.
        """
        results = self._client._run_batch(self._take_collected())
        return self._finish(results, raise_on_error=raise_on_error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        if exception_type is None:
            self.execute()


class AsyncPipeline(Collector):
    """Collects operations of an asyncio client; made by `AsyncClient.pipeline`."""

    def __init__(self, client: AsyncBatches) -> None:
        super().__init__(client._operations)
        self._client = client

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """See `Pipeline.execute`."""
        results = await self._client._run_batch(self._take_collected())
        return self._finish(results, raise_on_error=raise_on_error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        if exception_type is None:
            await self.execute()

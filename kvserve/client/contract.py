"""What the recipes, namespaces and pipelines need of a client: one contract for each kind.

So they import no client, and a client can be built from them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Protocol, Self

from kvserve.client.calls.operations import (
    TTL,
    AnyKey,
    Key,
    Operation,
    Operations,
    Record,
    Tags,
)
from kvserve.errors import ServerError
from kvserve.names import Names
from kvserve.protocol.codec import Value
from kvserve.table._core import AskWorker, Reader


class Keyed(Protocol):
    """What has values by key: a blocking client, or a namespace of one."""

    def get(self, key: Key, default: Any = None) -> Any: ...
    def set(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> int: ...
    def delete(self, key: Key, version: int | None = None) -> bool: ...
    def contains(self, key: Key) -> bool: ...


class Batches(Protocol):
    """What executes a pipeline: a blocking client, or a namespace of one."""

    _operations: Operations

    def _run_batch(self, operations: list[Operation]) -> list[Any]: ...


class Cache(Keyed, Batches, Protocol):
    """A blocking client."""

    _names: Names

    @property
    def _reader(self) -> Reader: ...
    @property
    def _strict(self) -> Self: ...
    def _missed(self, error: ServerError, keys: list[Key] | None = None) -> None: ...
    @property
    def _timeout_seconds(self) -> float: ...
    def _ttl_ms(self, key: Key) -> int | AskWorker | None: ...
    def get_here(self, key: Key, default: Any = None) -> Any: ...
    def _record_here(self, key: Key) -> tuple[Any, int, int] | AskWorker | None: ...
    def _record_from_worker(self, full_key: Key) -> Record | None: ...
    def _follow_table(self) -> None: ...
    def _run(self, operation: Operation) -> Any: ...
    def _marks(self, tags: Tags | None) -> bytes: ...
    def _change(
        self,
        operations: Operations,
        name: str,
        key: Key,
        *arguments: Any,
        tags: Tags | None = None,
        **options: Any,
    ) -> Any: ...
    def _set_by(
        self, operations: Operations, key: Key, value: Value, ttl: TTL, marks: bytes = b""
    ) -> int: ...
    def _store_many(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        values: Mapping[Any, Value],
        ttl: TTL,
        tags: Tags | None = None,
    ) -> None: ...
    def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]: ...
    def add(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> bool: ...
    def replace(
        self,
        key: Key,
        value: Value,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        tags: Tags | None = None,
    ) -> bool: ...
    def cas(
        self,
        key: Key,
        value: Value,
        version: int,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        tags: Tags | None = None,
    ) -> bool: ...
    def touch(self, key: Key, ttl: TTL = None) -> bool: ...
    def ttl(self, key: Key) -> float | None: ...
    def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None: ...
    def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None: ...
    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]: ...
    def set_many(
        self, values: Mapping[AnyKey, Value], ttl: TTL = None, *, tags: Tags | None = None
    ) -> None: ...
    def delete_many(self, keys: Iterable[Key]) -> int: ...
    def scan(self, prefix: Key = "", match: Key | None = None) -> Iterator[Key]: ...


class AsyncBatches(Protocol):
    """What executes a pipeline: an asyncio client, or a namespace of one."""

    _operations: Operations

    async def _run_batch(self, operations: list[Operation]) -> list[Any]: ...


class AsyncCache(AsyncBatches, Protocol):
    """An asyncio client."""

    _names: Names

    @property
    def _reader(self) -> Reader: ...
    @property
    def _strict(self) -> Self: ...
    def _missed(self, error: ServerError, keys: list[Key] | None = None) -> None: ...
    @property
    def _timeout_seconds(self) -> float: ...
    def _ttl_ms(self, key: Key) -> int | AskWorker | None: ...
    def get_here(self, key: Key, default: Any = None) -> Any: ...
    def _record_here(self, key: Key) -> tuple[Any, int, int] | AskWorker | None: ...
    async def _record_from_worker(self, full_key: Key) -> Record | None: ...
    async def _follow_table(self) -> None: ...
    async def _run(self, operation: Operation) -> Any: ...
    async def _marks(self, tags: Tags | None) -> bytes: ...
    async def _change(
        self,
        operations: Operations,
        name: str,
        key: Key,
        *arguments: Any,
        tags: Tags | None = None,
        **options: Any,
    ) -> Any: ...
    async def _set_by(
        self, operations: Operations, key: Key, value: Value, ttl: TTL, marks: bytes = b""
    ) -> int: ...
    async def _store_many(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        values: Mapping[Any, Value],
        ttl: TTL,
        tags: Tags | None = None,
    ) -> None: ...
    async def get(self, key: Key, default: Any = None) -> Any: ...
    async def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]: ...
    async def set(
        self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None
    ) -> int: ...
    async def add(
        self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None
    ) -> bool: ...
    async def replace(
        self,
        key: Key,
        value: Value,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        tags: Tags | None = None,
    ) -> bool: ...
    async def cas(
        self,
        key: Key,
        value: Value,
        version: int,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        tags: Tags | None = None,
    ) -> bool: ...
    async def delete(self, key: Key, version: int | None = None) -> bool: ...
    async def touch(self, key: Key, ttl: TTL = None) -> bool: ...
    async def ttl(self, key: Key) -> float | None: ...
    async def contains(self, key: Key) -> bool: ...
    async def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None: ...
    async def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None: ...
    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]: ...
    async def set_many(
        self, values: Mapping[AnyKey, Value], ttl: TTL = None, *, tags: Tags | None = None
    ) -> None: ...
    async def delete_many(self, keys: Iterable[Key]) -> int: ...
    def scan(self, prefix: Key = "", match: Key | None = None) -> AsyncIterator[Key]: ...

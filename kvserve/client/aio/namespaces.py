"""A part of the cache with keys of its own, which can be cleared at once: the asyncio kind."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from kvserve.client.aio.locks import driver_of
from kvserve.client.aio.records import AsyncRecords
from kvserve.client.aio.scans import AsyncScans
from kvserve.client.calls.naming import full_names
from kvserve.client.calls.operations import TTL, AnyKey, Key, Operation, check_mapping
from kvserve.client.calls.rules import Lifetimes, LongKeys, Rules, TooLarge
from kvserve.client.contract import AsyncCache
from kvserve.client.pipeline import AsyncPipeline
from kvserve.client.recipes.generations import (
    NamespacePath,
    begin,
    full_terms,
    moved,
    new_generation,
)
from kvserve.errors import ServerError
from kvserve.protocol.codec import Value
from kvserve.table._core import AskWorker, NamespaceReader, check_keys


class AsyncNamespaces(AsyncRecords, AsyncScans):
    """All recipes, as methods of an asyncio client or a namespace."""

    def namespace(
        self,
        name: str,
        *,
        long_keys: LongKeys | None = None,
        too_large: TooLarge | None = None,
        lifetimes: Lifetimes | None = None,
    ) -> AsyncNamespace:
        """See `Client.namespace`."""
        rules = self._rules.changed(long_keys, too_large, lifetimes)
        return AsyncNamespace(self._root, (*self._path, name), rules)

    @property
    def _rules(self) -> Rules:
        """Those of what is in here."""
        return self._operations.rules


class AsyncNamespace(AsyncNamespaces):
    """A part of a cache; made by `AsyncClient.namespace`. See `Namespace`."""

    def __init__(self, client: AsyncCache, path: tuple[str, ...], rules: Rules) -> None:
        self._client = client
        self._operations = client._operations.in_namespace(rules)
        self._namespace = NamespacePath(path)
        self._here = NamespaceReader()
        self._here._read_through(
            client._reader,
            self._namespace.names,
            self._namespace.generation_keys,
            fits_keys=rules.long_keys == "hash",
        )

    @property
    def _root(self) -> AsyncCache:
        return self._client

    @property
    def _path(self) -> tuple[str, ...]:
        return self._namespace.path

    async def _prefix(self) -> str:
        """The prefix of the keys now. Looked at each time: another process may change it."""
        known = self._here._prefix_here()
        if known is not None:
            return known
        generations = []
        for key in self._namespace.generation_keys:
            generation = await self._client.get(key)
            if generation is None:
                try:
                    generation = await begin(driver_of(self._client), key)
                except ServerError as error:
                    self._client._missed(error)
                    generation = new_generation()  # nothing is there
            generations.append(generation)
        return self._namespace.prefix(generations)

    async def _full_key(self, key: Key) -> Key:
        full = self._here._full_key_here(key)
        if full is not None:
            return full
        self._operations.check_key(key)
        return self._rules.full_key(await self._prefix(), key)

    async def _run_batch(self, operations: list[Operation]) -> list[Any]:
        return await self._client._run_batch(moved(operations, await self._prefix(), self._rules))

    async def clear(self) -> None:
        """See `Namespace.clear`."""
        await self._client.set(self._namespace.generation_keys[-1], new_generation(), math.inf)

    async def get(self, key: Key, default: Any = None) -> Any:
        """See `Client.get`."""
        value = self._here.get(key, default)
        if isinstance(value, AskWorker):
            return await self._client.get(await self._full_key(key), default)
        return value

    def get_here(self, key: Key, default: Any = None) -> Any:
        """See `Client.get_here`."""
        value = self._here.get_here(key, default)
        if not isinstance(value, AskWorker):
            return value
        self._operations.check_key(key)
        prefix = self._namespace.prefix_here(self._client.get_here)
        if isinstance(prefix, AskWorker):
            return prefix
        if prefix is None:
            return default
        return self._client.get_here(self._rules.full_key(prefix, key), default)

    async def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]:
        """See `Client.gets`."""
        return await self._client.gets(await self._full_key(key), default)

    async def set(self, key: Key, value: Value, ttl: TTL = None) -> int:
        """See `Client.set`."""
        return await self._client._set_or_lose(
            self._operations, await self._full_key(key), value, ttl
        )

    async def add(self, key: Key, value: Value, ttl: TTL = None) -> bool:
        """See `Client.add`."""
        operation = self._operations.add(await self._full_key(key), value, ttl)
        return bool(await self._client._run_or_lose(operation))

    async def replace(
        self, key: Key, value: Value, ttl: TTL = None, *, keep_ttl: bool = False
    ) -> bool:
        """See `Client.replace`. Without a ttl or `keep_ttl`, that of the old value is dropped."""
        full_key = await self._full_key(key)
        operation = self._operations.replace(full_key, value, ttl, keep_ttl=keep_ttl)
        return bool(await self._client._run_or_lose(operation))

    async def cas(
        self, key: Key, value: Value, version: int, ttl: TTL = None, *, keep_ttl: bool = False
    ) -> bool:
        """See `Client.cas`. Without a ttl or `keep_ttl`, that of the old value is dropped."""
        full_key = await self._full_key(key)
        operation = self._operations.cas(full_key, value, version, ttl, keep_ttl=keep_ttl)
        return bool(await self._client._run_or_lose(operation))

    async def delete(self, key: Key, version: int | None = None) -> bool:
        """See `Client.delete`."""
        return await self._client.delete(await self._full_key(key), version)

    async def touch(self, key: Key, ttl: TTL = None) -> bool:
        """See `Client.touch`. Without a ttl the key never expires any more."""
        operation = self._operations.touch(await self._full_key(key), ttl)
        return bool(await self._client._run_or_lose(operation))

    async def ttl(self, key: Key) -> float | None:
        """See `Client.ttl`."""
        return await self._client.ttl(await self._full_key(key))

    async def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """See `Client.incr`."""
        operation = self._operations.incr(await self._full_key(key), delta, initial, ttl)
        total: int | None = await self._client._run_or_lose(operation)
        return total

    async def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """See `Client.decr`."""
        operation = self._operations.decr(await self._full_key(key), delta, initial, ttl)
        total: int | None = await self._client._run_or_lose(operation)
        return total

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `Client.get_many`."""
        keys = list(check_keys(keys))
        found, own = self._here._get_many_here(keys) or (None, {})
        if found is None:
            found, own = {}, await self._named(keys)
        if own:
            rest = await self._client.get_many(own)
            found |= {own[key]: value for key, value in rest.items()}
        return found

    async def set_many(self, values: Mapping[AnyKey, Value], ttl: TTL = None) -> None:
        """See `Client.set_many`."""
        own = await self._named(check_mapping(values))
        await self._client._store_many(self._operations, own, values, ttl)

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`."""
        prefix = await self._prefix()
        return await self._client.delete_many(
            [self._rules.full_key(prefix, key) for key in check_keys(keys)]
        )

    async def _named(self, keys: Iterable[Key]) -> dict[Key, Key]:
        """The caller's keys under the full ones."""
        return full_names(self._rules, await self._prefix(), keys)

    def pipeline(self) -> AsyncPipeline:
        """See `Client.pipeline`."""
        return AsyncPipeline(self)

    async def contains(self, key: Key) -> bool:
        """See `Client.contains`."""
        return await self._client.contains(await self._full_key(key))

    async def _full_terms(self, prefix: Key, match: Key | None) -> tuple[Key, Key | None]:
        return full_terms(await self._prefix(), prefix, match)

    async def scan(self, prefix: Key = "", match: Key | None = None) -> AsyncIterator[Key]:
        """See `Client.scan`. The keys are returned without the prefix; `match` is of them so.

        Keys of a namespace within this one are not returned.
        """
        before = await self._prefix()
        raw_before = before.encode()
        async for key in self._client.scan(*full_terms(before, prefix, match)):
            own = key[len(raw_before if isinstance(key, bytes) else before) :]
            yield self._rules.found([own], len(raw_before))[0]

    def __aiter__(self) -> AsyncIterator[Key]:
        """All keys in it, see `scan`."""
        return self.scan()

"""A part of the cache with keys of its own, which can be cleared at once: the asyncio kind."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from kvserve.client.aio.locks import driver_of
from kvserve.client.aio.recipes import AsyncRecipes
from kvserve.client.calls.operations import TTL, AnyKey, Key, Operation, Tags, check_mapping
from kvserve.client.contract import AsyncCache
from kvserve.client.pipeline import AsyncPipeline
from kvserve.client.recipes import key_layout
from kvserve.client.recipes.generations import NamespacePath, begin, moved, new_generation
from kvserve.client.recipes.tags import TagKeys, tag_keys
from kvserve.protocol.codec import Value
from kvserve.table._core import AskWorker, NamespaceReader, check_key, check_keys


class AsyncNamespaces(AsyncRecipes):
    """All recipes, as methods of an asyncio client or a namespace."""

    def namespace(self, name: str) -> AsyncNamespace:
        """See `Client.namespace`."""
        return AsyncNamespace(self._root, (*self._path, name))


class AsyncNamespace(AsyncNamespaces):
    """A part of a cache; made by `AsyncClient.namespace`. See `Namespace`."""

    def __init__(self, client: AsyncCache, path: tuple[str, ...]) -> None:
        self._client = client
        self._operations = client._operations
        self._namespace = NamespacePath(path)
        self._here = NamespaceReader()
        self._here._read_through(
            client._reader, self._namespace.names, self._namespace.generation_keys
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
                generation = await begin(driver_of(self._client), key)
            generations.append(generation)
        return self._namespace.prefix(generations)

    async def _full_key(self, key: Key) -> Key:
        full = self._here._full_key_here(key)
        if full is not None:
            return full
        check_key(key)
        return key_layout.joined(await self._prefix(), key)

    def _tags_of(self, tags: Tags | None) -> TagKeys | None:
        return None if tags is None else tag_keys(self._path, tags)

    async def _run_batch(self, operations: list[Operation]) -> list[Any]:
        return await self._client._run_batch(moved(operations, await self._prefix()))

    async def clear(self) -> None:
        """See `Namespace.clear`."""
        await self._client.set(self._namespace.generation_keys[-1], new_generation(), math.inf)

    async def get(self, key: Key, default: Any = None) -> Any:
        """See `Client.get`."""
        value = self._here.get(key, default)
        if isinstance(value, AskWorker):
            return await self._client.get(await self._full_key(key), default)
        return value

    async def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]:
        """See `Client.gets`."""
        return await self._client.gets(await self._full_key(key), default)

    async def set(
        self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None
    ) -> int:
        """See `Client.set`."""
        return await self._client.set(
            await self._full_key(key), value, ttl, tags=self._tags_of(tags)
        )

    async def add(
        self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None
    ) -> bool:
        """See `Client.add`."""
        return await self._client.add(
            await self._full_key(key), value, ttl, tags=self._tags_of(tags)
        )

    async def replace(
        self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None
    ) -> bool:
        """See `Client.replace`. Ttl and tags of the old value are dropped."""
        return await self._client.replace(
            await self._full_key(key), value, ttl, tags=self._tags_of(tags)
        )

    async def cas(
        self,
        key: Key,
        value: Value,
        version: int,
        ttl: TTL = None,
        *,
        tags: Tags | None = None,
    ) -> bool:
        """See `Client.cas`. Ttl and tags of the old value are dropped."""
        return await self._client.cas(
            await self._full_key(key), value, version, ttl, tags=self._tags_of(tags)
        )

    async def delete(self, key: Key, version: int | None = None) -> bool:
        """See `Client.delete`."""
        return await self._client.delete(await self._full_key(key), version)

    async def touch(self, key: Key, ttl: TTL = None) -> bool:
        """See `Client.touch`. Without a ttl the key never expires any more."""
        return await self._client.touch(await self._full_key(key), ttl)

    async def ttl(self, key: Key) -> float | None:
        """See `Client.ttl`."""
        return await self._client.ttl(await self._full_key(key))

    async def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """See `Client.incr`."""
        return await self._client.incr(await self._full_key(key), delta, initial, ttl)

    async def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """See `Client.decr`."""
        return await self._client.decr(await self._full_key(key), delta, initial, ttl)

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `Client.get_many`."""
        keys = list(check_keys(keys))
        found, own = self._here._get_many_here(keys) or (None, {})
        if found is None:
            prefix = await self._prefix()
            found = {}
            own = {key_layout.joined(prefix, key): key for key in key_layout.checked(keys)}
        if own:
            rest = await self._client.get_many(own)
            found |= {own[key]: value for key, value in rest.items()}
        return found

    async def set_many(
        self, values: Mapping[AnyKey, Value], ttl: TTL = None, *, tags: Tags | None = None
    ) -> None:
        """See `Client.set_many`."""
        prefix = await self._prefix()
        items = check_mapping(values)
        keys = key_layout.checked(items)
        await self._client.set_many(
            {key_layout.joined(prefix, key): items[key] for key in keys},
            ttl,
            tags=self._tags_of(tags),
        )

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`."""
        prefix = await self._prefix()
        keys = key_layout.checked(check_keys(keys))
        return await self._client.delete_many([key_layout.joined(prefix, key) for key in keys])

    def pipeline(self) -> AsyncPipeline:
        """See `Client.pipeline`."""
        return AsyncPipeline(self)

    async def contains(self, key: Key) -> bool:
        """See `Client.contains`."""
        return await self._client.contains(await self._full_key(key))

    async def scan(self, prefix: Key = "") -> AsyncIterator[Key]:
        """See `Client.scan`. The keys are returned without the prefix."""
        before = await self._prefix()
        async for key in self._client.scan(key_layout.joined(before, prefix)):
            yield key[len(before.encode() if isinstance(key, bytes) else before) :]

    def __aiter__(self) -> AsyncIterator[Key]:
        """All keys in it, see `scan`."""
        return self.scan()

"""A part of the cache with keys of its own, which can be cleared at once: the blocking kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kvserve.client.blocking.recipes import Recipes
from kvserve.client.calls.operations import TTL, AnyKey, Key, Operation, Tags, check_mapping
from kvserve.client.contract import Cache
from kvserve.client.mapping import MappingMethods
from kvserve.client.pipeline import Pipeline
from kvserve.client.recipes import key_layout
from kvserve.client.recipes.driver import Driver, run_to_end
from kvserve.client.recipes.generations import NamespacePath, begin, moved, new_generation
from kvserve.client.recipes.tags import TagKeys, tag_keys
from kvserve.protocol.codec import Value
from kvserve.table._core import NamespaceReader, check_key, check_keys


class Namespaces(Recipes):
    """All recipes, as methods of a blocking client or a namespace."""

    def namespace(self, name: str) -> Namespace:
        """A part of the cache with keys of its own, which `clear` empties at once.

        It has the client's methods that take keys, and the recipes. Its keys are in the same table,
        in a longer form: the name and 26 bytes come before each.

        Args:
            name: any str except the empty one.

        Example:
            >>> eu = cache.namespace("eu")
            >>> eu.set("capital", "Paris") > 0, eu.get("capital"), cache.get("capital")
            (True, 'Paris', None)
            >>> eu.clear()
            >>> "capital" in eu
            False
        """
        return Namespace(self._root, (*self._path, name))


class Namespace(NamespaceReader, Namespaces, MappingMethods):
    """A part of a cache; made by `Client.namespace`. Its methods are those of the client.

    `get(key, default=None)` is inherited from the NamespaceReader in table/_namespaces.pxi, so that
    a hit runs no Python code. Locks and limiters have the namespace in their names; `clear` does
    not touch them.
    """

    def __init__(self, client: Cache, path: tuple[str, ...]) -> None:
        self._client = client
        self._operations = client._operations
        self._namespace = NamespacePath(path)
        self._read_through(client._reader, self._namespace.names, self._namespace.generation_keys)

    @property
    def _root(self) -> Cache:
        return self._client

    @property
    def _path(self) -> tuple[str, ...]:
        return self._namespace.path

    def _prefix(self) -> str:
        """The prefix of the keys now. Looked at each time: another process may change it."""
        known = self._prefix_here()
        if known is not None:
            return known
        generations = []
        for key in self._namespace.generation_keys:
            generation = self._client.get(key)
            if generation is None:
                generation = run_to_end(begin(Driver.of(self._client), key))
            generations.append(generation)
        return self._namespace.prefix(generations)

    def _full_key(self, key: Key) -> Key:
        full = self._full_key_here(key)
        if full is not None:
            return full
        check_key(key)
        return key_layout.joined(self._prefix(), key)

    def _tags_of(self, tags: Tags | None) -> TagKeys | None:
        return None if tags is None else tag_keys(self._path, tags)

    def _run_batch(self, operations: list[Operation]) -> list[Any]:
        return self._client._run_batch(moved(operations, self._prefix()))

    def clear(self) -> None:
        """Removes everything in the namespace, at once, for all processes, however much it is.

        A value that `get_or_set` or `memoize` is computing then is stored out of reach.

        Example:
            >>> cache.namespace("eu").clear()
        """
        self._client.set(self._namespace.generation_keys[-1], new_generation(), math.inf)

    def _get_by_client(self, key: Key, default: Any) -> Any:
        check_key(key)
        return self._client.get(key_layout.joined(self._prefix(), key), default)

    def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]:
        """See `Client.gets`."""
        return self._client.gets(self._full_key(key), default)

    def set(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> int:
        """See `Client.set`."""
        return self._client.set(self._full_key(key), value, ttl, tags=self._tags_of(tags))

    def add(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> bool:
        """See `Client.add`."""
        return self._client.add(self._full_key(key), value, ttl, tags=self._tags_of(tags))

    def replace(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> bool:
        """See `Client.replace`. Ttl and tags of the old value are dropped."""
        return self._client.replace(self._full_key(key), value, ttl, tags=self._tags_of(tags))

    def cas(
        self,
        key: Key,
        value: Value,
        version: int,
        ttl: TTL = None,
        *,
        tags: Tags | None = None,
    ) -> bool:
        """See `Client.cas`. Ttl and tags of the old value are dropped."""
        return self._client.cas(self._full_key(key), value, version, ttl, tags=self._tags_of(tags))

    def delete(self, key: Key, version: int | None = None) -> bool:
        """See `Client.delete`."""
        return self._client.delete(self._full_key(key), version)

    def touch(self, key: Key, ttl: TTL = None) -> bool:
        """See `Client.touch`. Without a ttl the key never expires any more."""
        return self._client.touch(self._full_key(key), ttl)

    def ttl(self, key: Key) -> float | None:
        """See `Client.ttl`."""
        return self._client.ttl(self._full_key(key))

    def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """See `Client.incr`."""
        return self._client.incr(self._full_key(key), delta, initial, ttl)

    def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """See `Client.decr`."""
        return self._client.decr(self._full_key(key), delta, initial, ttl)

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `Client.get_many`."""
        keys = list(check_keys(keys))
        found, own = self._get_many_here(keys) or (None, {})
        if found is None:
            prefix = self._prefix()
            found = {}
            own = {key_layout.joined(prefix, key): key for key in key_layout.checked(keys)}
        if own:
            rest = self._client.get_many(own)
            found |= {own[key]: value for key, value in rest.items()}
        return found

    def set_many(
        self, values: Mapping[AnyKey, Value], ttl: TTL = None, *, tags: Tags | None = None
    ) -> None:
        """See `Client.set_many`."""
        prefix = self._prefix()
        items = check_mapping(values)
        keys = key_layout.checked(items)
        own = {key_layout.joined(prefix, key): items[key] for key in keys}
        self._client.set_many(own, ttl, tags=self._tags_of(tags))

    def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`."""
        prefix = self._prefix()
        keys = key_layout.checked(check_keys(keys))
        return self._client.delete_many([key_layout.joined(prefix, key) for key in keys])

    def pipeline(self) -> Pipeline:
        """See `Client.pipeline`."""
        return Pipeline(self)

    def contains(self, key: Key) -> bool:
        """See `Client.contains`."""
        return self._client.contains(self._full_key(key))

    def scan(self, prefix: Key = "") -> Iterator[Key]:
        """See `Client.scan`. The keys are returned without the prefix.

        Keys of a namespace within this one are not returned.
        """
        before = self._prefix()
        for key in self._client.scan(key_layout.joined(before, prefix)):
            yield key[len(before.encode() if isinstance(key, bytes) else before) :]

    def __iter__(self) -> Iterator[Key]:
        """All keys in it, see `scan`."""
        return self.scan()

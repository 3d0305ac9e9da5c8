"""A part of the cache with keys of its own, which can be cleared at once: the blocking kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kvserve.client.blocking.by_rules import ByRules
from kvserve.client.blocking.records import Records
from kvserve.client.blocking.scans import Scans
from kvserve.client.calls.naming import full_names
from kvserve.client.calls.operations import TTL, AnyKey, Key, Operation, check_mapping
from kvserve.client.calls.rules import Lifetimes, LongKeys, Rules, TooLarge
from kvserve.client.contract import Cache
from kvserve.client.mapping import MappingMethods
from kvserve.client.pipeline import Pipeline
from kvserve.client.recipes.driver import Driver, run_to_end
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


class Namespaces(Records, Scans):
    """All recipes, as methods of a blocking client or a namespace."""

    def namespace(
        self,
        name: str,
        *,
        long_keys: LongKeys | None = None,
        too_large: TooLarge | None = None,
        lifetimes: Lifetimes | None = None,
    ) -> Namespace:
        """A part of the cache with keys of its own, which `clear` empties at once.

        It has the client's methods that take keys, and the recipes. Its keys are in the same table,
        in a longer form: the name and 26 bytes come before each.

        Args:
            name: any str except the empty one.
            long_keys, too_large, lifetimes: as for `connect`; None: as outside. With `long_keys`
                a key is replaced that is too long with what comes before it.

        Example:
            >>> eu = cache.namespace("eu")
            >>> eu.set("capital", "Paris") > 0, eu.get("capital"), cache.get("capital")
            (True, 'Paris', None)
            >>> eu.clear()
            >>> "capital" in eu
            False
        """
        rules = self._rules.changed(long_keys, too_large, lifetimes)
        return Namespace(self._root, (*self._path, name), rules)

    @property
    def _rules(self) -> Rules:
        """Those of what is in here."""
        return self._operations.rules


class Namespace(NamespaceReader, Namespaces, MappingMethods):
    """A part of a cache; made by `Client.namespace`. Its methods are those of the client.

    `get(key, default=None)` is inherited from the NamespaceReader in table/_namespaces.pxi, so that
    a hit runs no Python code. Locks have the namespace in their names; `clear` does not release
    them. It forgets the hits of limiters.
    """

    def __init__(self, client: Cache, path: tuple[str, ...], rules: Rules) -> None:
        self._client = client
        self._operations = client._operations.in_namespace(rules)
        self._namespace = NamespacePath(path)
        self._read_through(
            client._reader,
            self._namespace.names,
            self._namespace.generation_keys,
            fits_keys=rules.long_keys == "hash",
        )
        same = (rules.too_large, rules.lifetimes) == (
            client._operations.rules.too_large,
            client._operations.rules.lifetimes,
        )
        self._writes = client if same else ByRules(client, self._operations)

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
                try:
                    generation = run_to_end(begin(Driver.of(self._client), key))
                except ServerError as error:
                    self._client._missed(error)
                    generation = new_generation()  # nothing is there
            generations.append(generation)
        return self._namespace.prefix(generations)

    def _full_key(self, key: Key) -> Key:
        full = self._full_key_here(key)
        if full is not None:
            return full
        self._operations.check_key(key)
        return self._rules.full_key(self._prefix(), key)

    def _run_batch(self, operations: list[Operation]) -> list[Any]:
        return self._client._run_batch(moved(operations, self._prefix(), self._rules))

    def clear(self) -> None:
        """Removes everything in the namespace, at once, for all processes, however much it is.

        A value that `get_or_set` or `memoize` is computing then is stored out of reach.

        Example:
            >>> cache.namespace("eu").clear()
        """
        self._client.set(self._namespace.generation_keys[-1], new_generation(), math.inf)

    def _get_by_client(self, key: Key, default: Any) -> Any:
        self._operations.check_key(key)
        return self._client.get(self._rules.full_key(self._prefix(), key), default)

    def _get_here_by_client(self, key: Key, default: Any) -> Any:
        self._operations.check_key(key)
        prefix = self._namespace.prefix_here(self._client.get_here)
        if isinstance(prefix, AskWorker):
            return prefix
        if prefix is None:
            return default
        return self._client.get_here(self._rules.full_key(prefix, key), default)

    def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]:
        """See `Client.gets`."""
        return self._client.gets(self._full_key(key), default)

    def set(self, key: Key, value: Value, ttl: TTL = None) -> int:
        """See `Client.set`."""
        return self._writes.set(self._full_key(key), value, ttl)

    def add(self, key: Key, value: Value, ttl: TTL = None) -> bool:
        """See `Client.add`."""
        return self._writes.add(self._full_key(key), value, ttl)

    def replace(self, key: Key, value: Value, ttl: TTL = None, *, keep_ttl: bool = False) -> bool:
        """See `Client.replace`. Without a ttl or `keep_ttl`, that of the old value is dropped."""
        full_key = self._full_key(key)
        return self._writes.replace(full_key, value, ttl, keep_ttl=keep_ttl)

    def cas(
        self, key: Key, value: Value, version: int, ttl: TTL = None, *, keep_ttl: bool = False
    ) -> bool:
        """See `Client.cas`. Without a ttl or `keep_ttl`, that of the old value is dropped."""
        full_key = self._full_key(key)
        return self._writes.cas(full_key, value, version, ttl, keep_ttl=keep_ttl)

    def delete(self, key: Key, version: int | None = None) -> bool:
        """See `Client.delete`."""
        return self._client.delete(self._full_key(key), version)

    def touch(self, key: Key, ttl: TTL = None) -> bool:
        """See `Client.touch`. Without a ttl the key never expires any more."""
        return self._writes.touch(self._full_key(key), ttl)

    def ttl(self, key: Key) -> float | None:
        """See `Client.ttl`."""
        return self._client.ttl(self._full_key(key))

    def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """See `Client.incr`."""
        total: int | None = self._writes.incr(self._full_key(key), delta, initial, ttl)
        return total

    def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """See `Client.decr`."""
        total: int | None = self._writes.decr(self._full_key(key), delta, initial, ttl)
        return total

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `Client.get_many`."""
        keys = list(check_keys(keys))
        found, own = self._get_many_here(keys) or (None, {})
        if found is None:
            found, own = {}, self._named(keys)
        if own:
            rest = self._client.get_many(own)
            found |= {own[key]: value for key, value in rest.items()}
        return found

    def set_many(self, values: Mapping[AnyKey, Value], ttl: TTL = None) -> None:
        """See `Client.set_many`."""
        own = self._named(check_mapping(values))
        self._client._store_many(self._operations, own, values, ttl)

    def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`."""
        prefix = self._prefix()
        return self._client.delete_many(
            [self._rules.full_key(prefix, key) for key in check_keys(keys)]
        )

    def _named(self, keys: Iterable[Key]) -> dict[Key, Key]:
        """The caller's keys under the full ones."""
        return full_names(self._rules, self._prefix(), keys)

    def pipeline(self) -> Pipeline:
        """See `Client.pipeline`."""
        return Pipeline(self)

    def contains(self, key: Key) -> bool:
        """See `Client.contains`."""
        return self._client.contains(self._full_key(key))

    def _full_terms(self, prefix: Key, match: Key | None) -> tuple[Key, Key | None]:
        return full_terms(self._prefix(), prefix, match)

    def scan(self, prefix: Key = "", match: Key | None = None) -> Iterator[Key]:
        """See `Client.scan`. The keys are returned without the prefix; `match` is of them so.

        Keys of a namespace within this one are not returned.
        """
        before = self._prefix()
        raw_before = before.encode()
        for key in self._client.scan(*full_terms(before, prefix, match)):
            own = key[len(raw_before if isinstance(key, bytes) else before) :]
            yield self._rules.found([own], len(raw_before))[0]

    def __iter__(self) -> Iterator[Key]:
        """All keys in it, see `scan`."""
        return self.scan()

"""The blocking client: every method does its one thing and returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from kvserve.client.blocking.namespaces import Namespaces
from kvserve.client.blocking.whole import WholeCache
from kvserve.client.calls.cursor import Cursor
from kvserve.client.calls.many import DeleteMany, SetMany
from kvserve.client.calls.operations import (
    TTL,
    AnyKey,
    Key,
    Tags,
    check_mapping,
    from_ttl_ms,
    to_ttl_ms,
)
from kvserve.client.mapping import MappingMethods
from kvserve.client.pipeline import Pipeline, first_error
from kvserve.client.recipes import tags as tagging
from kvserve.client.recipes.driver import Driver, run_to_end
from kvserve.client.recipes.generations import are_in_namespaces, living
from kvserve.errors import InvalidArgument
from kvserve.protocol import commands
from kvserve.protocol.codec import Value
from kvserve.table._core import AskWorker, check_keys


class Client(Namespaces, MappingMethods, WholeCache):
    """A blocking client; made by `kvserve.connect`, which describes the arguments.

    All methods that take a key raise InvalidKey if it is not a str or bytes of 1 to 1024 bytes. All
    methods that ask a worker raise ServerError, or a subclass, if there is no answer in time; a hit
    asks no worker. `get(key, default=None)` and `get_many(keys)` are inherited from the Reader in
    table/_reader.pxi, so that a hit runs no Python code.

    Example:
        >>> with kvserve.connect(timeout=0.5) as client:
        ...     client["user:1"] = {"name": "Ada"}
        ...     client.get("user:1")
        {'name': 'Ada'}
    """

    def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]:
        """The value of a key and its version, for `cas`.

        A later version of a key is a larger number, below 2^53, even if the table was replaced
        meanwhile; no two records of a key have the same version.

        Returns:
            (value, version), or (default, None) on a miss.

        Example:
            >>> cache.gets("nobody")
            (None, None)
        """
        found = self._gets_here(key)
        if found is None:
            return default, None
        if isinstance(found, AskWorker):
            self._follow_table()
            pair: tuple[Any, int | None] = self._run(self._operations.gets(key, default))
            return pair
        return found

    def set(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> int:
        """Stores a value, whatever was there.

        Args:
            key: str or bytes.
            value: bytes, str, int, None, bool, float, datetime with a time zone, or a list, tuple
                or dict of these, by exact type; docs/values.md has the table.
            ttl: seconds or a timedelta until it expires, a millisecond at least; None: the
                server's `default_ttl`, which is never unless it is configured; `math.inf`: never.
            tags: at most 15 names, by each of which the value can be made a miss: see
                `invalidate_tag`. They are read before the value is sent.

        Returns:
            The value's version, see `cas`.

        Raises:
            InvalidValue, ValueTooLarge, InvalidTTL: before anything is sent. InvalidValue says
                which part of the value would not come back exactly, and where it is.
            InvalidArgument: these are no tags, or there is a store behind the table.

        Example:
            >>> cache.set("user:1", {"name": "Ada"}, ttl=60) > 0
            True
        """
        if tags is not None:
            return int(self._store_tagged("set", tags, key, value, ttl))
        version: int = self._ask(commands.SET, self._operations.stored(key, value, ttl))
        return version

    def _store_tagged(self, name: str, tags: Tags, *arguments: Any) -> Any:
        return run_to_end(tagging.store(Driver.of(self), name, tags, *arguments))

    def add(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> bool:
        """Stores a value if the key is missing; returns whether it did. Raises as `set`.

        Example:
            >>> cache.delete("once"), cache.add("once", 1), cache.add("once", 2)
            (False, True, False)
        """
        if tags is not None:
            return bool(self._store_tagged("add", tags, key, value, ttl))
        return bool(self._run(self._operations.add(key, value, ttl)))

    def replace(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> bool:
        """Stores a value if the key is there; returns whether it did. Raises as `set`.

        Ttl and tags are as for `set`: those of the old value are dropped.

        Example:
            >>> cache.replace("nobody", 1)
            False
        """
        if tags is not None:
            return bool(self._store_tagged("replace", tags, key, value, ttl))
        return bool(self._run(self._operations.replace(key, value, ttl)))

    def cas(
        self,
        key: Key,
        value: Value,
        version: int,
        ttl: TTL = None,
        *,
        tags: Tags | None = None,
    ) -> bool:
        """Compare and swap: stores a value if the key still has this version. Raises as `set`.

        Args:
            version: what `gets` or `set` returned.
            ttl, tags: as for `set`: those of the old value are dropped.

        Returns:
            Whether it was stored.

        Example:
            >>> version = cache.set("draft", "first")
            >>> cache.cas("draft", "second", version), cache.cas("draft", "third", version)
            (True, False)
        """
        if tags is not None:
            return bool(self._store_tagged("cas", tags, key, value, version, ttl))
        return bool(self._run(self._operations.cas(key, value, version, ttl)))

    def delete(self, key: Key, version: int | None = None) -> bool:
        """Removes a key; returns whether it did.

        If a worker died meanwhile, the answer may be False although this call removed it.

        Args:
            version: what `gets` or `set` returned: remove the key only if it still has this one.

        Example:
            >>> cache.delete("nobody")
            False
        """
        return bool(self._run(self._operations.delete(key, version)))

    def touch(self, key: Key, ttl: TTL = None) -> bool:
        """Gives a key a new time to live; returns whether the key was there.

        Args:
            ttl: seconds or a timedelta from now; None: for ever, even if the server has a
                `default_ttl`, which is only for values that are stored.

        Raises:
            InvalidTTL: before anything is sent.

        Example:
            >>> cache.touch("nobody", ttl=5)
            False
        """
        return bool(self._run(self._operations.touch(key, ttl)))

    def ttl(self, key: Key) -> float | None:
        """How long a key has to live.

        Returns:
            Seconds; `math.inf` if it never expires; None on a miss.

        Example:
            >>> cache.set("forever", 1) > 0, cache.ttl("forever")
            (True, inf)
        """
        ttl_ms = self._ttl_ms(key)
        if isinstance(ttl_ms, AskWorker):
            self._follow_table()
            seconds: float | None = self._run(self._operations.ttl(key))
            return seconds
        return from_ttl_ms(ttl_ms)

    def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """Adds to a counter, exactly once.

        Args:
            delta: what to add; a signed 64-bit integer, as the sum must be.
            initial: where a missing counter starts, before the addition; None: do not make one.
            ttl: for a counter that this call makes; an existing one keeps its own.

        Returns:
            The sum, or None if the key is missing and `initial` is None.

        Raises:
            NotACounter: the value is not a signed 64-bit int.
            CounterOverflow: the sum does not fit.
            OutcomeUnknown: the worker died; it was added once or not at all.

        Example:
            >>> cache.delete("hits"), cache.incr("hits"), cache.incr("hits", 5)
            (False, 1, 6)
        """
        total: int | None = self._run(self._operations.incr(key, delta, initial, ttl))
        return total

    def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """Subtracts from a counter, as `incr` adds. It may become negative.

        Example:
            >>> cache.decr("stock", 2, initial=10)
            8
        """
        total: int | None = self._run(self._operations.decr(key, delta, initial, ttl))
        return total

    def set_many(
        self, values: Mapping[AnyKey, Value], ttl: TTL = None, *, tags: Tags | None = None
    ) -> None:
        """Stores many values in few round trips, all with the same tags. Not a transaction. Raises
        as `set`.

        Example:
            >>> cache.set_many({"a": 1, "b": 2}, ttl=60)
        """
        workers = self._workers
        items = check_mapping(values)
        if tags is not None:
            self._set_many_tagged(items, ttl, tags)
            return
        by_worker = self._split(items, workers.count())
        encode, ttl_ms = self._operations.encode, to_ttl_ms(ttl)
        sets = SetMany(by_worker, items, encode, ttl_ms, workers.frame_bytes_max)
        self._run_calls(sets)

    def _set_many_tagged(self, items: Mapping[Key, Value], ttl: TTL, tags: Tags) -> None:
        marks = run_to_end(tagging.marks_of(Driver.of(self), tagging.tag_keys((), tags)))
        make = self._operations.set
        first_error(self._run_batch([make(key, items[key], ttl, marks=marks) for key in items]))

    def delete_many(self, keys: Iterable[Key]) -> int:
        """Removes many keys; returns how many were there.

        Example:
            >>> cache.set_many({"a": 1, "b": 2})
            >>> cache.delete_many(["a", "b", "nobody"])
            2
        """
        by_worker = self._split(check_keys(keys), self._workers.count())
        deletes = DeleteMany(by_worker)
        self._run_calls(deletes)
        return deletes.count

    def pipeline(self) -> Pipeline:
        """Collects operations and sends them together when the `with` block ends.

        Example:
            >>> with cache.pipeline() as p:
            ...     _ = p.set("a", 1).incr("a")
            >>> p.results[1]
            2
        """
        return Pipeline(self)

    def contains(self, key: Key) -> bool:
        """Whether a key is there; the same as `key in cache`. Does not count as a read of it.

        Example:
            >>> cache.contains("nobody"), "nobody" in cache
            (False, False)
        """
        return self.ttl(key) is not None

    def scan(self, prefix: Key = "") -> Iterator[Key]:
        """All keys that begin with a prefix, in no order.

        A key that is there throughout is returned at least once; one that comes or goes meanwhile,
        perhaps. Keys are returned as str or bytes, as they were last stored. Keys in namespaces are
        returned too, in their long form, but not those that were cleared.

        Example:
            >>> cache.set("user:1", 1) > 0, sorted(cache.scan(prefix="user:"))
            (True, ['user:1'])
        """
        cursor = Cursor(prefix)
        while True:
            self._follow_table()
            if not cursor.enter(self._manifest):
                return
            try:
                if self._usable:
                    found = self._scan(cursor.shard, cursor.bucket, cursor.prefix)
                else:
                    found = self._workers.ask(*cursor.call()[:3], self._workers.deadline())
            except (IndexError, InvalidArgument):
                if cursor.is_in_another(self._manifest):
                    continue  # there is no such shard in the table that was found meanwhile
                raise
            keys, next_bucket = found
            cursor.move(next_bucket)
            if are_in_namespaces(keys):
                keys = run_to_end(living(Driver.of(self), keys))
            yield from keys

    def __iter__(self) -> Iterator[Key]:
        """All keys, see `scan`. There is no `len`: `stats` counts the items.

        Example:
            >>> cache.set("user:1", 1) > 0, "user:1" in list(cache)
            (True, True)
        """
        return self.scan()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""The blocking client: every method does its one thing and returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from kvserve.client.blocking.many import ManyKeys
from kvserve.client.blocking.namespaces import Namespaces
from kvserve.client.blocking.whole import WholeCache
from kvserve.client.calls.cursor import Cursor
from kvserve.client.calls.operations import TTL, Key, Tags, from_ttl_ms
from kvserve.client.mapping import MappingMethods
from kvserve.client.pipeline import Pipeline
from kvserve.client.recipes.driver import Driver, run_to_end
from kvserve.client.recipes.generations import are_in_namespaces, living
from kvserve.errors import InvalidArgument
from kvserve.protocol.codec import Value
from kvserve.table._core import AskWorker


class Client(Namespaces, MappingMethods, ManyKeys, WholeCache):
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
            self._operations.check_key(key)
            self._follow_table()
            pair: tuple[Any, int | None] = self._run(self._operations.gets(key, default))
            return pair
        return found

    def set(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> int:
        """Stores a value, whatever was there.

        Args:
            key: str or bytes.
            value: bytes, str, int, None, bool, float, datetime with a time zone, or a list, tuple
                or dict of these, by exact type; or an array, alone; docs/values.md has the table.
                The client's codec, if it has one, carries what else there is.
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
        return self._set_by(self._operations, key, value, ttl, self._marks(tags))

    def add(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> bool:
        """Stores a value if the key is missing; returns whether it did. Raises as `set`.

        Example:
            >>> cache.delete("once"), cache.add("once", 1), cache.add("once", 2)
            (False, True, False)
        """
        operation = self._operations.add(key, value, ttl, marks=self._marks(tags))
        return bool(self._run(operation))

    def replace(
        self,
        key: Key,
        value: Value,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        tags: Tags | None = None,
    ) -> bool:
        """Stores a value if the key is there; returns whether it did. Raises as `set`.

        Args:
            ttl: as for `set`: the time that the old value had left is dropped.
            keep_ttl: the new value lives as long as the old one would have; without a ttl.
            tags: as for `set`: those of the old value are dropped.

        Example:
            >>> cache.replace("nobody", 1)
            False
        """
        marks = self._marks(tags)
        operation = self._operations.replace(key, value, ttl, keep_ttl=keep_ttl, marks=marks)
        return bool(self._run(operation))

    def cas(
        self,
        key: Key,
        value: Value,
        version: int,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        tags: Tags | None = None,
    ) -> bool:
        """Compare and swap: stores a value if the key still has this version. Raises as `set`.

        Args:
            version: what `gets` or `set` returned.
            ttl: as for `set`: the time that the old value had left is dropped.
            keep_ttl: the new value lives as long as the old one would have; without a ttl.
            tags: as for `set`: those of the old value are dropped.

        Returns:
            Whether it was stored.

        Example:
            >>> version = cache.set("draft", "first")
            >>> cache.cas("draft", "second", version), cache.cas("draft", "third", version)
            (True, False)
        """
        marks = self._marks(tags)
        operation = self._operations.cas(key, value, version, ttl, keep_ttl=keep_ttl, marks=marks)
        return bool(self._run(operation))

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
            self._operations.check_key(key)
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

    def scan(self, prefix: Key = "", match: Key | None = None) -> Iterator[Key]:
        """All keys that begin with a prefix, and match a pattern, in no order.

        A key that is there throughout is returned at least once; one that comes or goes meanwhile,
        perhaps. Keys are returned as str or bytes, as they were last stored. Keys in namespaces are
        returned too, in their long form, but not those that were cleared. Of a store behind the
        cache it sees nothing.

        Args:
            match: of a whole key, by Redis's rules: `*` is any bytes, `?` one byte, `[a-z]` one
                of these, `[^a-z]` any but these, `\\*` a star. A letter beyond ASCII has 2 to 4
                bytes. A pattern that begins with a fixed text is as fast as a prefix.

        Example:
            >>> cache.set("user:1", 1) > 0, sorted(cache.scan(prefix="user:"))
            (True, ['user:1'])
            >>> list(cache.scan(match="us*:[0-9]"))
            ['user:1']
        """
        cursor = Cursor(prefix, match)
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
            keys, next_bucket = cursor.keep(found[0]), found[1]
            cursor.move(next_bucket)
            keys = self._operations.rules.found(keys)
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

"""The blocking client: every method does its one thing and returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from kvserve import names as naming
from kvserve.client.brackets import Brackets
from kvserve.client.cursor import Cursor
from kvserve.client.direct import Read, Write, check_write
from kvserve.client.many import DeleteMany, SetMany
from kvserve.client.operations import (
    TTL,
    AnyKey,
    Key,
    check_mapping,
    from_ttl_ms,
    to_ttl_ms,
)
from kvserve.client.pipeline import Pipeline
from kvserve.client.recipes.generations import are_in_namespaces, living
from kvserve.client.recipes.namespaces import Namespaces
from kvserve.client.recipes.ports import Port, finish
from kvserve.client.upkeep import Upkeep
from kvserve.client.watching import Watching
from kvserve.errors import InvalidArgument
from kvserve.limits import TIMEOUT_SECONDS_DEFAULT
from kvserve.protocol import commands
from kvserve.protocol.codec import Value
from kvserve.table._core import Elsewhere, check_keys


def connect(
    name: str | None = None,
    *,
    timeout: float = TIMEOUT_SECONDS_DEFAULT,
    read: Read = "direct",
    write: Write = "worker",
    queue_bytes: int | None = None,
) -> Client:
    """A client of a running server.

    Args:
        name: the instance's name; default: $KVSERVE_NAME, else `default`.
        timeout: seconds within which each request ends, in an answer or an error.
        read: `direct` reads hits from shared memory; `worker` sends every read to a worker.
        write: `worker` sends every change to a worker; `direct` makes it here, in the table, if the
            server was started with `--writers` and is this user's, or this user is root.
        queue_bytes: the longest request that goes through a message queue, longer ones through a
            FIFO; default: as long as a queue takes. 0 sends all through the FIFO.

    Returns:
        A client, for any number of threads, usable after a fork, and as a context manager.

    Raises:
        ServerUnavailable: no server of this name runs.
        WriteRefused, ServerBusy: `write` cannot be `direct`, as the text says.
        ForeignObject: its objects are not what they should be.
        InvalidName, InvalidArgument: an argument is out of its range.

    Example:
        >>> cache = kvserve.connect()
        >>> cache.set("greeting", "hello", ttl=60) > 0
        True
        >>> cache.get("greeting")
        'hello'
    """
    names = naming.instance(name)
    if check_write(write) == "worker":
        return Client(names, timeout=timeout, read=read, queue_bytes=queue_bytes)
    from kvserve.client.writing import DirectClient  # only here: few processes are trusted

    return DirectClient(names, timeout=timeout, read=read, queue_bytes=queue_bytes)


class Client(Namespaces, Brackets, Watching, Upkeep):
    """A blocking client; made by `kvserve.connect`, which describes the arguments.

    All methods that take a key raise InvalidKey if it is no str or bytes of 1 to 1024 bytes. All
    that ask a worker raise ServerError, or one of its kinds, if there is no answer in time; a hit
    asks none. `get(key, default=None)` is inherited.

    Example:
        >>> with kvserve.connect(timeout=0.5) as client:
        ...     client["user:1"] = {"name": "Ada"}
        ...     client.get("user:1")
        {'name': 'Ada'}
    """

    def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]:
        """The value of a key and its version, for `cas`.

        A later version of a key is a larger number, below 2^53, also when the table was replaced
        meanwhile; no other record of the key ever had it.

        Returns:
            (value, version), or (default, None) on a miss.

        Example:
            >>> cache.gets("nobody")
            (None, None)
        """
        found = self._gets_here(key)
        if found is None:
            return default, None
        if isinstance(found, Elsewhere):
            self._follow_table()
            pair: tuple[Any, int | None] = self._run(self._operations.gets(key, default))
            return pair
        return found

    def set(self, key: Key, value: Value, ttl: TTL = None) -> int:
        """Stores a value, whatever was there.

        Args:
            key: str or bytes.
            value: bytes, str, int, None, bool, float, datetime with a time zone, or a list, tuple
                or dict of these, by exact type; docs/values.md has the table.
            ttl: seconds or a timedelta until it expires, a millisecond at least; None: the
                server's `default_ttl`, which is never unless it is configured; `math.inf`: never.

        Returns:
            The value's version, see `cas`.

        Raises:
            InvalidValue, ValueTooLarge, InvalidTTL: before anything is sent. Of a value that
                would not come back exactly, the first says where and what it is.

        Example:
            >>> cache.set("user:1", {"name": "Ada"}, ttl=60) > 0
            True
        """
        version: int = self._ask(commands.SET, self._operations.stored(key, value, ttl))
        return version

    def add(self, key: Key, value: Value, ttl: TTL = None) -> bool:
        """Stores a value if the key is missing; returns whether it did. Raises as `set`.

        Example:
            >>> cache.delete("once"), cache.add("once", 1), cache.add("once", 2)
            (False, True, False)
        """
        return bool(self._run(self._operations.add(key, value, ttl)))

    def replace(self, key: Key, value: Value, ttl: TTL = None) -> bool:
        """Stores a value if the key is there; returns whether it did. Raises as `set`.

        The ttl is as of `set`: what the old value had left is dropped with it.

        Example:
            >>> cache.replace("nobody", 1)
            False
        """
        return bool(self._run(self._operations.replace(key, value, ttl)))

    def cas(self, key: Key, value: Value, version: int, ttl: TTL = None) -> bool:
        """Compare and swap: stores a value if the key still has this version. Raises as `set`.

        Args:
            version: what `gets` or `set` returned.
            ttl: as of `set`: what the old value had left is dropped with it.

        Returns:
            Whether it did.

        Example:
            >>> version = cache.set("draft", "first")
            >>> cache.cas("draft", "second", version), cache.cas("draft", "third", version)
            (True, False)
        """
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
            ttl: seconds or a timedelta from now; None: for ever, also where the server has a
                `default_ttl`, which is only of what is stored.

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
        if isinstance(ttl_ms, Elsewhere):
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
            initial: what a missing counter starts at, before the addition; None: do not make one.
            ttl: of a counter that is made by this call; one that is there keeps its own.

        Returns:
            The sum, or None if the key is missing and `initial` is None.

        Raises:
            NotACounter: the value is not an int of 64 bits with its sign.
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

    def set_many(self, values: Mapping[AnyKey, Value], ttl: TTL = None) -> None:
        """Stores many values in few round trips. Not a transaction. Raises as `set`.

        Example:
            >>> cache.set_many({"a": 1, "b": 2}, ttl=60)
        """
        workers = self._workers
        items = check_mapping(values)
        deadline = workers.deadline()
        by_worker = self._split(items, workers.count(deadline))
        encode, ttl_ms = self._operations.encode, to_ttl_ms(ttl)
        sets = SetMany(by_worker, items, encode, ttl_ms, workers.frame_bytes_max)
        self._run_questions(sets, deadline)

    def delete_many(self, keys: Iterable[Key]) -> int:
        """Removes many keys; returns how many were there.

        Example:
            >>> cache.set_many({"a": 1, "b": 2})
            >>> cache.delete_many(["a", "b", "nobody"])
            2
        """
        deadline = self._workers.deadline()
        by_worker = self._split(check_keys(keys), self._workers.count(deadline))
        deletes = DeleteMany(by_worker)
        self._run_questions(deletes, deadline)
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

        A key that is there throughout is returned at least once; one that comes or goes meanwhile
        perhaps. Keys come as str or bytes, as they were last stored. What is in namespaces comes,
        too, under its long keys, but not what was cleared there.

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
                    found = self._workers.ask(*cursor.question()[:3], self._workers.deadline())
            except (IndexError, InvalidArgument):
                if cursor.is_in_another(self._manifest):
                    continue  # there is no such shard in the table that was found meanwhile
                raise
            keys, next_bucket = found
            cursor.move(next_bucket)
            if are_in_namespaces(keys):
                keys = finish(living(Port.of(self), keys))
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

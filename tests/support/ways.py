"""The ways to reach a cache, each with the names of the blocking client.

One list of behaviours runs over every way, so a way can only differ in how fast it is.
"""

from __future__ import annotations

import asyncio
import math
import random
import secrets
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self
from unittest.mock import patch

import uvloop

import kvserve
from kvserve.limits import LEASE_SLOT_WRITER_FIRST, LIFE_MS_KEPT, VALUE_BYTES_DEFAULT
from kvserve.names import Names
from kvserve.protocol import codec
from kvserve.runtime import prepare_directory
from kvserve.table import lease as leases
from kvserve.table import table as tables
from kvserve.table._core import Reader
from kvserve.table.geometry import Geometry, plan
from kvserve.table.segment import boot_id
from kvserve.table.semaphores import create as create_semaphores
from kvserve.table.semaphores import unlink as unlink_semaphores
from kvserve.table.table import Table
from support.model import Key, Model

CLIENTS = ("direct", "worker-queue", "worker-fifo", "writer")
ASYNC_CLIENTS = ("async", "async-uvloop", "async-writer")
SERVED = (*CLIENTS, *ASYNC_CLIENTS)
ASKING = tuple(way for way in SERVED if "writer" not in way)  # a worker, for each change
NAMESPACES = ("namespace", "async-namespace")
# Made before their server, as far as they know; or to whom its errors are misses.
LENIENT = ("lazy", "lazy-writer", "forgiving", "async-lazy", "async-forgiving")
ALL = ("model", "table", *SERVED, *LENIENT)

OPTIONS: dict[str, dict[str, Any]] = {
    "direct": {},
    "worker-queue": {"read": "worker"},
    "worker-fifo": {"read": "worker", "queue_bytes": 0},
    "writer": {"write": "direct"},
    "async": {},
    "async-uvloop": {},
    "async-writer": {"write": "direct"},
    "namespace": {},
    "async-namespace": {},
    "lazy": {"lazy": True},
    "lazy-writer": {"lazy": True, "write": "direct"},
    "forgiving": {"on_error": "miss"},
    "async-lazy": {"lazy": True},
    "async-forgiving": {"on_error": "miss"},
}
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "async": asyncio.new_event_loop,
    "async-uvloop": uvloop.new_event_loop,
    "async-writer": uvloop.new_event_loop,
    "async-namespace": asyncio.new_event_loop,
    "async-lazy": asyncio.new_event_loop,
    "async-forgiving": uvloop.new_event_loop,
}


class OverTable:
    """The table in this process, with nothing between but the codec."""

    def __init__(self, table: Table, shards: int) -> None:
        self._table = table
        self._shards = shards

    def get(self, key: Key, default: Any = None) -> Any:
        """The value, or the default."""
        return self.gets(key, default)[0]

    def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]:
        """The value and its version, or the default and None."""
        found = self._table.read(key)
        return (codec.decode(found[0], found[1]), found[2]) if found else (default, None)

    def set(self, key: Key, value: Any, ttl: float | None = None) -> int:
        """Stores; returns the new version."""
        return self._table.set(key, *codec.encode(value), whole_ms(ttl))

    def add(self, key: Key, value: Any, ttl: float | None = None) -> bool:
        """Stores only what is not there."""
        return bool(self._table.add(key, *codec.encode(value), whole_ms(ttl)))

    def replace(
        self, key: Key, value: Any, ttl: float | None = None, *, keep_ttl: bool = False
    ) -> bool:
        """Stores only over what is there."""
        life_ms = LIFE_MS_KEPT if keep_ttl else whole_ms(ttl)
        return bool(self._table.replace(key, *codec.encode(value), life_ms))

    def cas(
        self,
        key: Key,
        value: Any,
        version: int,
        ttl: float | None = None,
        *,
        keep_ttl: bool = False,
    ) -> bool:
        """Stores only over this version."""
        life_ms = LIFE_MS_KEPT if keep_ttl else whole_ms(ttl)
        return bool(self._table.cas(key, *codec.encode(value), life_ms, version))

    def delete(self, key: Key, version: int | None = None) -> bool:
        """Removes, if it has this version; says whether it did."""
        if version is not None:
            return self._table.delete_version(key, version)
        return self._table.delete(key)

    def touch(self, key: Key, ttl: float | None) -> bool:
        """Gives what is there a new time to live."""
        return self._table.touch(key, whole_ms(ttl))

    def ttl(self, key: Key) -> float | None:
        """Seconds left."""
        left = self._table.ttl_ms(key)
        return math.inf if left == 0 else left and left / 1000

    def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: float | None = None
    ) -> int | None:
        """Adds to a counter."""
        return self._table.incr(key, delta, initial, whole_ms(ttl))

    def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: float | None = None
    ) -> int | None:
        """Subtracts from a counter."""
        return self.incr(key, -delta, initial, ttl)

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Those that are there."""
        found = {key: self._table.read(key) for key in keys}
        return {key: codec.decode(at[0], at[1]) for key, at in found.items() if at}

    def set_many(self, mapping: Mapping[Key, Any], ttl: float | None = None) -> None:
        """Stores all."""
        for key, value in mapping.items():
            self.set(key, value, ttl)

    def delete_many(self, keys: Iterable[Key]) -> int:
        """Removes all."""
        return sum([self.delete(key) for key in keys])

    def scan(self, prefix: Key = "") -> Iterator[Key]:
        """The keys that begin with the prefix."""
        start = prefix.encode() if isinstance(prefix, str) else prefix
        for shard in range(self._shards):
            bucket: int | None = 0
            while bucket is not None:
                keys, bucket = self._table.scan(shard, bucket, start)
                yield from keys

    def flush(self) -> None:
        """Removes everything."""
        for shard in range(self._shards):
            self._table.flush(shard)

    def close(self) -> None:
        """Lets go of the segments."""
        self._table.close()

    def __contains__(self, key: Key) -> bool:
        return self._table.read(key) is not None


class OverAsync:
    """The asynchronous client, or a namespace of it, driven step by step in a loop of its own."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        """Runs one step to its end."""
        return self._loop.run_until_complete(step)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Every method of the same name, as a call that waits."""
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self.run(method(*args, **kwargs))

    def scan(self, prefix: Key = "", match: Key | None = None) -> Iterator[Key]:
        """The keys that begin with the prefix and match the pattern."""

        async def collect() -> list[Key]:
            return [key async for key in self._client.scan(prefix, match)]

        return iter(self.run(collect()))

    def namespace(self, name: str) -> OverAsync:
        """A namespace of the client."""
        return OverAsync(self._client.namespace(name), self._loop)

    def pipeline(self) -> StepByStep:
        """A pipeline for a plain `with`."""
        return StepByStep(self, self._client.pipeline())

    def __contains__(self, key: Key) -> bool:
        missing = object()
        return self.get(key, missing) is not missing

    def close_client(self) -> None:
        """Closes the client alone, so that its refusals can be seen."""
        self.run(self._client.close())

    def close(self) -> None:
        """Closes the client, then its loop."""
        try:
            self.close_client()
        finally:
            self._loop.close()


class InNamespace:
    """A namespace within a namespace, as if it were a cache of its own."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._namespace = cache.namespace("outer").namespace("in:ner")

    def __getattr__(self, name: str) -> Any:
        """The namespace's own."""
        return getattr(self._namespace, name)

    def flush(self) -> None:
        """What empties a cache clears a namespace."""
        self._namespace.clear()

    def verify(self) -> list[str]:
        """The whole table."""
        violations: list[str] = self._cache.verify()
        return violations

    def close(self) -> None:
        """Closes the client."""
        self._cache.close()

    def __contains__(self, key: Key) -> bool:
        return key in self._namespace

    def __getitem__(self, key: Key) -> Any:
        return self._namespace[key]

    def __setitem__(self, key: Key, value: Any) -> None:
        self._namespace[key] = value

    def __delitem__(self, key: Key) -> None:
        del self._namespace[key]


class StepByStep:
    """An asynchronous pipeline in a plain `with` block."""

    def __init__(self, over: OverAsync, pipeline: Any) -> None:
        self._over = over
        self._pipeline = pipeline

    def __getattr__(self, name: str) -> Any:
        """The pipeline's own; adding to one waits for nothing."""
        return getattr(self._pipeline, name)

    def __enter__(self) -> Self:
        self._over.run(self._pipeline.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._over.run(self._pipeline.__aexit__(*error))


def connect(way: str, name: str, **more: Any) -> Any:
    """A client of a served instance, by this way, perhaps with more options."""
    options = {"timeout": 20.0} | OPTIONS[way] | more
    cache: Any
    if way in LOOPS:
        loop = LOOPS[way]()
        client = loop.run_until_complete(kvserve.connect_async(name, **options))
        cache = OverAsync(client, loop)
    else:
        cache = kvserve.connect(name, **options)
    return InNamespace(cache) if way in NAMESPACES else cache


@contextmanager
def own_table(names: Names, geometry: Geometry, seed: int | None = None) -> Iterator[Table]:
    """A table without a server, removed afterwards.

    Args:
        names: whose.
        geometry: its sizes.
        seed: of the key that decides where a key lies, so that a test can be replayed.
    """
    prepare_directory(names, None)
    create_semaphores(names, geometry.shards, 0o600, None)
    try:
        randomness = secrets.token_bytes if seed is None else random.Random(seed).randbytes
        with patch("secrets.token_bytes", randomness):
            tables.create(names, geometry, 0o600, None)
        table = Table(names, leases.Lease.join(names.lease_file, LEASE_SLOT_WRITER_FIRST))
        try:
            yield table
        finally:
            table.close()
    finally:
        tables.remove(names)
        unlink_semaphores(names, geometry.shards)


@contextmanager
def reading(table: Table) -> Iterator[Reader]:
    """A reader of a table, such as clients are."""
    reader = Reader()
    reader._attach(*table._maps, boot_id())
    try:
        yield reader
    finally:
        reader._detach()


@contextmanager
def open_table(names: Names) -> Iterator[OverTable]:
    """A roomy table without a server, under the client's names."""
    geometry = plan(
        memory=48 * 2**20, item_size=128, max_value=VALUE_BYTES_DEFAULT, shards=2, workers=1
    )
    with own_table(names, geometry) as table:
        yield OverTable(table, geometry.shards)


def open_model() -> Model:
    """The model, on the real clock."""
    return Model()


def whole_ms(ttl: float | None) -> int:
    """A time to live as the table takes it."""
    return 0 if ttl in (None, math.inf) else math.ceil(ttl * 1000)

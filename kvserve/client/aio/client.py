"""The asyncio client: the methods of `blocking.Client` as coroutines. A hit awaits nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Self

from kvserve import names as naming
from kvserve.client.absent.lost import Lost
from kvserve.client.aio.locks import driver_of
from kvserve.client.aio.many import AsyncManyKeys
from kvserve.client.aio.namespaces import AsyncNamespaces
from kvserve.client.aio.workers import AsyncWorkerPool
from kvserve.client.calls.batches import Batch
from kvserve.client.calls.call import (
    Call,
    Looks,
    instead_of_misrouted,
    raise_combined,
)
from kvserve.client.calls.cursor import Cursor
from kvserve.client.calls.many import GetMany, Many
from kvserve.client.calls.operations import (
    TTL,
    Bound,
    Key,
    Operation,
    Operations,
    Tags,
    from_ttl_ms,
)
from kvserve.client.feed import open_watcher, patience_of
from kvserve.client.follower import Ending, TableFollower
from kvserve.client.options import Options
from kvserve.client.pipeline import AsyncPipeline
from kvserve.client.recipes.generations import are_in_namespaces, living
from kvserve.client.values import Values
from kvserve.errors import InvalidArgument, KvserveError, ServerError, WrongWorker
from kvserve.live.feed import Event, Pace, Since, Watcher
from kvserve.protocol import commands
from kvserve.protocol.codec import Value
from kvserve.stats.collect import collect
from kvserve.table._core import AskWorker


class AsyncClient(AsyncNamespaces, AsyncManyKeys):
    """An asyncio client; made by `kvserve.connect_async`.

    Each method does what the method of `kvserve.Client` of the same name does, and raises the same
    errors. Any number of tasks may use it at once; cancelling one disturbs no other.

    Example:
        >>> async def count():
        ...     async with await kvserve.connect_async() as cache:
        ...         await cache.delete("visits")
        ...         return await cache.incr("visits")
        >>> asyncio.run(count())
        1
    """

    def __init__(self, names: naming.Names, options: Options) -> None:
        self._names = names
        values = options.values()
        self._reader = self._made_reader(names, options, values)
        bound = Bound(self._reader._manifest.value_bytes_max)
        self._operations = Operations(bound, values, options.rules)
        self._reader._fit_keys_by(options.rules)
        self._workers = AsyncWorkerPool(
            names,
            self._reader._manifest,
            options,
            self._on_manifest,
            self._reader._died_over,
        )

    def _made_reader(self, names: naming.Names, options: Options, values: Values) -> TableFollower:
        return TableFollower(names, options.read, values, is_lazy=options.is_lazy)

    async def _follow_table(self) -> None:
        """Attaches the table that is served now, where the reader could not read."""
        self._reader._follow_table()

    @property
    def _strict(self) -> Self:
        return self

    def _missed(self, error: ServerError, keys: list[Key] | None = None) -> None:
        """See `blocking.dispatch.Dispatcher._missed`."""
        del keys
        raise error

    @property
    def lost(self) -> Lost:
        """See `Client.lost`."""
        return Lost()

    @property
    def _timeout_seconds(self) -> float:
        return self._workers.timeout

    def _ttl_ms(self, key: Key) -> int | AskWorker | None:
        return self._reader._ttl_ms(key)

    def _on_manifest(self, manifest: Any) -> None:
        self._operations.value_bytes_max = manifest.value_bytes_max
        self._reader._on_manifest(manifest)

    async def _run(self, operation: Operation) -> Any:
        deadline = self._workers.deadline()
        looks = Looks()
        while True:
            call = operation.call(self._reader._shard_of)
            try:
                return operation.interpret(await self._workers.ask(call, deadline))
            except WrongWorker:
                if not looks.may_look(time.monotonic(), deadline):
                    raise
                await self._workers.look_again()

    async def _run_batch(self, operations: list[Operation]) -> list[Any]:
        workers = self._workers
        count = await workers.count()
        batch = Batch(operations, self._reader._shard_of, count, workers.frame_bytes_max)
        await self._run_calls(batch)
        return batch.results

    async def _run_calls(self, call: Batch | Many) -> None:
        """See `blocking.dispatch.Dispatcher._run_calls`."""
        deadline = self._workers.deadline()
        looks = Looks()
        while calls := call.calls():
            outcomes = await self._workers.ask_each(calls, deadline)
            if call.take(outcomes):
                if not looks.may_look(time.monotonic(), deadline):
                    raise_combined(calls, outcomes, begun=call.begun)
                try:
                    await self._workers.look_again()
                except KvserveError as error:  # it may promise more than is true of all calls
                    raise_combined(calls, instead_of_misrouted(outcomes, error), begun=call.begun)
                call.split(self._reader._shard_of, self._workers.manifest.workers)
            else:
                deadline = self._workers.deadline()

    async def get(self, key: Key, default: Any = None) -> Any:
        """See `Client.get`."""
        value = self._reader.get(key, default)
        if isinstance(value, AskWorker):
            self._operations.check_key(key)
            await self._follow_table()
            return await self._run(self._operations.get(key, default))
        return value

    def get_here(self, key: Key, default: Any = None) -> Any:
        """See `Client.get_here`. It is no coroutine: there is nothing to await."""
        return self._reader.get_here(key, default)

    def _record_here(self, key: Key) -> tuple[Any, int, int] | AskWorker | None:
        return self._reader._record_here(key)

    async def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]:
        """See `Client.gets`."""
        found = self._reader._gets_here(key)
        if found is None:
            return default, None
        if isinstance(found, AskWorker):
            self._operations.check_key(key)
            await self._follow_table()
            pair: tuple[Any, int | None] = await self._run(self._operations.gets(key, default))
            return pair
        return found

    async def set(
        self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None
    ) -> int:
        """See `Client.set`."""
        marks = await self._marks(tags)
        return await self._set_by(self._operations, key, value, ttl, marks)

    async def add(
        self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None
    ) -> bool:
        """See `Client.add`."""
        operation = self._operations.add(key, value, ttl, marks=await self._marks(tags))
        return bool(await self._run(operation))

    async def replace(
        self,
        key: Key,
        value: Value,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        tags: Tags | None = None,
    ) -> bool:
        """See `Client.replace`. Without a ttl or `keep_ttl`, that of the old value is
        dropped; its tags are in any case."""
        marks = await self._marks(tags)
        operation = self._operations.replace(key, value, ttl, keep_ttl=keep_ttl, marks=marks)
        return bool(await self._run(operation))

    async def cas(
        self,
        key: Key,
        value: Value,
        version: int,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        tags: Tags | None = None,
    ) -> bool:
        """See `Client.cas`. Without a ttl or `keep_ttl`, that of the old value is
        dropped; its tags are in any case."""
        marks = await self._marks(tags)
        operation = self._operations.cas(key, value, version, ttl, keep_ttl=keep_ttl, marks=marks)
        return bool(await self._run(operation))

    async def delete(self, key: Key, version: int | None = None) -> bool:
        """See `Client.delete`."""
        return bool(await self._run(self._operations.delete(key, version)))

    async def touch(self, key: Key, ttl: TTL = None) -> bool:
        """See `Client.touch`. Without a ttl the key never expires any more."""
        return bool(await self._run(self._operations.touch(key, ttl)))

    async def ttl(self, key: Key) -> float | None:
        """See `Client.ttl`."""
        ttl_ms = self._reader._ttl_ms(key)
        if isinstance(ttl_ms, AskWorker):
            self._operations.check_key(key)
            await self._follow_table()
            seconds: float | None = await self._run(self._operations.ttl(key))
            return seconds
        return from_ttl_ms(ttl_ms)

    async def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """See `Client.incr`."""
        total: int | None = await self._run(self._operations.incr(key, delta, initial, ttl))
        return total

    async def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """See `Client.decr`."""
        total: int | None = await self._run(self._operations.decr(key, delta, initial, ttl))
        return total

    async def _get_many_from_worker(self, found: dict[Key, Any], rest: list[Key]) -> dict[Key, Any]:
        await self._follow_table()
        names = {self._operations.key(key): key for key in rest}
        by_worker = self._reader._split(names, await self._workers.count())
        gets = GetMany(by_worker, self._operations.values.decode)
        await self._run_calls(gets)
        return found | {names[key]: value for key, value in gets.found.items()}

    def pipeline(self) -> AsyncPipeline:
        """See `Client.pipeline`; collect as there, `async with`, or `await p.execute()`."""
        return AsyncPipeline(self)

    async def contains(self, key: Key) -> bool:
        """Whether a key is there: what `key in cache` is for the blocking client."""
        return await self.ttl(key) is not None

    async def scan(self, prefix: Key = "", match: Key | None = None) -> AsyncIterator[Key]:
        """See `Client.scan`; for `async for`."""
        cursor = Cursor(prefix, match)
        while True:
            await self._follow_table()
            if not cursor.enter(self._reader._manifest):
                return
            try:
                if self._reader._usable:
                    found = self._reader._scan(cursor.shard, cursor.bucket, cursor.prefix)
                else:
                    found = await self._workers.ask(cursor.call(), self._workers.deadline())
            except (IndexError, InvalidArgument):
                if cursor.is_in_another(self._reader._manifest):
                    continue  # there is no such shard in the table that was found meanwhile
                raise
            keys, next_bucket = cursor.keep(found[0]), found[1]
            cursor.move(next_bucket)
            keys = self._operations.rules.found(keys)
            if are_in_namespaces(keys):
                keys = await living(driver_of(self), keys)
            for key in keys:
                yield key

    def __aiter__(self) -> AsyncIterator[Key]:
        """All keys, see `scan`."""
        return self.scan()

    def watch(
        self, prefix: Key = "", since: Since = "now", timeout: float | None = None
    ) -> AsyncIterator[Event]:
        """See `Client.watch`; to be used with `async for`.

        Example:
            >>> async def first():
            ...     async with await kvserve.connect_async() as cache:
            ...         events = cache.watch("user:", timeout=2)
            ...         await cache.set("user:1", "Ada")
            ...         async for event in events:
            ...             return event.kind, event.key
            >>> asyncio.run(first())
            ('set', 'user:1')
        """
        self._reader._follow_table()
        watcher = open_watcher(self._names, prefix, since)
        return _watch_async(watcher, patience_of(timeout), self._reader._ending)

    async def flush(self) -> None:
        """See `Client.flush`."""
        await self._ask_all_workers(commands.FLUSH)

    async def ping(self) -> float:
        """See `Client.ping`."""
        started = time.perf_counter()
        await self._ask_all_workers(commands.PING)
        return time.perf_counter() - started

    async def stats(self) -> dict[str, Any]:
        """See `Client.stats`."""
        workers = await self._ask_all_workers(commands.STATS)
        return collect(self._names, self._workers.manifest, self._reader, workers)

    async def verify(self) -> list[str]:
        """See `Client.verify`."""
        await self._follow_table()
        violations: list[str] = []
        for shard in range(self._workers.manifest.shards):
            call = Call(commands.VERIFY, (shard,), shard, idempotent=True)
            violations += await self._workers.ask(call, self._workers.deadline())
        return violations

    async def _ask_all_workers(self, command: commands.Command) -> list[Any]:
        await self._follow_table()
        deadline = self._workers.deadline()
        while True:
            workers = self._workers.manifest.workers
            calls = [Call(command, (), n, idempotent=True) for n in range(workers)]
            answers = await self._workers.ask_each(calls, deadline)
            raise_combined(calls, answers)
            if self._workers.manifest.workers == workers:
                return answers

    async def close(self) -> None:
        """See `Client.close`."""
        self._close()

    def _close(self) -> None:
        self._workers.close()
        self._reader.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()


async def _watch_async(watcher: Watcher, patience: float, ending: Ending) -> AsyncIterator[Event]:
    pace = Pace()
    last = time.monotonic()
    try:
        while time.monotonic() - last < patience:
            events = watcher.read()
            for event in events:
                if ending.has_come:
                    return
                yield event
            if ending.has_come:
                return
            if events:
                last = time.monotonic()
            await asyncio.sleep(pace.after(len(events)))
    finally:
        watcher.close()

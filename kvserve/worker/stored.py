"""Requests where there is a store behind the table: misses are loaded, writes written through.

A key's requests run one after the other, so that a get after an acknowledged set sees it. The
order of a write is: out of the table, into the store, into the table, acknowledged. While it is on
its way nobody finds the key in the table, so whoever asks for it comes here and waits for the
outcome; and a worker that is killed at any moment leaves nothing in the table that the store does
not have. With write-behind it is into the table and acknowledged, and the store gets it later.

Where the store is shared with other hosts, it decides what depends on what is there (`add`, `cas`,
`incr`, ...); else this is the only one who writes a key, and decides itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from kvserve import limits
from kvserve.errors import ValueTooLarge
from kvserve.protocol import commands
from kvserve.protocol.messages import STATUS_DONE, Reply, Request
from kvserve.store.absences import Absences
from kvserve.store.base import Key, Record, SharedStore
from kvserve.store.behind import WriteBehind
from kvserve.store.guard import GuardedStore
from kvserve.table.table import Table
from kvserve.worker import many
from kvserve.worker.at_once import AtOnce
from kvserve.worker.changes import OwnChanges, SharedChanges
from kvserve.worker.coherence import Call, Coherence
from kvserve.worker.executor import Executor, answer_bytes, refusal
from kvserve.worker.held import Held, alive, content_version, expiry_of, name_of, ttl_ms_of
from kvserve.worker.key_queues import KeyQueues

Answer = TypeVar("Answer")
_READS_A_WINDOW = 128
_WRITES_A_WINDOW = 1024


class StoredExecutor:
    """Executes requests, each when its key's turn comes.

    Args:
        table: this process's.
        executor: what needs no store goes there.
        store: the database.
        behind: where writes wait; None: they go through.
        absences: what the store is known not to have.
        coherence: whether the table may be believed.
        loop: the worker's.
        value_bytes_max: the largest value that fits in a frame.
    """

    def __init__(
        self,
        table: Table,
        executor: Executor,
        store: GuardedStore,
        behind: WriteBehind | None,
        absences: Absences,
        coherence: Coherence,
        loop: asyncio.AbstractEventLoop,
        value_bytes_max: int,
    ) -> None:
        self._table = table
        self._executor = executor
        self._store = store
        self._behind = behind
        self._absences = absences
        self._coherence = coherence
        self._loop = loop
        self._value_bytes_max = value_bytes_max
        self._queues = KeyQueues(loop)
        coherence.detach = self._queues.detach
        self._batches: set[asyncio.Task[None]] = set()
        self._at_once = (
            AtOnce(self, store, self._queues, coherence, loop) if behind is None else None
        )
        changes = (SharedChanges if store.is_shared else OwnChanges)(self)
        self._changes: dict[int, Callable[..., Coroutine[Any, Any, Any]]] = {
            commands.SET.code: self.set,
            commands.DELETE.code: self.delete,
            commands.ADD.code: changes.add,
            commands.REPLACE.code: changes.replace,
            commands.CAS.code: changes.cas,
            commands.DELETE_VERSION.code: changes.delete_version,
            commands.TOUCH.code: changes.touch,
            commands.INCR.code: changes.incr,
        }

    @property
    def is_idle(self) -> bool:
        """Whether no request waits for the store."""
        return not self._queues and not self._batches

    def submit(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """Executes a request, now or later; `reply` is called with its outcome."""
        code = request.command.code
        if code == commands.BATCH.code or code in commands.SINGLE_OF:
            batch = self._loop.create_task(self._batch(request, reply))
            self._batches.add(batch)
            batch.add_done_callback(self._batches.discard)
            return
        outcome = self._start(code, request.arguments, alone=True)
        if isinstance(outcome, asyncio.Future):
            outcome.add_done_callback(
                lambda done: reply(Reply(request.request_id, *result_of(code, done)))
            )
        else:
            reply(Reply(request.request_id, *outcome))

    def _start(
        self, code: int, arguments: Any, *, alone: bool = False
    ) -> tuple[int, Any] | asyncio.Future[Any]:
        """The outcome of an operation if it needs no store, else what will be its answer.

        Args:
            code, arguments: of the operation.
            alone: others do not come with it, so that it need not wait to be sent with them.
        """
        try:
            if code in (commands.GET.code, commands.TTL.code):
                return self._start_read(code, arguments, alone)
            if change := self._changes.get(code):
                self._table.shard_of(arguments[0])  # raises InvalidKey
                name = name_of(arguments[0])
                if alone and code == commands.SET.code and self._at_once is not None:
                    result = self._at_once.set(*arguments)
                    if result is not None:
                        return result
                return self._queues.submit(name, lambda: change(*arguments))
        except Exception as error:  # said in the reply, as the executor does
            return refusal(code, error)
        return self._executor.run(code, arguments)

    def _start_read(
        self, code: int, arguments: Any, alone: bool
    ) -> tuple[int, Any] | asyncio.Future[Any]:
        key = arguments[0]
        self._table.shard_of(key)  # raises InvalidKey
        name = name_of(key)
        is_busy = self._queues.is_busy(name)
        if is_busy:
            if self._queues.is_read_for(name, self._coherence.share_seconds):
                self._coherence.outdate(name)  # its answer may be older than the bound
        elif self._coherence.may_serve:
            status, answer = self._executor.run(code, arguments)
            if status or answer is not None or name in self._absences:
                return status, answer
        if code == commands.TTL.code:
            return self._queues.submit(name, lambda: self._ttl(key))
        if alone and not is_busy and self._at_once is not None:
            result = self._at_once.read(key, name)
            if result is not None:
                return result
        return self._queues.read(name, lambda: self.held(key))

    async def _batch(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """As the executor's, but that neighbours of one kind wait for the store together."""
        code, arguments = request.command.code, request.arguments
        if code == commands.BATCH.code:
            answer = STATUS_DONE, await self._outcomes(arguments[0])
        else:
            outcomes = await self._outcomes(many.as_operations(code, arguments))
            answer = many.as_answer(code, outcomes)
        reply(Reply(request.request_id, *answer))

    async def _outcomes(self, operations: list[list[Any]]) -> list[tuple[int, Any]]:
        outcomes: list[tuple[int, Any]] = []
        size_bytes = 0
        while len(outcomes) < len(operations) and size_bytes < limits.BATCH_REPLY_BYTES:
            window = self._window(operations, len(outcomes))
            started = [(code, self._start(code, rest)) for code, *rest in window]
            waiting = [each for _, each in started if isinstance(each, asyncio.Future)]
            if waiting:
                await asyncio.wait(waiting)
            for code, each in started:
                outcome = result_of(code, each) if isinstance(each, asyncio.Future) else each
                outcomes.append(outcome)
                size_bytes += answer_bytes(code, outcome)
                if code == commands.GET.code and size_bytes >= limits.BATCH_REPLY_BYTES:
                    break  # the client asks for the rest again, and only gets were left out
        return outcomes

    @staticmethod
    def _window(operations: list[list[Any]], first: int) -> list[list[Any]]:
        """The next operations that can wait for the store together: all gets, or all others."""
        are_gets = operations[first][0] == commands.GET.code
        last = first + (_READS_A_WINDOW if are_gets else _WRITES_A_WINDOW)
        window = []
        for operation in operations[first:last]:
            if (operation[0] == commands.GET.code) != are_gets:
                break
            window.append(operation)
        return window

    # What the changes below are made of.

    async def held(self, key: Key) -> Held | None:
        """What the key holds; from the store if the table does not have it."""
        found = self._table.read(key) if self._coherence.may_serve else None
        if found is not None:
            return Held(*found)
        call = self._coherence.begin(name_of(key))
        try:
            record = await self._load(key, call)
            return None if record is None else self.fill(record, call)
        finally:
            self._coherence.end(call)

    async def load(self, key: Key) -> Record | None:
        """What the store has, or will have once what waits is written."""
        call = self._coherence.begin(name_of(key))
        try:
            return await self._load(key, call)
        finally:
            self._coherence.end(call)

    async def _load(self, key: Key, call: Call) -> Record | None:
        name = call.name
        if self._behind is not None:
            waits, record = self._behind.find(name)
            if waits:
                return alive(record)
        # An absence is believed for no longer than a value is.
        if self._coherence.may_serve and name in self._absences:
            return None
        return self.loaded(await self._store.load(key), call)

    def loaded(self, found: Record | None, call: Call) -> Record | None:
        """What a load has brought, unless it has expired; notes if there is nothing."""
        record = alive(found)
        if record is None:
            if self._coherence.may_fill(call):
                self._absences.note(call.name)
        elif len(record.payload) > self._value_bytes_max:
            raise ValueTooLarge(
                f"the store holds {len(record.payload)} bytes; "
                f"at most {self._value_bytes_max} are allowed here"
            )
        return record

    async def _ttl(self, key: Key) -> int | None:
        if self._coherence.may_serve and (ttl_ms := self._table.ttl_ms(key)) is not None:
            return ttl_ms
        call = self._coherence.begin(name_of(key))
        try:
            record = await self._load(key, call)
            if record is None:
                return None
            self.fill(record, call)
            return ttl_ms_of(record)
        finally:
            self._coherence.end(call)

    async def expiry(self, key: Key) -> int:
        """When a key that is there expires: Unix time in milliseconds, 0: never."""
        ttl_ms = self._table.ttl_ms(key) if self._coherence.may_serve else None
        if ttl_ms is not None:
            return expiry_of(ttl_ms)
        record = await self.load(key)
        return record.expires_at_ms if record else 0

    def fill(self, record: Record, call: Call) -> Held:
        """Puts what the store has into the table, unless it may have changed since the call."""
        key, number, payload = record.key, record.codec, record.payload
        if self._coherence.may_fill(call):
            version = self._table.set(key, number, payload, ttl_ms_of(record))
        else:
            version = content_version(number, payload)
        return Held(number, payload, version)

    def record(self, key: Key, number: int, payload: bytes, ttl_ms: int) -> Record:
        """What a request asks to store.

        Raises:
            InvalidValue, ValueTooLarge, InvalidTTL.
        """
        self._executor.check_value(number, payload)
        return Record(key, number, payload, self.expiry_of(ttl_ms))

    def forget_absence(self, name: bytes) -> None:
        """A key may be there from now on."""
        self._absences.forget(name)

    def expiry_of(self, ttl_ms: int) -> int:
        """When what is written now expires: Unix time in milliseconds, 0: never."""
        return expiry_of(self._executor.life_ms(ttl_ms))

    async def write(self, record: Record) -> int:
        """Writes a record through or behind; returns its version."""
        name = name_of(record.key)
        self._absences.forget(name)
        if self._behind is None:
            # Before the table is touched: hits go on while nothing else does.
            self._store.check(record.key)
        call = self._coherence.begin(name)
        try:
            if self._behind is not None:
                await self._behind.put(name, record.key, record)
            else:
                if not self._store.is_shared:
                    self._table.withdraw(record.key)
                await self._store.save(record)
                self._absences.forget(name)
            return self.fill(record, call).version
        finally:
            self._coherence.end(call)

    async def change(
        self,
        name: bytes,
        change: Callable[[SharedStore], Awaitable[Answer]],
        kept: Callable[[Answer], Record | None] = lambda _: None,
    ) -> tuple[Answer, int]:
        """Makes a change that the shared store decides, after what waits for this key.

        Args:
            name: of the key.
            change: of the store.
            kept: what the key holds then, of the change's answer, if that is known.

        Returns:
            The answer, and the version of what is kept; 0: nothing is.
        """
        if self._behind is not None and self._behind.find(name)[0]:
            await self._behind.flush()
        self._absences.forget(name)
        call = self._coherence.begin(name)
        try:
            answer = await self._store.change(name, change)
            record = kept(answer)
            return answer, 0 if record is None else self.fill(record, call).version
        finally:
            self._coherence.end(call)

    # Operations that are the same whoever decides.

    async def set(self, key: Key, number: int, payload: bytes, ttl_ms: int) -> int:
        return await self.write(self.record(key, number, payload, ttl_ms))

    async def delete(self, key: Key) -> bool:
        name = name_of(key)
        if self._behind is not None:
            there = await self.held(key) is not None
            await self._behind.put(name, key, None)
            self._table.delete(key)
            return there
        self._store.check(key)  # as in write
        was_here = self._table.delete(key)
        return await self._store.delete(key) or was_here


def result_of(code: int, done: asyncio.Future[Any]) -> tuple[int, Any]:
    """The status and the answer of a job that has ended."""
    error = done.exception()
    if error is None:
        return STATUS_DONE, done.result()
    assert isinstance(error, Exception)
    return refusal(code, error)

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
import time
from collections.abc import Callable, Coroutine
from typing import Any

from kvserve import limits
from kvserve.errors import RequestTimeout, ValueTooLarge, WrongWorker
from kvserve.protocol import commands
from kvserve.protocol.messages import STATUS_DONE, Reply, Request
from kvserve.store.absences import Absences
from kvserve.store.base import Key, Record
from kvserve.store.behind import WriteBehind
from kvserve.store.guard import GuardedStore
from kvserve.table.table import Table
from kvserve.worker import many
from kvserve.worker.budget import Allowance
from kvserve.worker.changes import OwnChanges, SharedChanges
from kvserve.worker.coherence import Coherence
from kvserve.worker.executor import Executor, answer_bytes, refusal
from kvserve.worker.held import Held, alive, content_version, expiry_of, name_of, ttl_ms_of
from kvserve.worker.key_queues import KeyQueues

_READS_A_WINDOW = 128
_WRITES_A_WINDOW = 1024
_WINDOW_MIN = 8  # however little memory is left: the batch was admitted
_STARTS_A_TURN = 128  # each takes some 30 us
_NOT_IN_PARTS = (commands.SET_MANY.code, commands.DELETE_MANY.code)


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
        self._queues = KeyQueues(loop, coherence.end)
        self._batches: set[asyncio.Task[None]] = set()
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

    def submit(
        self, request: Request, reply: Callable[[Reply], None], allowance: Allowance
    ) -> None:
        """Executes a request, now or later; `reply` is called with its outcome.

        Args:
            request: any but a flush.
            reply: see above.
            allowance: where what a batch reads is counted.
        """
        code = request.command.code
        if code == commands.BATCH.code or code in commands.SINGLE_OF:
            try:  # all of it, before anything is done
                self._table.check_own(many.keys_of(code, request.arguments))
            except WrongWorker as error:
                reply(Reply.failure(request.request_id, error))
                return
            batch = self._loop.create_task(self._batch(request, reply, allowance))
            self._batches.add(batch)
            batch.add_done_callback(self._batches.discard)
            return
        outcome = self._start(code, request.arguments)
        if isinstance(outcome, asyncio.Future):
            outcome.add_done_callback(
                lambda done: reply(Reply(request.request_id, *result_of(code, done)))
            )
        else:
            reply(Reply(request.request_id, *outcome))

    def _start(self, code: int, arguments: Any) -> tuple[int, Any] | asyncio.Future[Any]:
        """The outcome of an operation if it needs no store, else what will be its answer."""
        try:
            if code in (commands.GET.code, commands.TTL.code):
                return self._start_read(code, arguments)
            if change := self._changes.get(code):
                self._table.shard_of(arguments[0])  # raises InvalidKey
                self._table.check_own((arguments[0],))
                name = name_of(arguments[0])
                return self._queues.submit(name, lambda: change(*arguments))
        except Exception as error:  # said in the reply, as the executor does
            return refusal(code, error)
        return self._executor.run(code, arguments)

    def _start_read(self, code: int, arguments: Any) -> tuple[int, Any] | asyncio.Future[Any]:
        key = arguments[0]
        self._table.shard_of(key)  # raises InvalidKey
        self._table.check_own((key,))
        name = name_of(key)
        if not self._queues.is_busy(name) and self._coherence.may_serve:
            status, answer = self._executor.run(code, arguments)
            if status or answer is not None or name in self._absences:
                return status, answer
        if code == commands.TTL.code:
            return self._queues.submit(name, lambda: self._ttl(key))
        return self._queues.read(name, lambda: self.held(key))

    async def _batch(
        self, request: Request, reply: Callable[[Reply], None], allowance: Allowance
    ) -> None:
        """As the executor's, but that neighbours of one kind wait for the store together."""
        code, arguments = request.command.code, request.arguments
        if code == commands.BATCH.code:
            operations = arguments[0]
            outcomes = await self._outcomes(operations, request.deadline_ms, allowance)
            answer: tuple[int, Any] = STATUS_DONE, outcomes
        else:
            operations = many.as_operations(code, arguments)
            outcomes = await self._outcomes(operations, request.deadline_ms, allowance)
            answer = many.as_answer(code, outcomes)
        if (operations and not outcomes) or (
            code in _NOT_IN_PARTS and len(outcomes) < len(operations)
        ):
            answer = RequestTimeout.wire_code, "not everything was done before the deadline"
        reply(Reply(request.request_id, *answer))

    async def _outcomes(
        self, operations: list[list[Any]], deadline_ms: int, allowance: Allowance
    ) -> list[tuple[int, Any]]:
        """Those of the first operations: fewer than all where the reply would grow too long, or
        the worker's memory is used up, or the client has given up waiting."""
        outcomes: list[tuple[int, Any]] = []
        size_bytes = 0
        while len(outcomes) < len(operations) and allowance.is_wanted:
            if time.monotonic() * 1000 > deadline_ms:
                break  # what the client does next would be undone
            window, are_gets = self._window(operations, len(outcomes), allowance)
            started = []
            for place, (code, *rest) in enumerate(window, 1):
                started.append((code, self._start(code, rest)))
                if not place % _STARTS_A_TURN:
                    await asyncio.sleep(0)  # others have their turn
            waiting = [each for _, each in started if isinstance(each, asyncio.Future)]
            if waiting:
                await asyncio.wait(waiting)
            read_bytes = 0
            for code, each in started:
                outcome = result_of(code, each) if isinstance(each, asyncio.Future) else each
                outcomes.append(outcome)
                read_bytes += answer_bytes(code, outcome)
                if are_gets and size_bytes + read_bytes >= limits.BATCH_REPLY_BYTES:
                    break  # the client asks for the rest again, and only gets were left out
            size_bytes += read_bytes
            allowance.charge(read_bytes)
            if size_bytes >= limits.BATCH_REPLY_BYTES or (are_gets and not allowance.free_bytes):
                break
        return outcomes

    def _window(
        self, operations: list[list[Any]], first: int, allowance: Allowance
    ) -> tuple[list[list[Any]], bool]:
        """The next operations that can wait for the store together: all gets, or all others; and
        which. As many as there is memory for what they bring, or for what executes them."""
        are_gets = operations[first][0] == commands.GET.code
        if are_gets:
            each_bytes = self._store.load_bytes + limits.REQUEST_BYTES
            room_bytes = min(allowance.free_bytes, limits.BATCH_REPLY_BYTES)
            count_max = _READS_A_WINDOW
        else:
            each_bytes, room_bytes = limits.REQUEST_BYTES, allowance.free_bytes
            count_max = _WRITES_A_WINDOW
        last = first + max(_WINDOW_MIN, min(count_max, room_bytes // each_bytes))
        window = []
        for operation in operations[first:last]:
            if (operation[0] == commands.GET.code) != are_gets:
                break
            window.append(operation)
        return window, are_gets

    # What the changes below are made of.

    async def held(self, key: Key) -> Held | None:
        """What the key holds; from the store if the table does not have it."""
        found = self._table.read(key) if self._coherence.may_serve else None
        if found is not None:
            return Held(*found)
        record = await self.load(key)
        return None if record is None else self.fill(record)

    async def load(self, key: Key) -> Record | None:
        """What the store has, or will have once what waits is written."""
        name = name_of(key)
        if self._behind is not None:
            waits, record = self._behind.find(name)
            if waits:
                return alive(record)
        if name in self._absences:
            return None
        self._coherence.begin(name)
        record = alive(await self._store.load(key))
        if record is None:
            if self._coherence.may_fill(name):
                self._absences.note(name)
        elif len(record.payload) > self._value_bytes_max:
            raise ValueTooLarge(
                f"the store holds {len(record.payload)} bytes; "
                f"at most {self._value_bytes_max} are allowed here"
            )
        return record

    async def _ttl(self, key: Key) -> int | None:
        if self._coherence.may_serve and (ttl_ms := self._table.ttl_ms(key)) is not None:
            return ttl_ms
        record = await self.load(key)
        if record is None:
            return None
        self.fill(record)
        return ttl_ms_of(record)

    async def expiry(self, key: Key) -> int:
        """When a key that is there expires: Unix time in milliseconds, 0: never."""
        ttl_ms = self._table.ttl_ms(key) if self._coherence.may_serve else None
        if ttl_ms is not None:
            return expiry_of(ttl_ms)
        record = await self.load(key)
        return record.expires_at_ms if record else 0

    def fill(self, record: Record) -> Held:
        """Puts what the store has into the table, unless it may have changed meanwhile."""
        key, number, payload = record.key, record.codec, record.payload
        if self._coherence.may_fill(name_of(key)):
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

    def expiry_of(self, ttl_ms: int) -> int:
        """When what is written now expires: Unix time in milliseconds, 0: never."""
        return expiry_of(self._executor.life_ms(ttl_ms))

    async def write(self, record: Record) -> int:
        """Writes a record through or behind; returns its version."""
        name = name_of(record.key)
        self._absences.forget(name)
        if self._behind is not None:
            await self._behind.put(name, record.key, record)
        else:
            self._store.check()  # before the table is touched: hits go on while nothing else does
            if not self._store.is_shared:
                self._table.withdraw(record.key)
            self._coherence.begin(name)
            await self._store.save(record)
            self._absences.forget(name)
        return self.fill(record).version

    async def change(self, name: bytes, call: Callable[..., Any]) -> Any:
        """Makes a change that the shared store decides, after what waits for this key."""
        if self._behind is not None and self._behind.find(name)[0]:
            await self._behind.flush()
        self._absences.forget(name)
        self._coherence.begin(name)
        return await self._store.change(call)

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
        self._store.check()  # as in write
        self._coherence.begin(name)
        was_here = self._table.delete(key)
        return await self._store.delete(key) or was_here


def result_of(code: int, done: asyncio.Future[Any]) -> tuple[int, Any]:
    """The status and the answer of a job that has ended."""
    error = done.exception()
    if error is None:
        return STATUS_DONE, done.result()
    assert isinstance(error, Exception)
    return refusal(code, error)

"""Requests where there is a store behind the table: misses are loaded, writes written through.

A key's requests run one after the other, so that a get after an acknowledged set sees it; what each
does to table and store, and in which order, is in table.py.

A store that is shared with other hosts decides the changes that depend on what is there (`add`,
`cas`, `incr`, ...); otherwise this is the only writer of a key, and decides itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kvserve import limits
from kvserve.errors import InvalidArgument, RequestTimeout, WrongWorker
from kvserve.execution import many
from kvserve.execution.budget import Allowance
from kvserve.execution.executor import Executor, answer_bytes, refusal
from kvserve.execution.stored.at_once import AtOnce
from kvserve.execution.stored.changes import OwnChanges, SharedChanges
from kvserve.execution.stored.coherence import Coherence
from kvserve.execution.stored.entry import raw_key_of
from kvserve.execution.stored.key_queues import KeyQueues
from kvserve.execution.stored.running import Running
from kvserve.execution.stored.table import StoredTable
from kvserve.protocol import codec, commands
from kvserve.protocol.messages import STATUS_DONE, Reply, Request
from kvserve.store.guard import GuardedStore
from kvserve.store.negative_cache import NegativeCache
from kvserve.store.write_behind import WriteBehind
from kvserve.table.table import Table

Answer = TypeVar("Answer")
_READS_A_WINDOW = 128
_WRITES_A_WINDOW = 1024
_WINDOW_MIN = 8  # however little memory is left: the batch was admitted
_STARTS_A_TURN = 128  # each takes some 30 us
_WITH_CODEC = tuple(
    each.code for each in (commands.SET, commands.ADD, commands.REPLACE, commands.CAS)
)
_NOT_IN_PARTS = (commands.SET_MANY.code, commands.DELETE_MANY.code)


class StoredExecutor:
    """Executes requests, each when its key's turn comes.

    Args:
        table: this process's.
        index: which worker this is.
        executor: executes what needs no store.
        store: the database.
        behind: where writes wait; None: they go through.
        negative_cache: what the store is known not to have.
        coherence: whether the table may be believed.
        loop: the worker's.
        value_bytes_max: the largest value that fits in a frame.
    """

    def __init__(
        self,
        table: Table,
        index: int,
        executor: Executor,
        store: GuardedStore,
        behind: WriteBehind | None,
        negative_cache: NegativeCache,
        coherence: Coherence,
        loop: asyncio.AbstractEventLoop,
        value_bytes_max: int,
    ) -> None:
        self._table = table
        self._index = index
        self._executor = executor
        self._store = store
        self._behind = behind
        self._negative_cache = negative_cache
        self._coherence = coherence
        self._loop = loop
        self._stored = StoredTable(
            table, executor, store, behind, negative_cache, coherence, value_bytes_max
        )
        self._queues = KeyQueues(loop)
        coherence.detach = self._queues.detach
        self._batches: set[asyncio.Task[None]] = set()
        self._at_once = (
            AtOnce(self._stored, store, self._queues, coherence, loop) if behind is None else None
        )
        changes = (SharedChanges if store.is_shared else OwnChanges)(self._stored)
        self._changes: dict[int, Callable[..., Coroutine[Any, Any, Any]]] = {
            commands.SET.code: self._stored.set,
            commands.DELETE.code: self._stored.delete,
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
        running = Running(self._table, self._index, request.client_id, request.request_id)
        with running:
            self._submit(request, reply, allowance, running)

    def _submit(
        self,
        request: Request,
        reply: Callable[[Reply], None],
        allowance: Allowance,
        running: Running,
    ) -> None:
        code = request.command.code
        if code == commands.BATCH.code or code in commands.SINGLE_OF:
            try:  # all of it, before anything is done
                self._table.check_own(many.keys_of(code, request.arguments))
            except WrongWorker as error:
                reply(Reply.failure(request.request_id, error))
                return
            batch = self._loop.create_task(
                running.noted(self._batch(request, reply, allowance, running))
            )
            self._batches.add(batch)
            batch.add_done_callback(self._batches.discard)
            return
        outcome = self._start(code, request.arguments, running, alone=True)
        if isinstance(outcome, asyncio.Future):
            outcome.add_done_callback(
                lambda done: reply(Reply(request.request_id, *result_of(code, done)))
            )
        else:
            reply(Reply(request.request_id, *outcome))

    def _start(
        self, code: int, arguments: Any, running: Running, *, alone: bool = False
    ) -> tuple[int, Any] | asyncio.Future[Any]:
        """The outcome of an operation if it needs no store, else the future of its answer.

        Args:
            code, arguments: of the operation.
            running: the request that it belongs to.
            alone: no others come with it, so it need not wait to be sent with them.
        """
        try:
            if code == commands.TTL.code or code in commands.READS_OF_VALUES:
                return self._start_read(code, arguments, running, alone)
            if change := self._changes.get(code):
                if code in _WITH_CODEC and arguments[1] & codec.TAGGED:
                    raise InvalidArgument("a store keeps no tags")
                self._table.shard_of(arguments[0])  # raises InvalidKey
                self._table.check_own((arguments[0],))
                raw_key = raw_key_of(arguments[0])
                if alone and code == commands.SET.code and self._at_once is not None:
                    result = self._at_once.set(running, *arguments)
                    if result is not None:
                        return result
                return self._queues.submit(raw_key, lambda: running.noted(change(*arguments)))
        except Exception as error:  # reported in the reply, as the executor does
            return refusal(code, error)
        return self._executor.run(code, arguments)

    def _start_read(
        self, code: int, arguments: Any, running: Running, alone: bool
    ) -> tuple[int, Any] | asyncio.Future[Any]:
        key = arguments[0]
        self._table.shard_of(key)  # raises InvalidKey
        self._table.check_own((key,))
        raw_key = raw_key_of(key)
        is_busy = self._queues.is_busy(raw_key)
        if is_busy:
            if self._queues.is_read_for(raw_key, self._coherence.share_seconds):
                self._coherence.outdate(raw_key)  # its answer may be older than the bound
        elif self._coherence.may_serve:
            status, answer = self._executor.run(code, arguments)
            if status or answer is not None or raw_key in self._negative_cache:
                return status, answer
        if code == commands.TTL.code:
            return self._queues.submit(raw_key, lambda: running.noted(self._stored.ttl(key)))
        if code == commands.GET_RECORD.code:
            return self._queues.submit(raw_key, lambda: running.noted(self._stored.held(key)))
        if alone and not is_busy and self._at_once is not None:
            result = self._at_once.read(running, key, raw_key)
            if result is not None:
                return result
        return self._queues.read(raw_key, lambda: running.noted(self._stored.entry(key)))

    async def _batch(
        self,
        request: Request,
        reply: Callable[[Reply], None],
        allowance: Allowance,
        running: Running,
    ) -> None:
        """As the executor's, but neighbours of one kind wait for the store together."""
        code, arguments = request.command.code, request.arguments
        if code == commands.BATCH.code:
            operations = arguments[0]
            outcomes = await self._outcomes(operations, request.deadline_ms, allowance, running)
            answer: tuple[int, Any] = STATUS_DONE, outcomes
        else:
            operations = many.as_operations(code, arguments)
            outcomes = await self._outcomes(operations, request.deadline_ms, allowance, running)
            answer = many.as_answer(code, outcomes)
        if (operations and not outcomes) or (
            code in _NOT_IN_PARTS and len(outcomes) < len(operations)
        ):
            answer = RequestTimeout.wire_code, "not everything was done before the deadline"
        reply(Reply(request.request_id, *answer))

    async def _outcomes(
        self,
        operations: list[list[Any]],
        deadline_ms: int,
        allowance: Allowance,
        running: Running,
    ) -> list[tuple[int, Any]]:
        """The outcomes of the first operations: fewer than all if the reply would grow too long,
        the worker's memory is used up, or the client has given up waiting."""
        outcomes: list[tuple[int, Any]] = []
        size_bytes = 0
        while len(outcomes) < len(operations) and allowance.is_wanted:
            if time.monotonic() * 1000 > deadline_ms:
                break  # what the client does next would be undone
            window, are_gets = self._window(operations, len(outcomes), allowance)
            started = []
            for place, (code, *rest) in enumerate(window, 1):
                started.append((code, self._start(code, rest, running)))
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
        """The next operations that can wait for the store together, all gets or all others, and
        whether they are gets. As many as there is memory for what they load, or what executes
        them."""
        are_gets = operations[first][0] in commands.READS_OF_VALUES
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
            if (operation[0] in commands.READS_OF_VALUES) != are_gets:
                break
            window.append(operation)
        return window, are_gets


def result_of(code: int, done: asyncio.Future[Any]) -> tuple[int, Any]:
    """The status and the answer of a job that has ended."""
    error = done.exception()
    if error is None:
        return STATUS_DONE, done.result()
    assert isinstance(error, Exception)
    return refusal(code, error)

"""What a worker does with a request: decode it, find its session, execute it, reply.

None of these steps waits: long requests are executed in slices, those that need the store are
answered later, and those that there is no memory for are refused. Knows no queue, and of a FIFO
only its session.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from kvserve.errors import ServerBusy
from kvserve.execution.budget import Allowance, Budget, size_of
from kvserve.execution.executor import Executor
from kvserve.execution.slices import Answer, Slices, Steps
from kvserve.execution.stored.backing import Backing
from kvserve.protocol import commands
from kvserve.protocol.messages import (
    LONG_BYTES,
    PROTOCOL_VERSION,
    STATUS_DONE,
    BadRequest,
    Reply,
    Request,
    decode_long,
    decode_request,
    reply_of,
)
from kvserve.table.table import Table
from kvserve.worker.frontends.session import Session
from kvserve.worker.frontends.sessions import Sessions
from kvserve.worker.stats import RequestStats

_log = logging.getLogger(__name__)
_KEY_CHARACTERS = 100  # of a key in the log


class Requests:
    """The requests of one worker.

    Args:
        table: where the request that is being executed is noted; see core/deaths.c.
        index: which worker this is.
        sessions: those that the requests come from.
        slices: executes the long ones.
        budget: the memory of those that wait.
        executor: executes what needs no store.
        backing: executes the others; None: there is no store.
    """

    def __init__(
        self,
        table: Table,
        index: int,
        sessions: Sessions,
        slices: Slices[Session],
        budget: Budget,
        executor: Executor,
        backing: Backing | None,
    ) -> None:
        self._table = table
        self._index = index
        self._sessions = sessions
        self._slices = slices
        self._budget = budget
        self._executor = executor
        self._backing = backing
        self._figures = RequestStats()
        self._requests = self._replies = self._bad = self._late = self._unknown = 0
        self.slow_seconds = 0.0  # a request that takes longer is logged; 0: none is

    @property
    def is_idle(self) -> bool:
        """Whether none is under way, and no reply is left to write."""
        return (
            not self._slices
            and self._sessions.drained
            and (self._backing is None or self._backing.is_idle)
        )

    def take(self, frame: bytes, session: Session | None) -> None:
        """Takes one frame; `session` is that of the FIFO that it came through, if it did."""
        started_ns = time.monotonic_ns()
        self._requests += 1
        if session is not None and len(frame) > LONG_BYTES:
            self._slices.begin(session, partial(self._begin_decoding, frame, session, started_ns))
            return
        try:
            request = decode_request(frame)
        except BadRequest as error:
            self._refuse(error, session)
            return
        self._take_request(request, len(frame), session, started_ns)

    def _begin_decoding(self, frame: bytes, session: Session, started_ns: int) -> None:
        finish = partial(self._take_decoded, len(frame), session, started_ns)
        self._slices.run(session, _decoding(frame), finish, math.inf)

    def _take_decoded(
        self, frame_bytes: int, session: Session, started_ns: int, decoded: Any
    ) -> None:
        if isinstance(decoded, BadRequest):
            self._refuse(decoded, session)
        elif decoded.client_id != session.client_id or decoded.command is commands.HELLO:
            self._bad += 1
        else:
            self._execute(decoded, frame_bytes, session, started_ns)

    def _take_request(
        self, request: Request, frame_bytes: int, session: Session | None, started_ns: int
    ) -> None:
        client_id = request.client_id
        if request.command is commands.HELLO:
            self._handle_hello(request)
            return
        if session is None:
            session = self._sessions.get(client_id)
            if session is None:
                self._unknown += 1
                return
        elif session.client_id != client_id:
            self._bad += 1
            return
        if self._slices.is_busy(session):  # with an earlier request
            allowance = self._admit(session, request, frame_bytes)
            if allowance is not None:
                begin = partial(self._execute, request, frame_bytes, session, started_ns)
                self._slices.wait(session, partial(_after, allowance, begin), allowance.give_back)
            return
        self._execute(request, frame_bytes, session, started_ns)

    def _admit(self, session: Session, request: Request, frame_bytes: int) -> Allowance | None:
        """Takes room for a request that waits; refuses the request if there is none."""
        size_bytes = size_of(request, frame_bytes)
        if self._budget.take(session, size_bytes):
            return Allowance(self._budget, session, size_bytes)
        busy = ServerBusy("the worker has too many requests under way; try again later")
        self._reply(session, Reply.failure(request.request_id, busy))
        return None

    def _execute(
        self, request: Request, frame_bytes: int, session: Session, started_ns: int
    ) -> None:
        client_id, request_id, command, deadline_ms, arguments = request
        if time.monotonic_ns() > deadline_ms * 1_000_000:
            self._late += 1  # its client has given up: executing it now would surprise it
            return
        if not self._sessions.has_room(session):
            busy = ServerBusy("this client has too many replies to read; read them first")
            self._reply(session, Reply.failure(request_id, busy))
            return
        code = command.code
        if self._backing is not None and command is not commands.FLUSH:
            allowance = self._admit(session, request, frame_bytes)
            if allowance is not None:
                finish = partial(self._answer_at_last, allowance, session, request, started_ns)
                self._backing.submit(request, finish, allowance)
        elif self._executor.is_long(code):
            steps = self._noted(request, self._executor.steps(code, arguments))
            finish_steps = partial(self._answer_steps, session, request, started_ns)
            self._slices.run(session, steps, finish_steps, deadline_ms / 1000)
        else:
            self._table.begin_request(self._index, client_id, request_id)
            reply = reply_of((request_id, *self._executor.run(code, arguments)))
            self._table.end_request(self._index)
            self._answer(session, request, started_ns, reply)

    def _noted(self, request: Request, steps: Steps[Answer]) -> Steps[Answer]:
        """The steps of a request, each noted while it is executed."""
        while True:
            self._table.begin_request(self._index, request.client_id, request.request_id)
            try:
                next(steps)
            except StopIteration as ended:
                answer: Answer = ended.value
                return answer
            finally:
                self._table.end_request(self._index)
            yield

    def _answer_steps(
        self, session: Session, request: Request, started_ns: int, outcome: tuple[int, Any]
    ) -> None:
        self._answer(session, request, started_ns, reply_of((request.request_id, *outcome)))

    def _answer_at_last(
        self,
        allowance: Allowance,
        session: Session,
        request: Request,
        started_ns: int,
        reply: Reply,
    ) -> None:
        """Answers a request that had to wait for the store."""
        allowance.give_back()
        self._answer(session, request, started_ns, reply)

    def _answer(self, session: Session, request: Request, started_ns: int, reply: Reply) -> None:
        taken_ns = self._figures.note(request, reply, started_ns)
        if self.slow_seconds and taken_ns >= self.slow_seconds * 1e9:
            _log.warning("slow request: %s took %.3f ms", _describe(request), taken_ns / 1e6)
        self._sessions.reply(session, reply)
        self._replies += 1

    def _refuse(self, error: BadRequest, session: Session | None) -> None:
        self._bad += 1
        _log.debug("a bad frame: %s", error)
        if error.sender is None:
            return
        client_id, request_id = error.sender
        session = session or self._sessions.get(client_id)
        if session is not None and session.client_id == client_id:
            self._reply(session, Reply.failure(request_id, error))

    def _handle_hello(self, request: Request) -> None:
        session = self._sessions.open(request.client_id)
        if session is None:
            self._unknown += 1
            return
        answer = (PROTOCOL_VERSION, os.getpid())
        self._reply(session, Reply(request.request_id, STATUS_DONE, answer))

    def _reply(self, session: Session, reply: Reply) -> None:
        self._sessions.reply(session, reply)
        self._replies += 1

    def stats(self) -> dict[str, Any]:
        """The statistics by name."""
        return {
            "requests": self._requests,
            "replies": self._replies,
            "bad_requests": self._bad,
            "late_requests": self._late,
            "refused_requests": self._budget.refused,
            "unknown_sessions": self._unknown,
            "buffer_bytes": self._budget.taken_bytes,
            **self._figures.stats(),
        }


def _describe(request: Request) -> str:
    """A request for the log: its command, and its key or how many operations. Never a value."""
    command = request.command
    if command is commands.BATCH or command.code in commands.SINGLE_OF:
        return f"{command.name} of {len(request.arguments[0])}"
    if command.fields and command.fields[0][0] == "key":
        return f"{command.name} {request.arguments[0]!r:.{_KEY_CHARACTERS}}"
    return command.name


def _after(allowance: Allowance, begin: Callable[[], None]) -> None:
    """Begins a request that waited; what it holds from now on is counted anew."""
    allowance.give_back()
    begin()


def _decoding(frame: bytes) -> Generator[None, None, Request | BadRequest]:
    """Returns the request in a long frame, or what is wrong with it."""
    try:
        return (yield from decode_long(frame))
    except BadRequest as error:
        return error

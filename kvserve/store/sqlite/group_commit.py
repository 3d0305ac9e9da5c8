"""Collects the calls that come while others are executed, then executes them together.

This is group commit (DeWitt et al., 1984): all calls that waited for the previous commit share the
cost of the next, a wait for the disk. Nothing here is locked: only the event loop touches it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kvserve.errors import StoreUnavailable

Work = TypeVar("Work")


class StoreBusy(StoreUnavailable):
    """Another process holds the store's lock for now. Nothing was changed; try again."""


@dataclass(slots=True, eq=False)
class _Call(Generic[Work]):
    work: Work
    answer: asyncio.Future[Any]
    deadline: float


class Group(Generic[Work]):
    """Executes calls in the order in which they are made, many at a time.

    Args:
        loop: the worker's.
        thread: executes one group at a time; others may use it, too.
        execute: is called in the thread; returns one answer for each work. An exception fails all
            of the group, except `StoreBusy`: then the group goes to the end of the thread's queue,
            so that a lock held elsewhere does not keep others from the thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread: Executor,
        execute: Callable[[list[Work]], list[Any]],
    ) -> None:
        self._loop = loop
        self._thread = thread
        self._execute = execute
        self._waiting: list[_Call[Work]] = []
        self._is_active = False

    def call(self, work: Work, lock_seconds: float) -> asyncio.Future[Any]:
        """The answer to a piece of work. If it is cancelled before the work begins, it is not done.

        Args:
            work: for `execute`.
            lock_seconds: how long to retry after `StoreBusy`; then it is the answer.
        """
        deadline = self._loop.time() + lock_seconds
        call = _Call(work, self._loop.create_future(), deadline)
        self._waiting.append(call)
        if not self._is_active:
            self._is_active = True
            self._loop.call_soon(self._begin)  # later: other calls of this turn join the group
        return call.answer

    def _begin(self) -> None:
        group = [call for call in self._waiting if not call.answer.done()]
        self._waiting = []
        self._is_active = bool(group)
        if group:
            work = [call.work for call in group]
            job = self._loop.run_in_executor(self._thread, self._execute, work)
            job.add_done_callback(functools.partial(self._finish, group))

    def _finish(self, group: list[_Call[Work]], job: asyncio.Future[list[Any]]) -> None:
        error = job.exception()
        if error is None:
            for call, answer in zip(group, job.result(), strict=True):
                if not call.answer.done():
                    call.answer.set_result(answer)
        else:
            self._waiting[:0] = self._failed(group, error)
        self._begin()

    def _failed(self, group: list[_Call[Work]], error: BaseException) -> list[_Call[Work]]:
        """Fails the calls that may not wait for the lock any longer; returns the others."""
        patient = []
        for call in group:
            if isinstance(error, StoreBusy) and self._loop.time() < call.deadline:
                patient.append(call)
            elif not call.answer.done():
                call.answer.set_exception(type(error)(*error.args))  # each gets its own traceback
        return patient

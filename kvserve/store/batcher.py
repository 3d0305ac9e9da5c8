"""Combines the single calls of one turn of the event loop into one call of the store.

A store with several parts gets one call for each part, so that no part waits for another. A call
takes as many items as the window has room for; the others wait until calls have ended.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

from kvserve.errors import StoreUnavailable
from kvserve.store.window import Window

Item = TypeVar("Item")
Answer = TypeVar("Answer")
ITEMS_MAX = 2048


class _Waiting(NamedTuple, Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]
    since: float


class Batcher(Generic[Item, Answer]):
    """Takes calls about single items and makes them together.

    Args:
        loop: the worker's.
        part: returns the part of the store that an item concerns.
        ask: returns one answer for each item of a part, in their order; an error among them is
            raised to the caller of that item. An exception of `ask` is raised to all callers.
        window: how much may be under way.
        patience_seconds: how long an item may wait for room while calls fail.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        part: Callable[[Item], Hashable],
        ask: Callable[[Hashable, Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        window: Window,
        patience_seconds: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._part = part
        self._ask = ask
        self._window = window
        self._patience_seconds = patience_seconds
        self._waiting: dict[Hashable, deque[_Waiting[Item, Answer]]] = {}
        self._due: set[Hashable] = set()  # parts with a call about to begin
        self._failing: set[Hashable] = set()  # parts whose last call failed
        self._calls: dict[int, asyncio.Task[None]] = {}  # the loop itself keeps weak references
        self._numbers = itertools.count()

    def __call__(self, item: Item) -> asyncio.Future[Answer]:
        """The answer to one item, which is sent together with the others of this turn."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        part = self._part(item)
        waiting = self._waiting.get(part)
        if waiting is None:
            waiting = self._waiting[part] = deque()
        waiting.append(_Waiting(item, answer, self._loop.time()))
        if part not in self._due:
            self._begin(part)
        return answer

    def go_on(self) -> None:
        """Begins calls for the items that wait, now that the window has more room."""
        for part in self._waiting:
            if part not in self._due:
                self._begin(part)

    def _begin(self, part: Hashable) -> None:
        """Begins a call about a part. Its task runs in the next turn and takes all items so far."""
        self._due.add(part)
        number = next(self._numbers)
        self._calls[number] = self._loop.create_task(self._call(part, number))

    async def _call(self, part: Hashable, number: int) -> None:
        self._due.discard(part)
        sent, size_bytes = self._take(part)
        if sent:
            if part in self._waiting:
                self._begin(part)
            try:
                await self._ask_for(part, sent)
            finally:
                self._window.give_back(part, size_bytes)
                self.go_on()
        del self._calls[number]

    def _take(self, part: Hashable) -> tuple[list[_Waiting[Item, Answer]], int]:
        """Takes the waiting items that may be sent now; returns them and their bytes."""
        give_up = self._loop.time() - self._patience_seconds()
        waiting = self._waiting.get(part, deque())
        sent: list[_Waiting[Item, Answer]] = []
        sent_bytes = 0
        while waiting and len(sent) < ITEMS_MAX:
            first = waiting[0]
            if first.answer.done():  # cancelled
                waiting.popleft()
                continue
            if part in self._failing and first.since < give_up:
                waiting.popleft()
                first.answer.set_exception(_too_late())
                continue
            item_bytes = self._window.size_of(first.item)
            if not self._window.take(part, item_bytes):
                break
            sent_bytes += item_bytes
            sent.append(waiting.popleft())
        if not waiting:
            self._waiting.pop(part, None)
        return sent, sent_bytes

    async def _ask_for(self, part: Hashable, sent: list[_Waiting[Item, Answer]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = await self._ask(part, [each.item for each in sent])
        except Exception as error:  # raised to the caller of each item
            answers = [error] * len(sent)
        if all(isinstance(found, Exception) for found in answers):
            self._failing.add(part)
        else:
            self._failing.discard(part)
        for each, found in zip(sent, answers, strict=True):
            if each.answer.done():
                continue
            if isinstance(found, Exception):
                each.answer.set_exception(found)
            else:
                each.answer.set_result(found)


def _too_late() -> StoreUnavailable:
    return StoreUnavailable("the store fails, and this call was not tried in time")

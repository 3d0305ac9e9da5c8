"""Many single calls of one turn of the event loop become one call of the store.

As many as the window has room for: the others wait until calls that are under way have ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from kvserve.errors import StoreUnavailable
from kvserve.store.window import Window

Item = TypeVar("Item")
Answer = TypeVar("Answer")
ITEMS_MAX = 512  # a call; more would hold up the first for the sake of the last


class _Waiting(NamedTuple, Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]
    since: float  # on the loop's clock


class Turn(Generic[Item, Answer]):
    """Collects items until the loop's turn ends, then asks for all of them at once.

    Args:
        loop: the worker's.
        ask: one answer an item, in their order; its exception is everybody's.
        window: how much may be under way.
        patience_seconds: how long an item may wait for that while calls fail.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ask: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        window: Window,
        patience_seconds: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._ask = ask
        self._window = window
        self._patience_seconds = patience_seconds
        self._waiting: deque[_Waiting[Item, Answer]] = deque()
        self._is_due = False
        self._is_failing = False  # the last call did fail
        self._calls: set[asyncio.Task[None]] = set()  # the loop itself keeps weak references

    def __call__(self, item: Item) -> asyncio.Future[Answer]:
        """The answer to one item, asked for together with the others of this turn."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting.append(_Waiting(item, answer, self._loop.time()))
        if len(self._waiting) == ITEMS_MAX:
            self._send()
        else:
            self._send_soon()
        return answer

    def _send_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._send_due)

    def _send_due(self) -> None:
        self._is_due = False
        self._send()

    def _send(self) -> None:
        """Sends what there is room for; the rest, when a call has ended."""
        give_up = self._loop.time() - self._patience_seconds()
        while self._waiting:
            sent: list[_Waiting[Item, Answer]] = []
            size_bytes = 0
            while self._waiting and len(sent) < ITEMS_MAX:
                first = self._waiting[0]
                if first.answer.done():  # cancelled
                    self._waiting.popleft()
                    continue
                if self._is_failing and first.since < give_up:
                    self._waiting.popleft()
                    first.answer.set_exception(_too_late())
                    continue
                item_bytes = self._window.size_of(first.item)
                if not self._window.fits(item_bytes):
                    break
                self._window.taken_bytes += item_bytes
                size_bytes += item_bytes
                sent.append(self._waiting.popleft())
            if not sent:
                return
            call = self._loop.create_task(self._call(sent, size_bytes))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, sent: list[_Waiting[Item, Answer]], size_bytes: int) -> None:
        try:
            answers = await self._ask([each.item for each in sent])
        except Exception as error:  # it is raised where each is awaited
            self._is_failing = True
            for each in sent:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        finally:
            self._window.taken_bytes -= size_bytes
            if self._waiting:
                self._send_soon()
        self._is_failing = False
        for each, found in zip(sent, answers, strict=True):
            if not each.answer.done():
                each.answer.set_result(found)


def _too_late() -> StoreUnavailable:
    return StoreUnavailable("the store fails, and this call was not tried in time")

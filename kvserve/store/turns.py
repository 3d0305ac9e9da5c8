"""Many single calls of one turn of the event loop become one call of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
ITEMS_MAX = 512  # a call; more would hold up the first for the sake of the last


class Turn(Generic[Item, Answer]):
    """Collects items until the loop's turn ends, then asks for all of them at once.

    Args:
        loop: the worker's.
        ask: one answer an item, in their order; its exception is everybody's.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ask: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
    ) -> None:
        self._loop = loop
        self._ask = ask
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._calls: set[asyncio.Task[None]] = set()  # the loop itself keeps weak references

    def __call__(self, item: Item) -> asyncio.Future[Answer]:
        """The answer to one item, asked for together with the others of this turn."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting.append((item, answer))
        if len(self._waiting) == 1:
            self._loop.call_soon(self._send)
        elif len(self._waiting) == ITEMS_MAX:
            self._send()
        return answer

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            call = self._loop.create_task(self._call(waiting))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, waiting: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._ask([item for item, _ in waiting])
        except Exception as error:  # it is raised where each is awaited
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), found in zip(waiting, answers, strict=True):
            if not answer.done():
                answer.set_result(found)

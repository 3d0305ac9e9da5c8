"""Many single calls of one turn of the event loop become one call of the store.

Where the store has several parts it is one call for each, so that none waits for another's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
ITEMS_MAX = 512  # a call; more would hold up the first for the sake of the last


class Turn(Generic[Item, Answer]):
    """Collects items until the loop's turn ends, then asks for all of them at once.

    Args:
        loop: the worker's.
        part: the part of the store that an item concerns.
        ask: one answer an item of a part, in their order; an error among them is raised where that
            item's answer is awaited. The exception that it raises is everybody's.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        part: Callable[[Item], Hashable],
        ask: Callable[[Hashable, Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
    ) -> None:
        self._loop = loop
        self._part = part
        self._ask = ask
        self._waiting: dict[Hashable, list[tuple[Item, asyncio.Future[Answer]]]] = {}
        # By the id of what each asks for; the loop itself keeps weak references.
        self._calls: dict[int, asyncio.Task[None]] = {}

    def __call__(self, item: Item) -> asyncio.Future[Answer]:
        """The answer to one item, asked for together with the others of this turn."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        part = self._part(item)
        waiting = self._waiting.get(part)
        if waiting is None:
            waiting = self._waiting[part] = []
            # A task begins in the next turn, and collects until then.
            self._calls[id(waiting)] = self._loop.create_task(self._call(part, waiting))
        waiting.append((item, answer))
        if len(waiting) == ITEMS_MAX:
            del self._waiting[part]
        return answer

    async def _call(
        self, part: Hashable, waiting: list[tuple[Item, asyncio.Future[Answer]]]
    ) -> None:
        if self._waiting.get(part) is waiting:
            del self._waiting[part]
        answers: Sequence[Answer | Exception]
        try:
            answers = await self._ask(part, [item for item, _ in waiting])
        except Exception as error:  # it is raised where each is awaited
            answers = [error] * len(waiting)
        del self._calls[id(waiting)]
        for (_, answer), found in zip(waiting, answers, strict=True):
            if answer.done():
                continue
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found)

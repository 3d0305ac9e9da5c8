"""One deadline for a call of several requests, in the context of that call alone."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Coroutine
from typing import Any

from kvserve.client.deadlines import deadline_of, within, within_async


def left(timeout: float = 100.0) -> float:
    """The seconds that a request has which begins now."""
    now = time.monotonic()
    return deadline_of(now, timeout) - now


def test_the_earlier_deadline_counts_while_the_function_runs() -> None:
    assert within(5, left) <= 5
    assert within(5, within, 50, left) <= 5
    assert within(50, within, 5, left) <= 5
    assert left() == 100

    async def look() -> float:
        await asyncio.sleep(0)
        return left()

    async def main() -> None:
        assert await within_async(5, look) <= 5
        assert left() == 100

    asyncio.run(main())


def test_a_call_that_is_left_half_way_ends_no_deadline_of_another() -> None:
    async def never_ends() -> None:
        await asyncio.sleep(3600)

    def begin() -> Coroutine[Any, Any, None]:
        coroutine = within_async(7, never_ends)
        coroutine.send(None)
        return coroutine

    # As of a task that was begun within a deadline, and is collected while another runs.
    async def main() -> None:
        abandoned = contextvars.copy_context().run(within, 5, begin)
        assert left() == 100
        assert await within_async(9, asyncio.to_thread, left) <= 9
        abandoned.close()
        assert left() == 100

    asyncio.run(main())

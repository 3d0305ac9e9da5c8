"""Long requests in slices: whose turn it is, and what becomes of sessions that end in between."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Generator
from typing import Any

from kvserve.execution.slices import Slices


def steps(count: int, answer: str) -> Generator[None, None, str]:
    for _ in range(count):
        yield
    return answer


class Sessions:
    """Sessions by name, of which one may end at any moment, as a reply that fails ends it."""

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.now = 0.0
        self.slices: Slices[str] = Slices(
            asyncio.get_running_loop(), lambda _: None, self.alive.__contains__, self.clock
        )
        self.told: list[str] = []

    def clock(self) -> float:
        self.now += 1.0  # each look at it is another slice
        return self.now

    def begin(self, session: str, count: int, name: str) -> None:
        """A long request, after those before it."""
        self.alive.add(session)

        def start() -> None:
            self.slices.run(session, steps(count, name), self.told.append, math.inf)

        if self.slices.is_busy(session):
            self.slices.wait(session, start, lambda: self.told.append(f"forgot {name}"))
        else:
            start()

    def end(self, session: str) -> None:
        if session in self.alive:
            self.alive.discard(session)
            self.slices.leave(session)


def test_a_session_that_ends_by_its_reply_is_not_gone_on_with() -> None:
    async def main() -> None:
        sessions = Sessions()

        def answered(outcome: Any) -> None:
            sessions.told.append(outcome)
            sessions.end("one")

        sessions.alive.add("one")
        sessions.slices.run("one", steps(3, "first"), answered, math.inf)
        sessions.begin("one", 3, "second")
        sessions.begin("one", 3, "third")
        sessions.begin("two", 3, "other")
        while "other" not in sessions.told:
            await asyncio.sleep(0)
        assert sessions.told == ["first", "forgot second", "forgot third", "other"]
        assert not sessions.slices

    asyncio.run(main())


def test_a_request_of_a_session_that_has_ended_already_keeps_nobody_waiting() -> None:
    async def main() -> None:
        sessions = Sessions()
        sessions.slices.run("gone", steps(3, "late"), sessions.told.append, math.inf)
        sessions.begin("two", 3, "other")
        while "other" not in sessions.told:
            await asyncio.sleep(0)
        assert sessions.told == ["other"]
        assert not sessions.slices

    asyncio.run(main())

"""Group: order, grouping, and what becomes of the others when something fails."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvserve.errors import StoreUnavailable
from kvserve.store.sqlite.group_commit import Group, StoreBusy


class Recorder:
    """Executes texts: answers each in capitals, keeps the groups, and stops where it is told to."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.errors: list[Exception] = []  # to be raised by the next groups
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, texts: list[str]) -> list[str]:
        self.groups.append(texts)
        self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return [text.upper() for text in texts]


async def _turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_calls_of_one_turn_are_one_group() -> None:
    async def main() -> None:
        execute = Recorder()
        with ThreadPoolExecutor(1) as thread:
            group = Group(asyncio.get_running_loop(), thread, execute)
            answers = await asyncio.gather(*(group.call(text, 1.0) for text in "abc"))
        assert answers == ["A", "B", "C"]
        assert execute.groups == [["a", "b", "c"]]

    asyncio.run(main())


def test_calls_during_a_group_are_the_next_one() -> None:
    async def main() -> None:
        execute = Recorder()
        execute.gate.clear()
        with ThreadPoolExecutor(1) as thread:
            group = Group(asyncio.get_running_loop(), thread, execute)
            calls = [group.call("a", 1.0)]
            for text in "bcd":
                await _turns()
                calls.append(group.call(text, 1.0))
            assert not any(call.done() for call in calls)
            execute.gate.set()
            assert await asyncio.gather(*calls) == ["A", "B", "C", "D"]
        assert execute.groups == [["a"], ["b", "c", "d"]]

    asyncio.run(main())


def test_a_failure_is_everybodys_in_the_group_and_nobodys_after_it() -> None:
    async def main() -> None:
        execute = Recorder()
        execute.errors = [StoreUnavailable("no room")]
        with ThreadPoolExecutor(1) as thread:
            group = Group(asyncio.get_running_loop(), thread, execute)
            calls = [group.call(text, 1.0) for text in "ab"]
            failures = await asyncio.gather(*calls, return_exceptions=True)
            assert [str(failure) for failure in failures] == ["no room", "no room"]
            assert failures[0] is not failures[1]
            assert await group.call("c", 1.0) == "C"

    asyncio.run(main())


def test_a_lock_is_waited_for_together_with_those_who_come_later() -> None:
    async def main() -> None:
        execute = Recorder()
        execute.errors = [StoreBusy("locked")]
        execute.gate.clear()
        with ThreadPoolExecutor(1) as thread:
            group = Group(asyncio.get_running_loop(), thread, execute)
            calls = [group.call("a", 60.0), group.call("b", 60.0)]
            await _turns()
            calls.append(group.call("c", 60.0))
            execute.gate.set()
            assert await asyncio.gather(*calls) == ["A", "B", "C"]
        assert execute.groups == [["a", "b"], ["a", "b", "c"]]

    asyncio.run(main())


def test_a_lock_is_waited_for_no_longer_than_was_said() -> None:
    async def main() -> None:
        execute = Recorder()
        execute.errors = [StoreBusy("locked")]
        with ThreadPoolExecutor(1) as thread:
            group = Group(asyncio.get_running_loop(), thread, execute)
            impatient, patient = group.call("a", -1.0), group.call("b", 60.0)
            with pytest.raises(StoreBusy):
                await impatient
            assert await patient == "B"

    asyncio.run(main())


def test_a_call_that_is_cancelled_before_it_is_begun_is_not_done() -> None:
    async def main() -> None:
        execute = Recorder()
        execute.gate.clear()
        with ThreadPoolExecutor(1) as thread:
            group = Group(asyncio.get_running_loop(), thread, execute)
            begun = group.call("a", 1.0)
            await _turns()
            waiting, last = group.call("b", 1.0), group.call("c", 1.0)
            begun.cancel()
            waiting.cancel()
            execute.gate.set()
            assert await last == "C"
        assert execute.groups == [["a"], ["c"]]

    asyncio.run(main())

"""The order of jobs: one a key at a time, keys side by side, reads shared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kvserve.errors import ServerBusy
from kvserve.execution.stored import key_queues
from kvserve.execution.stored.key_queues import Job, KeyQueues

Log = list[str]


def run(test: Callable[[KeyQueues, Log], Awaitable[None]]) -> None:
    async def main() -> None:
        log: Log = []
        queues = KeyQueues(asyncio.get_running_loop())
        await test(queues, log)
        await asyncio.sleep(0.05)
        assert len(queues) == 0

    asyncio.run(main())


def job(log: Log, title: str, seconds: float = 0.01, error: Exception | None = None) -> Job:
    async def work() -> str:
        log.append(f"begin {title}")
        await asyncio.sleep(seconds)
        log.append(f"end {title}")
        if error:
            raise error
        return title

    return work


def test_one_key_in_order_other_keys_beside_it() -> None:
    async def test(queues: KeyQueues, log: Log) -> None:
        async def after_b() -> str:
            while "end b1" not in log:
                await asyncio.sleep(0.001)
            return await job(log, "a1")()

        results = [
            queues.submit(b"a", after_b),
            queues.submit(b"a", job(log, "a2")),
            queues.submit(b"b", job(log, "b1")),
        ]
        assert queues.is_busy(b"a")
        assert await asyncio.gather(*results) == ["a1", "a2", "b1"]
        assert log.index("end a1") < log.index("begin a2")
        await asyncio.sleep(0)
        assert not queues.is_busy(b"a")

    run(test)


def test_a_job_that_fails_holds_up_nobody() -> None:
    async def test(queues: KeyQueues, log: Log) -> None:
        first = queues.submit(b"a", job(log, "a1", error=ValueError("x")))
        second = queues.submit(b"a", job(log, "a2"))
        with pytest.raises(ValueError, match="x"):
            await first
        assert await second == "a2"

    run(test)


def test_reads_are_shared_but_not_over_a_change() -> None:
    async def test(queues: KeyQueues, log: Log) -> None:
        first = queues.read(b"a", job(log, "r1"))
        assert queues.read(b"a", job(log, "r2")) is first
        change = queues.submit(b"a", job(log, "w"))
        third = queues.read(b"a", job(log, "r3"))
        assert third is not first
        assert await asyncio.gather(first, change, third) == ["r1", "w", "r3"]
        assert "begin r2" not in log
        # One that has ended is not shared: it may be out of date.
        assert await queues.read(b"a", job(log, "r4")) == "r4"

    run(test)


def test_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(queues: KeyQueues, log: Log) -> None:
        results = [queues.submit(b"%d" % n, job(log, str(n))) for n in range(2)]
        with pytest.raises(ServerBusy):
            queues.submit(b"3", job(log, "3"))
        await asyncio.gather(*results)
        assert await queues.submit(b"3", job(log, "3")) == "3"

    monkeypatch.setattr(key_queues, "JOBS_MAX", 2)
    run(test)


def test_a_read_that_is_out_of_date_is_shared_no_more_and_holds_up_nobody() -> None:
    async def test(queues: KeyQueues, log: Log) -> None:
        answered = asyncio.Event()

        async def slow() -> str:
            log.append("begin slow")
            await answered.wait()
            return "old"

        first = queues.read(b"a", slow)
        queues.detach(b"a")  # it has not begun yet: its answer will be new enough
        assert queues.read(b"a", job(log, "never")) is first
        await asyncio.sleep(0)
        change = queues.submit(b"a", job(log, "change"))
        queues.detach(b"a")
        second = queues.read(b"a", job(log, "second"))
        assert second is not first
        assert await asyncio.gather(change, second) == ["change", "second"]
        assert not first.done()
        answered.set()
        assert await first == "old"
        assert not queues.is_busy(b"a")
        assert "begin never" not in log

    run(test)


def test_a_change_is_never_detached() -> None:
    async def test(queues: KeyQueues, log: Log) -> None:
        change = queues.submit(b"a", job(log, "change"))
        await asyncio.sleep(0)
        queues.detach(b"a")
        assert await queues.read(b"a", job(log, "read")) == "read"
        assert change.done()
        assert log == ["begin change", "end change", "begin read", "end read"]

    run(test)


def test_how_long_a_read_runs_is_known() -> None:
    async def test(queues: KeyQueues, log: Log) -> None:
        assert not queues.is_read_for(b"a", 0.0)
        read = queues.read(b"a", job(log, "r", seconds=0.03))
        assert not queues.is_read_for(b"a", 0.0)  # it has not begun
        await asyncio.sleep(0.01)
        assert queues.is_read_for(b"a", 0.001)
        assert not queues.is_read_for(b"a", 60.0)
        await read

    run(test)


def test_what_runs_elsewhere_is_waited_for_and_shared_like_a_job() -> None:
    async def test(queues: KeyQueues, log: Log) -> None:
        result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        queues.adopt(b"a", result, is_read=True)
        assert queues.read(b"a", job(log, "never")) is result
        change = queues.submit(b"a", job(log, "change"))
        await asyncio.sleep(0.01)
        assert log == []
        result.set_result("read")
        assert await change == "change"
        write: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        queues.adopt(b"b", write, is_read=False)
        queues.detach(b"b")
        after = queues.read(b"b", job(log, "after"))
        await asyncio.sleep(0.01)
        assert "begin after" not in log
        write.set_exception(ValueError("x"))
        assert await after == "after"
        assert isinstance(write.exception(), ValueError)
        late: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        queues.adopt(b"c", late, is_read=True)
        queues.detach(b"c")
        assert not queues.is_busy(b"c")
        assert await queues.read(b"c", job(log, "new")) == "new"
        late.set_result("old")

    run(test)

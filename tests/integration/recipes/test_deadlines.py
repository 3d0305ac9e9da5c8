"""A call that asks several times has one deadline for all that it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.servers import StartServer, stopped

import kvserve
from kvserve.client.blocking import workers
from kvserve.client.recipes.driver import Driver, run_to_end
from kvserve.client.recipes.generations import begin
from kvserve.errors import (
    OutcomeUnknown,
    ServerBusy,
    ServerError,
)
from kvserve.protocol import commands

LOCK_KEY = "kvserve:lock:job"


@pytest.fixture
def deadlines(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Until when each request of a blocking client may last, in the order in which they began."""
    noted: list[float] = []
    deadline_of = workers.deadline_of

    def note(now: float, timeout: float) -> float:
        noted.append(deadline_of(now, timeout))
        return noted[-1]

    monkeypatch.setattr(workers, "deadline_of", note)
    return noted


def test_requests_of_one_call_have_one_deadline(
    cache: kvserve.Client, deadlines: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(call: Callable[[], object], requests: int) -> Any:
        deadlines.clear()
        result = call()
        assert len(deadlines) == requests
        assert set(deadlines) == {deadlines[0]}
        return result

    lock = cache.lock("job", timeout=3600)
    check(lock.acquire, 2)
    check(lock.release, 1)
    monkeypatch.setattr(cache, "add", lambda *_: (_ for _ in ()).throw(OutcomeUnknown("lost")))
    monkeypatch.setattr(cache, "get", lambda *_: cache._ask(commands.GET, ("no such key",)))
    driver = Driver.of(cache)
    monkeypatch.setattr(cache._workers, "timeout", 0.05)
    deadlines.clear()
    with pytest.raises(ServerBusy, match="time of this call was over"):
        run_to_end(begin(driver, "generation"))  # whose requests nobody answers
    assert len(deadlines) > 1
    assert set(deadlines) == {deadlines[0]}


def test_computation_has_a_deadline_before_and_one_after(
    cache: kvserve.Client, deadlines: list[float]
) -> None:
    def factory() -> int:
        before.extend(deadlines)
        deadlines.clear()
        return 1

    before: list[float] = []
    assert cache.get_or_set("key", factory) == 1
    assert (len(before), len(deadlines)) == (1, 2)
    assert len(set(deadlines)) == 1


def test_lock_that_no_worker_gives(make_server: StartServer) -> None:
    """The clients wait an hour for an answer; it is the lock's time that counts."""
    server = make_server("--workers", "1")
    with server.connect() as patient:
        patient.ping()

    async def main(client: kvserve.AsyncClient) -> None:
        with pytest.raises(ServerError):
            await client.lock("job", timeout=0.3).acquire()

    async def connected() -> None:
        async with await kvserve.connect_async(server.name, timeout=3600) as client:
            await client.ping()
            with stopped(server.worker_pids[0]):
                await main(client)

    with server.connect(timeout=3600) as cache:
        cache.ping()
        with stopped(server.worker_pids[0]), pytest.raises(ServerError):
            cache.lock("job", timeout=0.3).acquire()
        asyncio.run(connected())
        assert LOCK_KEY not in cache  # what was asked too late was not done

"""The rules of get_or_set that one process can show: what is stored, refused, cancelled."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Eventually
from support.crews import Journal, noting
from support.servers import Server

import kvserve
from kvserve.client._scopes import vouched
from kvserve.client.recipes import single_flight
from kvserve.client.recipes.claims import Claim, now_ms
from kvserve.client.recipes.driver import Driver, run_to_end
from kvserve.errors import (
    InvalidArgument,
    InvalidTTL,
    InvalidValue,
    MisuseError,
    ServerUnavailable,
)

LEASE_KEY = "kvserve:claim:key"


def test_value_that_came_between_the_look_and_the_lease_is_taken(
    served: Server, cache: kvserve.Client, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = cache.add

    def after_another(*arguments: Any) -> bool:
        with served.connect() as other:
            assert other.get_or_set("key", lambda: "first") == "first"
        return add(*arguments)

    monkeypatch.setattr(cache, "add", after_another)
    assert cache.get_or_set("key", noting(journal)) == "first"
    assert journal.lines == []
    assert LEASE_KEY not in cache


def test_none_is_a_value(cache: kvserve.Client, journal: Journal) -> None:
    for _ in range(2):
        assert cache.get_or_set("key", lambda: journal.write("computed"), ttl=60) is None
    assert journal.lines == ["computed"]


def test_value_is_stored_for_its_ttl_and_plain(cache: kvserve.Client) -> None:
    assert cache.get_or_set("key", lambda: {"a": (1, 2)}, ttl=60, stale=30) == {"a": (1, 2)}
    assert cache.get("key") == {"a": (1, 2)}
    assert 60 < (cache.ttl("key") or 0) <= 90
    cache.get_or_set("never", lambda: 1)
    assert cache.ttl("never") == float("inf")


def test_jitter_shortens_the_ttl(cache: kvserve.Client) -> None:
    lives = []
    for number in range(30):
        cache.get_or_set(f"key {number}", lambda: 1, ttl=1000, jitter=0.5)
        lives.append(cache.ttl(f"key {number}") or 0)
    assert all(400 < life <= 1000 for life in lives)
    assert max(lives) - min(lives) > 50  # thirty alike: once in 10^29


def test_factory_that_waits_for_itself_is_told_so(served: Server, cache: kvserve.Client) -> None:
    with pytest.raises(MisuseError, match="'key' waits for"):
        cache.get_or_set("key", lambda: cache.get_or_set(b"key", lambda: 1))
    with served.connect() as other, pytest.raises(MisuseError):
        cache.get_or_set("key", lambda: other.get_or_set("between", lambda: cache.get_or_set(
            "key", lambda: 1)))  # fmt: skip
    assert cache.get_or_set("key", lambda: cache.get_or_set("another", lambda: 2)) == 2
    assert list(cache.scan("kvserve:")) == []

    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=20) as client:

            async def inner() -> int:
                return await asyncio.create_task(client.get_or_set("own", inner))

            with pytest.raises(MisuseError):
                await client.get_or_set("own", inner)

    asyncio.run(main())


def test_computation_that_hangs_is_replaced_at_last(
    cache: kvserve.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits for itself where we cannot see it."""
    monkeypatch.setattr(single_flight, "_CLAIM_TTLS_MAX", 2)

    def factory() -> Any:
        with ThreadPoolExecutor() as threads:
            return threads.submit(cache.get_or_set, "key", lambda: "inner").result()

    assert cache.get_or_set("key", factory, claim_ttl=0.2) == "inner"


def test_claim_is_renewed_until_its_time_is_up(cache: kvserve.Client) -> None:
    driver = Driver.of(cache)
    claim = Claim("key", 60)
    assert run_to_end(claim.take(driver))
    assert cache.touch("key", 1)

    def keep(until_ms: float) -> tuple[bool, bool]:
        """Whether to come again, and whether it was renewed."""
        assert cache.touch("key", 1)
        return run_to_end(claim.keep(driver, until_ms)), (cache.ttl("key") or 0) > 1

    assert keep(math.inf) == (True, False)  # nobody vouches for it yet
    assert vouched(claim, lambda: keep(now_ms() - 1)) == (False, False)
    assert keep(math.inf) == (False, False)  # nor any more
    assert vouched(claim, lambda: [keep(math.inf) for _ in range(3)]) == [(True, True)] * 3
    run_to_end(claim.release(driver))
    assert "key" not in cache


def test_stale_value_is_there_for_a_factory_that_asks_for_it(
    cache: kvserve.Client, eventually: Eventually
) -> None:
    cache.get_or_set("key", lambda: 1, ttl=0.01, stale=60)
    eventually(lambda: (cache.ttl("key") or 0) <= 60)

    def factory() -> int:
        return int(cache.get_or_set("key", lambda: 100, ttl=60, stale=60)) + 1

    assert cache.get_or_set("key", factory, ttl=60, stale=60) == 2


def test_task_that_its_factory_began_may_ask_later(served: Server) -> None:
    async def main() -> Any:
        async with await kvserve.connect_async(served.name, timeout=20) as client:
            done = asyncio.Event()

            async def later() -> Any:
                await done.wait()
                await client.delete("key")
                return await client.get_or_set("key", lambda: "later")

            async def factory() -> str:
                tasks.append(asyncio.create_task(later()))
                return "first"

            tasks: list[asyncio.Task[Any]] = []
            first = await client.get_or_set("key", factory)
            done.set()
            return first, await tasks[0]

    assert asyncio.run(main()) == ("first", "later")


def test_cancelled_computer_gives_its_turn_up(served: Server, cache: kvserve.Client) -> None:
    async def main() -> Any:
        async with await kvserve.connect_async(served.name, timeout=20) as client:

            async def hang() -> None:
                computing.set()
                await asyncio.Event().wait()

            computing = asyncio.Event()
            computer = asyncio.create_task(client.get_or_set("key", hang, claim_ttl=3600))
            await computing.wait()
            waiter = asyncio.create_task(client.get_or_set("key", lambda: "next", claim_ttl=3600))
            given_up = asyncio.create_task(
                client.get_or_set("key", lambda: "never", claim_ttl=3600)
            )
            await asyncio.sleep(0.05)
            given_up.cancel()
            computer.cancel()
            outcomes = await asyncio.gather(computer, given_up, return_exceptions=True)
            return await waiter, [type(outcome) for outcome in outcomes]

    assert asyncio.run(main()) == ("next", [asyncio.CancelledError] * 2)
    assert LEASE_KEY not in cache


def test_what_cannot_be_stored_is_an_error_and_blocks_nobody(cache: kvserve.Client) -> None:
    with pytest.raises(InvalidValue):
        cache.get_or_set("key", object, claim_ttl=3600)
    assert cache.get_or_set("key", lambda: 1, claim_ttl=3600) == 1


def test_without_a_server_nothing_is_computed(server: Server, journal: Journal) -> None:
    with server.connect() as cache:
        cache.set("there", 1)
        server.stop()
        assert cache.get_or_set("there", noting(journal)) == 1  # from the kept table
        with pytest.raises(ServerUnavailable):
            cache.get_or_set("key", noting(journal))
    assert journal.lines == []


async def _coroutine() -> int:
    return 1


@pytest.mark.parametrize(
    ("factory", "how", "error"),
    [
        (_coroutine, {}, InvalidArgument),
        (int, {"ttl": 0}, InvalidTTL),
        (int, {"ttl": -1}, InvalidTTL),
        (int, {"ttl": 1, "stale": 0}, InvalidTTL),
        (int, {"ttl": 3e9, "stale": 3e9}, InvalidTTL),
        (int, {"stale": 1}, InvalidArgument),
        (int, {"ttl": float("inf"), "stale": 1}, InvalidArgument),
        (int, {"jitter": 0.1}, InvalidArgument),
        (int, {"ttl": 1, "jitter": 1}, InvalidArgument),
        (int, {"ttl": 1, "jitter": -0.1}, InvalidArgument),
        (int, {"ttl": 1, "jitter": True}, InvalidArgument),
        (int, {"claim_ttl": None}, InvalidArgument),
        (int, {"claim_ttl": 0}, InvalidTTL),
        (int, {"claim_ttl": float("inf")}, InvalidArgument),
    ],
)
def test_bad_arguments(cache: kvserve.Client, factory: Any, how: Any, error: Any) -> None:
    with pytest.raises(error):
        cache.get_or_set("key", factory, **how)
    assert list(cache.scan()) == []

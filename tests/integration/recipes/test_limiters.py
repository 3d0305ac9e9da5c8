"""Limiters in real processes: exactly the rate, at the windows' edges too."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from support.crews import KINDS, TIMEOUT, together
from support.servers import Server, StartServer

import kvserve
from kvserve.client.recipes.limiters import Sliding, Usage
from kvserve.errors import InvalidArgument, InvalidTTL, NotACounter

WINDOWS = 6
SLIDING: tuple[Sliding, ...] = (False, True, "counter")
TICK = 0.001  # seconds: the table's clock counts whole milliseconds


@pytest.mark.parametrize("sliding", SLIDING)
@pytest.mark.parametrize("kind", KINDS)
def test_four_processes_are_admitted_exactly_the_rate(
    kind: str, sliding: Sliding, served: Server
) -> None:
    async def main() -> list[Any]:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as cache:
            limiter = cache.limiter("api", rate=50, per=3600, sliding=sliding)
            return await asyncio.gather(*[limiter.hit("everybody") for _ in range(40)])

    def work(_: int) -> list[Any]:
        if kind == "asyncio":
            return asyncio.run(main())
        with served.connect(timeout=TIMEOUT) as cache:
            limiter = cache.limiter("api", rate=50, per=3600, sliding=sliding)
            return [limiter.hit("everybody") for _ in range(40)]

    hits = [hit for hits in together(4, work) for hit in hits]
    admitted = [hit for hit in hits if hit]
    assert sorted(hit.remaining for hit in admitted) == list(range(50))
    assert {hit.retry_after for hit in admitted} == {0.0}
    refused = [hit for hit in hits if not hit]
    assert len(refused) == 4 * 40 - 50
    window = 7200 if sliding == "counter" else 3600
    assert all(0 < hit.retry_after <= window and hit.remaining == 0 for hit in refused)


Sent = tuple[float, float, Any]  # when a hit was sent, when it was answered, and the answer


def hammer(name: str, rate: int, per: float, *, sliding: bool) -> list[Sent]:
    """Hits as fast as it goes, until it was refused in several windows."""
    with kvserve.connect(name, timeout=TIMEOUT) as cache:
        limiter = cache.limiter("edges", rate=rate, per=per, sliding=sliding)
        hits: list[Sent] = []
        windows, end = 0, 0.0
        while windows < WINDOWS:
            sent, hit, answered = time.monotonic(), limiter.hit("everybody"), time.monotonic()
            hits.append((sent, answered, hit))
            if not hit and sent > end:
                windows, end = windows + 1, answered + hit.retry_after + TICK
        return hits


def fewest_points(intervals: list[tuple[float, float]]) -> int:
    """How many moments it takes at least so that each interval has one of them."""
    points, last = 0, float("-inf")
    for begin, end in sorted(intervals, key=lambda interval: interval[1]):
        if begin > last:
            points, last = points + 1, end
    return points


@pytest.mark.parametrize("sliding", [False, True])
def test_windows_hold_at_their_edges(sliding: bool, served: Server) -> None:
    rate, per = 7, 0.25
    crew = together(4, lambda _: hammer(served.name, rate, per, sliding=sliding))
    admitted = [each for hits in crew for each in hits if each[2]]
    refused = [each for hits in crew for each in hits if not each[2]]
    if not sliding:
        # Each window admits one hit with each number left, and refuses others only after the last.
        counts = Counter(hit.remaining for _, _, hit in admitted)
        per_number = [counts.pop(remaining) for remaining in reversed(range(rate))]
        assert not counts
        assert per_number == sorted(per_number, reverse=True)
        # A refusal tells its window's end, within the time that it took.
        ends = [
            (sent + hit.retry_after - TICK, answered + hit.retry_after + TICK)
            for sent, answered, hit in refused
        ]
        assert fewest_points(ends) <= per_number[-1]
        # Of fixed windows only the beginnings are compared.
        admitted = [each for each in admitted if each[2].remaining == rate - 1]
    # The n-th hit was decided after the n-th smallest time of sending and before the n-th smallest
    # time of an answer, so these are apart by no less than the decisions were.
    sent = sorted(before for before, _, _ in admitted)
    answered = sorted(after for _, after, _ in admitted)
    apart = rate if sliding else 1
    assert len(admitted) > apart
    for first in range(len(admitted) - apart):
        assert answered[first + apart] - sent[first] >= per - TICK


@pytest.mark.parametrize("sliding", SLIDING)
def test_retry_after_is_the_truth(sliding: Sliding, cache: kvserve.Client) -> None:
    limiter = cache.limiter("api", rate=3, per=1.0, sliding=sliding)
    hits = []
    while not hits or hits[-1]:  # more than four where it takes longer than the window
        hits.append(limiter.hit("me"))
    refused = hits[-1]
    assert len(hits) > 3
    assert 0 < refused.retry_after <= (2.0 if sliding == "counter" else 1.0)
    time.sleep(refused.retry_after + TICK)
    assert limiter.hit("me")


@pytest.mark.parametrize("sliding", SLIDING)
def test_cost_counts_wholly_or_not_at_all(sliding: Sliding, cache: kvserve.Client) -> None:
    limiter = cache.limiter("api", rate=10, per=timedelta(hours=1), sliding=sliding)
    assert limiter.hit("me", cost=7).remaining == 3
    refused = limiter.hit("me", cost=4)
    assert (refused.allowed, refused.remaining) == (False, 3)
    assert limiter.hit("me", cost=3).remaining == 0


def test_each_id_limiter_and_namespace_has_its_own(cache: kvserve.Client) -> None:
    eu = cache.namespace("eu")
    limiters = [
        cache.limiter("a", rate=1, per=60),
        cache.limiter("a", rate=1, per=60, sliding=True),
        cache.limiter("a", rate=1, per=60, sliding="counter"),
        cache.limiter("a:b", rate=1, per=60),
        cache.limiter("eu:a", rate=1, per=60),
        eu.limiter("a", rate=1, per=60),
        eu.namespace("a").limiter("a", rate=1, per=60),
        cache.namespace("a").limiter("eu", rate=1, per=60),
    ]
    for limiter in limiters:
        assert [bool(limiter.hit(who)) for who in ("b", "b:c", 7, "\u00e9", "x" * 2000)] == [
            True
        ] * 5
    assert not any(limiter.hit(who) for limiter in limiters for who in ("b", 7, "x" * 2000))
    assert list(eu.scan()) == []  # a limiter's state is none of its keys


@pytest.mark.parametrize("sliding", SLIDING)
def test_count_survives_the_worker(sliding: Sliding, server: Server) -> None:
    with server.connect(timeout=TIMEOUT) as cache:
        limiter = cache.limiter("api", rate=2, per=3600, sliding=sliding)
        assert limiter.hit("me")
        for pid in server.worker_pids:
            os.kill(pid, signal.SIGKILL)
        cache.ping()
        assert [bool(limiter.hit("me")) for _ in range(2)] == [True, False]


def test_counter_with_a_ttl_is_a_fixed_window(cache: kvserve.Client) -> None:
    """What the limiter is made of, for those who want to count without a limit."""
    assert [cache.incr("requests", ttl=60) for _ in range(3)] == [1, 2, 3]
    assert 50 < (cache.ttl("requests") or 0) <= 60
    limiter = cache.limiter("api", rate=5, per=60)
    limiter.hit("me", cost=3)
    assert cache.get("kvserve:fixed:api:me") == 3


def test_what_is_no_limiters_state_is_said(cache: kvserve.Client) -> None:
    cache.set("kvserve:fixed:api:me", "text")
    cache.set("kvserve:sliding:api:me", b"seven b")
    cache.set("kvserve:sliding-counter:api:me", b"sixteen sixteen!")
    for sliding in SLIDING:
        limiter = cache.limiter("api", rate=1, per=1, sliding=sliding)
        for cost in (1, 2):
            with pytest.raises(NotACounter):
                limiter.hit("me", cost)
        with pytest.raises(NotACounter):
            limiter.peek("me")
        assert limiter.reset("me")
        assert limiter.hit("me")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": ""}, InvalidArgument),
        ({"rate": 0}, InvalidArgument),
        ({"rate": 1.5}, InvalidArgument),
        ({"rate": 10_001, "sliding": "log"}, InvalidArgument),
        ({"rate": 2**63, "sliding": True}, InvalidArgument),
        ({"rate": 0, "sliding": "counter"}, InvalidArgument),
        ({"sliding": "sliding"}, InvalidArgument),
        ({"sliding": 1}, InvalidArgument),
        ({"sliding": None}, InvalidArgument),
        ({"per": None}, InvalidArgument),
        ({"per": 0}, InvalidTTL),
    ],
)
def test_bad_limiters(cache: kvserve.Client, arguments: Any, error: Any) -> None:
    with pytest.raises(error):
        cache.limiter(**{"name": "api", "rate": 1, "per": 1} | arguments)


@pytest.mark.parametrize(
    ("who", "cost"), [("", 1), (None, 1), (b"me", 1), (True, 1), ("me", 0), ("me", -1), ("me", 1.0)]
)
def test_bad_hits(cache: kvserve.Client, who: Any, cost: Any) -> None:
    with pytest.raises(InvalidArgument):
        cache.limiter("api", rate=2, per=60).hit(who, cost)
    if who != "me":
        for method in ("peek", "reset"):
            with pytest.raises(InvalidArgument):
                getattr(cache.limiter("api", rate=2, per=60), method)(who)
    assert list(cache.scan()) == []


@pytest.fixture(scope="module")
def others(
    make_module_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Server]:
    """A server with trusted writers, and one with a store behind it."""
    path = tmp_path_factory.mktemp("store") / "cache.db"
    return {
        "direct": make_module_server("--writers", "8"),
        "worker": make_module_server("--store", f"sqlite:///{path}"),
    }


async def told(limiter: Any, kind: str) -> list[Any]:
    """What a limiter of 5 hits an hour says, one thing after the other."""

    async def call(name: str, *args: Any) -> Any:
        answer = getattr(limiter, name)(*args)
        return await answer if kind == "asyncio" else answer

    return [
        await call("peek", "me"),
        await call("reset", "me"),
        await call("hit", "me", 6),
        await call("hit", "me", 10**30),
        await call("hit", "me", 3),
        await call("hit", "me", 3),
        await call("hit", "me", 6),
        await call("peek", "me"),
        await call("peek", "you"),
        await call("hit", "me", 2),
        await call("peek", "me"),
        await call("reset", "me"),
        await call("peek", "me"),
        await call("hit", "me", 5),
    ]


@pytest.mark.parametrize("sliding", SLIDING)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("write", ["direct", "worker"])
@pytest.mark.parametrize("namespace", [(), ("eu",), ("eu", "fr")])
def test_look_reset_and_what_costs_too_much(
    others: dict[str, Server], write: Any, kind: str, sliding: Sliding, namespace: tuple[str, ...]
) -> None:
    server = others[write]

    def limiter(cache: Any) -> Any:
        for name in namespace:
            cache = cache.namespace(name)
        return cache.limiter("api", rate=5, per=3600, sliding=sliding)

    async def main() -> list[Any]:
        if kind == "blocking":
            with server.connect(timeout=TIMEOUT, write=write) as cache:
                cache.flush()
                return await told(limiter(cache), kind)
        async with await kvserve.connect_async(server.name, timeout=TIMEOUT, write=write) as client:
            await client.flush()
            return await told(limiter(client), kind)

    (
        nothing, nothing_forgotten, too_much, far_too_much, three, three_more, six,
        three_used, another, two_more, five_used, forgotten, nothing_again, five,
    ) = asyncio.run(main())  # fmt: skip
    assert nothing == another == nothing_again == Usage(0, 5, 0.0, 0.0, 0, 0)
    assert nothing_forgotten is False
    assert forgotten is True
    for hit, remaining in ((too_much, 5), (far_too_much, 5), (six, 2)):
        assert (hit.allowed, hit.remaining, hit.retry_after) == (False, remaining, math.inf)
    assert (three.allowed, three.remaining) == (True, 2)
    assert (three_more.allowed, three_more.remaining) == (False, 2)
    assert 0 < three_more.retry_after <= 7200
    assert (two_more.allowed, two_more.remaining) == (True, 0)
    assert (five.allowed, five.remaining) == (True, 0)
    for usage, used in ((three_used, 3), (five_used, 5)):
        assert (usage.used, usage.current, usage.previous) == (used, used, 0)
        assert usage.remaining == 5 - used
        assert bool(usage) is (used < 5)
        assert 0 <= usage.age < 600
        windows = 2 if sliding == "counter" else 1
        assert windows * 3600 - 600 < usage.reset_after <= windows * 3600


def test_usage_tells_when_it_ends(cache: kvserve.Client) -> None:
    for sliding in SLIDING:
        limiter = cache.limiter("api", rate=100, per=0.2, sliding=sliding)
        limiter.hit("me", cost=100)
        usage = limiter.peek("me")
        time.sleep(usage.reset_after + TICK)
        assert limiter.peek("me") == Usage(0, 100, 0.0, 0.0, 0, 0)
        assert limiter.hit("me", cost=100)


def test_window_before_is_told(cache: kvserve.Client) -> None:
    limiter = cache.limiter("api", rate=1000, per=0.5, sliding="counter")
    while True:
        limiter.hit("me", cost=1000)
        usage = limiter.peek("me")
        time.sleep(max(0.0, 0.5 - usage.age + 0.1))
        usage = limiter.peek("me")
        if usage.previous:  # else it took longer than a window
            break
    assert (usage.current, usage.previous) == (0, 1000)
    assert 0 < usage.age < 0.5
    assert usage.used == math.floor(1000 * (0.5 - usage.age) / 0.5 + 1e-6)
    assert usage.remaining == 1000 - usage.used
    assert abs(usage.age + usage.reset_after - 0.5) < 1e-6


def test_beyond_the_longest_log_a_window_that_slides_is_a_counter(cache: kvserve.Client) -> None:
    limiter = cache.limiter("api", rate=10_001, per=3600, sliding=True)
    assert limiter.hit("me", cost=10_001).remaining == 0
    assert not limiter.hit("me")
    assert len(cache.get("kvserve:sliding-counter:api:me")) == 24
    assert cache.limiter("api", rate=10_000, per=3600, sliding=True).hit("me", cost=10_000)
    assert len(cache.get("kvserve:sliding:api:me")) == 80_000


@pytest.mark.parametrize("kind", KINDS)
def test_clearing_a_namespace_forgives(kind: str, served: Server, cache: kvserve.Client) -> None:
    """All hits of its own limiters and of those in it, of no others; no lock is released."""

    def limiters(cache: Any) -> list[Any]:
        eu = cache.namespace("eu")
        spaces = (eu, eu.namespace("fr"), cache, cache.namespace("us"))
        return [
            each.limiter("a", rate=1, per=60, sliding=sliding)
            for each in spaces
            for sliding in SLIDING
        ]

    async def main() -> list[bool]:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:
            assert [bool(await limiter.hit("me")) for limiter in limiters(client)] == [False] * 12
            await client.namespace("eu").clear()
            return [bool(await limiter.hit("me")) for limiter in limiters(client)]

    with cache.namespace("eu").lock("job", ttl=60) as lock:
        assert all(limiter.hit("me") for limiter in limiters(cache))
        assert len(list(cache.scan("kvserve:fixed:eu"))) == 2
        if kind == "blocking":
            assert not any(limiter.hit("me") for limiter in limiters(cache))
            cache.namespace("eu").clear()
            assert list(cache.scan("kvserve:fixed:eu")) == []  # what was cleared is not listed
            forgiven = [bool(limiter.hit("me")) for limiter in limiters(cache)]
        else:
            forgiven = asyncio.run(main())
        assert forgiven == [True] * 6 + [False] * 6
        assert lock.locked()
        assert not cache.namespace("eu").lock("job").acquire(blocking=False)
    assert list(cache.namespace("eu").scan()) == []

"""Limiters in real processes: exactly the rate, at the windows' edges too."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from support.crews import KINDS, TIMEOUT, together
from support.servers import Server

import kvserve
from kvserve.errors import InvalidArgument, InvalidTTL, NotACounter

WINDOWS = 6
TICK = 0.001  # seconds: the table's clock counts whole milliseconds


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_four_processes_are_admitted_exactly_the_rate(
    kind: str, sliding: bool, served: Server
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
    assert all(0 < hit.retry_after <= 3600 and hit.remaining == 0 for hit in refused)


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


@pytest.mark.parametrize("sliding", [False, True])
def test_retry_after_is_the_truth(sliding: bool, cache: kvserve.Client) -> None:
    limiter = cache.limiter("api", rate=3, per=1.0, sliding=sliding)
    hits = []
    while not hits or hits[-1]:  # more than four where it takes longer than the window
        hits.append(limiter.hit("me"))
    refused = hits[-1]
    assert len(hits) > 3
    assert 0 < refused.retry_after <= 1.0
    time.sleep(refused.retry_after + TICK)
    assert limiter.hit("me")


@pytest.mark.parametrize("sliding", [False, True])
def test_cost_counts_wholly_or_not_at_all(sliding: bool, cache: kvserve.Client) -> None:
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
        cache.limiter("a:b", rate=1, per=60),
        cache.limiter("eu:a", rate=1, per=60),
        eu.limiter("a", rate=1, per=60),
    ]
    for limiter in limiters:
        assert [bool(limiter.hit(who)) for who in ("b", "b:c", 7, "\u00e9", "x" * 2000)] == [
            True
        ] * 5
    eu.clear()  # what was admitted stays counted
    assert not any(limiter.hit(who) for limiter in limiters for who in ("b", 7, "x" * 2000))


@pytest.mark.parametrize("sliding", [False, True])
def test_count_survives_the_worker(sliding: bool, server: Server) -> None:
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
    for sliding in (False, True):
        with pytest.raises(NotACounter):
            cache.limiter("api", rate=1, per=1, sliding=sliding).hit("me")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": ""}, InvalidArgument),
        ({"rate": 0}, InvalidArgument),
        ({"rate": 1.5}, InvalidArgument),
        ({"rate": 10_001, "sliding": True}, InvalidArgument),
        ({"per": None}, InvalidArgument),
        ({"per": 0}, InvalidTTL),
    ],
)
def test_bad_limiters(cache: kvserve.Client, arguments: Any, error: Any) -> None:
    with pytest.raises(error):
        cache.limiter(**{"name": "api", "rate": 1, "per": 1} | arguments)


@pytest.mark.parametrize(
    ("who", "cost"), [("", 1), (None, 1), (b"me", 1), (True, 1), ("me", 0), ("me", 3), ("me", 1.0)]
)
def test_bad_hits(cache: kvserve.Client, who: Any, cost: Any) -> None:
    with pytest.raises(InvalidArgument):
        cache.limiter("api", rate=2, per=60).hit(who, cost)
    assert list(cache.scan()) == []

"""Pipelines: many operations in one frame, each answered as if it had come alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support import ways

from kvserve.errors import InvalidArgument, InvalidKey, InvalidTTL, InvalidValue

pytestmark = pytest.mark.ways(*ways.SERVED, *ways.NAMESPACES)


def test_answers_come_in_the_order_of_the_operations(cache: Any) -> None:
    cache.set("old", 5)
    with cache.pipeline() as pipeline:
        pipeline.set("new", "value")
        pipeline.get("new")
        pipeline.add("new", 1)
        pipeline.add("added", 1)
        pipeline.replace("absent", 1)
        pipeline.incr("old", 2)
        pipeline.decr("counter", 3, initial=10)
        pipeline.ttl("old")
        pipeline.touch("old", 60)
        pipeline.delete("added")
        pipeline.delete("added")
        pipeline.get("added", "default")
    version, *rest = pipeline.results
    assert version == cache.gets("new")[1]
    assert rest == ["value", False, True, False, 7, 7, math.inf, True, True, False, "default"]


def test_conditions(cache: Any, key: str) -> None:
    version = cache.set(key, 1)
    with cache.pipeline() as pipeline:
        pipeline.gets(key)
        pipeline.cas(key, 2, version)
        pipeline.cas(key, 3, version)
        pipeline.delete(key, version)
        pipeline.gets("absent")
    assert pipeline.results == [(1, version), True, False, False, (None, None)]
    assert cache.get(key) == 2


def test_nothing_happens_before_the_end(cache: Any, key: str) -> None:
    with cache.pipeline() as pipeline:
        pipeline.set(key, 1)
        assert cache.get(key) is None
    assert cache.get(key) == 1


def test_nothing_happens_after_an_exception(cache: Any, key: str) -> None:
    def fail() -> None:
        with cache.pipeline() as pipeline:
            pipeline.set(key, 1)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert cache.get(key) is None


def test_empty(cache: Any) -> None:
    with cache.pipeline() as pipeline:
        pass
    assert pipeline.results == []


def test_operations_on_one_key_keep_their_order(cache: Any, key: str) -> None:
    with cache.pipeline() as pipeline:
        for number in range(1000):
            pipeline.set(key, number)
            pipeline.incr(key)
            pipeline.get(key)
    assert pipeline.results[1::3] == pipeline.results[2::3] == list(range(1, 1001))
    assert cache.get(key) == 1000


def test_over_many_keys_and_workers(cache: Any) -> None:
    with cache.pipeline() as pipeline:
        for number in range(3000):
            pipeline.set(f"key {number}", number)
        for number in range(3000):
            pipeline.get(f"key {number}")
    assert pipeline.results[3000:] == list(range(3000))


def test_large_values(cache: Any) -> None:
    with cache.pipeline() as pipeline:
        for number in range(30):
            pipeline.set(f"key {number}", bytes([number]) * 300_000)
        for number in range(30):
            pipeline.get(f"key {number}")
    assert pipeline.results[30:] == [bytes([number]) * 300_000 for number in range(30)]


def test_wrong_operation_is_refused_where_it_stands(cache: Any, key: str) -> None:
    """The line that is wrong raises, not the end of the block, and is not among those sent."""
    with cache.pipeline() as pipeline:
        with pytest.raises(InvalidKey):
            pipeline.set("", 1)
        with pytest.raises(InvalidValue):
            pipeline.set(key, object())
        with pytest.raises(InvalidTTL):
            pipeline.set(key, 1, ttl=-1)
        with pytest.raises(InvalidArgument):
            pipeline.incr(key, 1.5)
        pipeline.get(key)
    assert pipeline.results == [None]
    assert list(cache.scan()) == []

"""connect(long_keys="hash", too_large="remove", lifetimes="lenient"): what does not fit is taken.

Whichever way it comes, and in namespaces with rules of their own.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from support import ways
from support.servers import Server

import kvserve
from kvserve.client.calls.rules import fitting
from kvserve.errors import (
    InvalidArgument,
    InvalidKey,
    InvalidTTL,
    InvalidValue,
    KvserveError,
    ValueTooLarge,
)
from kvserve.limits import TTL_MS_MAX

EVERYWHERE = (*ways.SERVED, *ways.NAMESPACES)
LENIENT = {"long_keys": "hash", "too_large": "remove", "lifetimes": "lenient"}
LARGE = bytes(2**20 + 1)
LONG = ["x" * 1025, "y" * 100_000, "é" * 600, b"\xff" * 2000, "a\ud800b", "\udfff", "x" * 1024]
CENTURY = TTL_MS_MAX / 1000
OVER = [0, -1, -0.5, datetime.timedelta(0), datetime.timedelta(days=-3), -math.inf]
FOR_EVER = [CENTURY + 1, 1e300, math.inf, 10**400, datetime.timedelta(days=40_000)]


@pytest.fixture(scope="module")
def opened(way: str, served: Server) -> Iterator[Any]:
    """A client that takes what does not fit."""
    cache = ways.connect(way, served.name, **LENIENT)
    yield cache
    cache.close()


@pytest.mark.ways(*EVERYWHERE)
@pytest.mark.parametrize("key", LONG, ids=lambda key: ascii(key[:3]))
def test_a_key_of_any_length(cache: Any, key: Any) -> None:
    assert cache.get(key) is None
    version = cache.set(key, "a", 100)
    assert (cache.get(key), cache.gets(key), cache.get_many([key])) == (
        "a",
        ("a", version),
        {key: "a"},
    )
    assert cache.get_record(key)[::2] == ("a", version)
    assert 98 < cache.ttl(key) <= 100
    assert key in cache
    assert cache.add(key, 1) is False
    assert cache.touch(key, 50) is True
    assert cache.cas(key, "b", version, keep_ttl=True) is True
    assert cache.replace(key, 5) is True
    assert (cache.incr(key), cache.decr(key, 2)) == (6, 4)
    assert cache.update(key, lambda had: had + 1) == 5
    assert cache.expire_at(key, 2**33) is True
    with cache.pipeline() as p:
        p.get(key).set(key, 7).incr(key).delete(key).get(key, "gone")
    assert (p.results[0], *p.results[2:]) == (5, 8, True, "gone")
    cache.set_many({key: 1, "short": 2})
    assert cache.get_many(["short", key, "none"]) == {key: 1, "short": 2}
    assert cache.delete(key) is True
    cache.set_many({key: 1})
    assert cache.delete_many([key, "short"]) == 2
    assert cache.get(key) is None


@pytest.mark.ways(*EVERYWHERE)
def test_different_long_keys_stay_different(cache: Any) -> None:
    keys = ["x" * 1500 + str(n) for n in range(50)] + [b"\xff" * 1300, b"\xff" * 1301]
    cache.set_many({key: n for n, key in enumerate(keys)})
    assert cache.get_many(keys) == {key: n for n, key in enumerate(keys)}
    found = list(cache.scan("xxx"))
    assert len(found) == 50
    for key in found:
        assert re.fullmatch("x+#+[0-9a-f]{64}", key)
        assert cache.get(key) in range(50)
        assert cache.get(str(key)[:1] + str(key)[1:]) is None  # no name for what it stands for
    assert cache.delete_prefix("xxx") == 50


@pytest.mark.ways("direct", "async", "writer")
def test_recipes_take_long_keys(cache: Any) -> None:
    key = "k" * 3000
    assert cache.get_or_set(key, lambda: 5) == 5
    assert cache.get(key) == 5
    ns = cache.namespace("eu")
    assert ns.get_or_set(key, lambda: 6) == 6
    assert [ns.get(each) for each in ns.scan("kkk")] == [6]
    assert ns.get(key) == 6
    assert ns.update(key, lambda had: had + 1) == 7
    assert len(next(iter(ns.scan("kkk")))) > 900


@pytest.mark.ways(*EVERYWHERE)
def test_what_is_no_key_at_all(cache: Any) -> None:
    for key in ("", b"", 7, None, ("a",)):
        for call in (
            lambda key=key: cache.get(key),
            lambda key=key: cache.set(key, 1),
            lambda key=key: cache.get_many([key]),
            lambda key=key: cache.delete(key),
            lambda key=key: cache.pipeline().get(key),
        ):
            with pytest.raises(InvalidKey):
                call()


def test_a_key_of_the_form_of_a_replaced_one_is_replaced() -> None:
    assert fitting(fitting("x" * 2000)) == fitting("x" * 2000)
    for before in (0, 30):
        for key in ("x" * 2000, b"x" * 2000, "é" * 2000, "\ud800"):
            replaced = fitting(key, before)
            raw = replaced.encode() if isinstance(replaced, str) else replaced
            assert len(raw) == 1024 - before - (before > 0)
            assert fitting(bytes(bytearray(raw)), before) != raw
            assert isinstance(replaced, type(key))
    assert fitting("é" * 2000) == fitting(("é" * 2000).encode()).decode()
    assert fitting("x" * 994, 30) == "x" * 994
    assert fitting("x" * 995, 30) != "x" * 995


@pytest.mark.ways(*EVERYWHERE)
def test_a_value_too_large_removes_the_old_one(cache: Any, key: str) -> None:
    cache.set(key, "old")
    with pytest.raises(ValueTooLarge):
        cache.set(key, LARGE)
    assert cache.get(key) is None
    cache.set(key, "old")
    for call in (
        lambda: cache.add(key, LARGE),
        lambda: cache.replace(key, LARGE),
        lambda: cache.cas(key, LARGE, cache.gets(key)[1]),
        lambda: cache.update(key, lambda _: LARGE),
    ):
        with pytest.raises(ValueTooLarge):
            call()
        assert cache.get(key) == "old"
    p = cache.pipeline()
    p.set("a", 1).set(key, LARGE).get("a")
    with pytest.raises(ValueTooLarge):
        executed(p)
    assert cache.get_many(["a", key]) == {"a": 1}


def executed(pipeline: Any) -> Any:
    """The results of a pipeline, whichever way it goes."""
    inner = getattr(pipeline, "_pipeline", None)
    return pipeline._over.run(inner.execute()) if inner is not None else pipeline.execute()


@pytest.mark.ways(*EVERYWHERE)
def test_set_many_removes_what_is_too_large_alone(cache: Any) -> None:
    cache.set_many({"a": 1, "b": 2, "c": 3})
    with pytest.raises(ValueTooLarge) as caught:
        cache.set_many({"a": 5, "b": LARGE, "new": 5, "c": LARGE})
    assert caught.value.key == "b"
    assert caught.value.failed == ["a", "b", "new", "c"]
    assert "'b'" in str(caught.value)
    assert cache.get_many(["a", "b", "c", "new"]) == {"a": 1}


@pytest.mark.ways(*EVERYWHERE)
@pytest.mark.parametrize("ttl", OVER, ids=repr)
def test_a_lifetime_that_is_over(cache: Any, key: str, ttl: Any) -> None:
    assert cache.add(key, 1, ttl) is True
    assert key not in cache
    for how in ("set", "replace", "touch", "cas", "set_many", "update", "pipeline"):
        version = cache.set(key, 1)
        assert cache.add(key, 2, ttl) is False
        assert cache.get(key) == 1
        if how == "set":
            assert cache.set(key, 2, ttl) == 0
        elif how == "replace":
            assert cache.replace(key, 2, ttl) is True
        elif how == "touch":
            assert cache.touch(key, ttl) is True
        elif how == "cas":
            assert cache.cas(key, 2, version + 1, ttl) is False
            assert cache.cas(key, 2, version, ttl) is True
        elif how == "set_many":
            cache.set_many({key: 1, "other": 1}, ttl)
        elif how == "update":
            assert cache.update(key, lambda had: had + 1, ttl=ttl) == 2
        else:
            with cache.pipeline() as p:
                p.set(key, 2, ttl).replace(key, 3, ttl).touch(key, ttl).add(key, 4, ttl)
            assert p.results == [0, False, False, True]
        assert cache.get(key, "gone") == "gone", how
        assert cache.replace(key, 1, ttl) is False
        assert cache.touch(key, ttl) is False
    with pytest.raises(InvalidTTL):
        cache.incr(key, ttl=ttl)
    with pytest.raises(InvalidValue):
        cache.set(key, object(), ttl)


@pytest.mark.ways(*EVERYWHERE)
@pytest.mark.parametrize("ttl", FOR_EVER, ids=lambda ttl: repr(ttl)[:12])
def test_a_lifetime_beyond_a_century_is_for_ever(cache: Any, key: str, ttl: Any) -> None:
    calls = [
        lambda: cache.set(key, 1, ttl),
        lambda: cache.replace(key, 1, ttl),
        lambda: cache.cas(key, 1, cache.gets(key)[1], ttl),
        lambda: cache.touch(key, ttl),
        lambda: cache.set_many({key: 1}, ttl),
        lambda: cache.delete(key) and cache.add(key, 1, ttl),
        lambda: cache.delete(key) and cache.incr(key, ttl=ttl),
    ]
    cache.set(key, 1)
    for call in calls:
        cache.touch(key, 5)
        call()
        assert cache.ttl(key) == math.inf


@pytest.mark.ways(*EVERYWHERE)
def test_what_is_no_lifetime(cache: Any, key: str) -> None:
    for ttl in (math.nan, True, "5", [5]):
        for call in (lambda ttl=ttl: cache.set(key, 1, ttl), lambda ttl=ttl: cache.touch(key, ttl)):
            with pytest.raises(InvalidTTL):
                call()
    assert key not in cache
    cache.set(key, 1, 5)
    cache.set(key, 1, None)
    assert cache.ttl(key) == math.inf
    cache.set(key, 1, 5)
    assert 4 < cache.ttl(key) <= 5


@pytest.mark.parametrize("way", ["direct", "writer", "async", "async-writer"])
def test_a_namespace_has_rules_of_its_own(way: str, served: Server) -> None:
    cache = ways.connect(way, served.name)
    try:
        cache.flush()
        lenient = cache.namespace("l", **LENIENT) if way in ways.CLIENTS else over(cache, **LENIENT)
        inner = lenient.namespace("inner")
        for each in (lenient, inner):
            each.set("k" * 5000, 1)
            assert each.get("k" * 5000) == 1
            each.set("a", 1)
            with pytest.raises(ValueTooLarge):
                each.set("a", LARGE)
            assert "a" not in each
            assert each.set("a", 1, 0) == 0
            assert each.add("a", 1, -5) is True
            assert each.add("a", 1, 1e20) is True
            assert each.touch("a", 0) is True
            assert "a" not in each
            each.set_many({"a": 1, "n" * 2000: 2}, 10**12)
            assert each.get_many(["a", "n" * 2000]) == {"a": 1, "n" * 2000: 2}
            assert each.ttl("a") == math.inf
            with each.pipeline() as p:
                p.set("p" * 5000, 1).get("p" * 5000).touch("a", 0)
            assert p.results[1:] == [1, True]
        cache.set("a", 1)
        for call in (lambda: cache.set("a", 1, 0), lambda: cache.touch("a", 1e20)):
            with pytest.raises(InvalidTTL):
                call()
        with pytest.raises(ValueTooLarge):
            cache.set("a", LARGE)
        with pytest.raises(InvalidKey):
            cache.set("k" * 5000, 1)
        assert cache.get("a") == 1
    finally:
        cache.close()


def over(cache: Any, **rules: Any) -> Any:
    """A namespace of an asyncio client."""
    return ways.OverAsync(cache._client.namespace("l", **rules), cache._loop)


@pytest.mark.parametrize("way", ["direct", "writer"])
def test_a_strict_namespace_of_a_lenient_client(way: str, served: Server) -> None:
    with ways.connect(way, served.name, **LENIENT) as cache:
        strict = cache.namespace("strict", long_keys="refuse", too_large="keep", lifetimes="strict")
        strict.set("a", 1)
        with pytest.raises(InvalidTTL):
            strict.set("a", 1, 0)
        with pytest.raises(ValueTooLarge):
            strict.set("a", LARGE)
        with pytest.raises(InvalidKey):
            strict.set("k" * 1000, 1)
        assert strict.get("a") == 1


@pytest.mark.parametrize("wrong", [{"long_keys": "cut"}, {"too_large": 1}, {"lifetimes": None}])
def test_what_is_no_rule(served: Server, wrong: Any) -> None:
    with pytest.raises(InvalidArgument):
        kvserve.connect(served.name, **wrong)
    if None not in wrong.values():
        with served.connect() as cache, pytest.raises(InvalidArgument):
            cache.namespace("a", **wrong)


def test_lifetime_as_frameworks_mean_it() -> None:
    for zero, expected in (("never", math.inf), ("now", kvserve.DO_NOT_KEEP)):
        assert kvserve.lifetime(0, zero=zero) == expected
        assert kvserve.lifetime(datetime.timedelta(0), zero=zero) == expected
        assert kvserve.lifetime(-1, zero=zero) == kvserve.DO_NOT_KEEP
        assert kvserve.lifetime(None, zero=zero) == math.inf
        assert kvserve.lifetime(CENTURY * 2, zero=zero) == math.inf
        assert kvserve.lifetime(2.5, zero=zero) == 2.5
        assert kvserve.lifetime(datetime.timedelta(minutes=1), zero=zero) == 60
        for bad in (math.nan, True, "5"):
            with pytest.raises(InvalidTTL):
                kvserve.lifetime(bad, zero=zero)
    with pytest.raises(InvalidArgument):
        kvserve.lifetime(0, zero="later")


@pytest.mark.parametrize("way", EVERYWHERE)
def test_set_many_names_what_failed(way: str, served: Server) -> None:
    cache = ways.connect(way, served.name)
    try:
        cache.set_many({"a": 1, "b": 1})
        for bad_key, bad, kind in (
            ("b", object(), InvalidValue),
            ("b", LARGE, ValueTooLarge),
            ("k" * 1025, 1, InvalidKey),
            ("", 1, InvalidKey),
        ):
            with pytest.raises(kind) as caught:
                cache.set_many({"a": 2, bad_key: bad, "c": 2})
            error: KvserveError = caught.value
            assert error.key == bad_key
            assert error.failed == ["a", bad_key, "c"]
        with pytest.raises(InvalidTTL) as other:
            cache.set_many({"a": 2}, 0)
        assert (other.value.key, other.value.failed) == (None, ["a"])
        assert cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 1}
    finally:
        cache.close()

"""cachelib's cache over kvserve, and Flask-Caching and Flask-Session, which are built on it."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Eventually, NewNames
from support.servers import Server, StartServer

pytest.importorskip("cachelib")
pytest.importorskip("flask_caching")
pytest.importorskip("flask_session")

from cachelib.serializers import JSONSerializer
from flask import Flask, session
from flask_caching import Cache
from flask_session import Session

from kvserve.integrations.cachelib import KvserveCache

FLASK_CACHING = "kvserve.integrations.flask_caching.KvserveCache"
Make = Callable[..., KvserveCache]


@pytest.fixture(params=[None, "prefix:", lambda: "called:"], ids=["bare", "prefix", "function"])
def make(served: Server, namespace: str, request: pytest.FixtureRequest) -> Make:
    """Makes caches of the test's own namespace, with and without a prefix."""

    def make(**arguments: Any) -> KvserveCache:
        arguments = {"namespace": namespace, "key_prefix": request.param, **arguments}
        return KvserveCache(served.name, timeout=20, **arguments)

    return make


def ttl(cache: KvserveCache, key: str) -> float | None:
    return cache._cache.ttl(cache._full(key))


def test_timeouts(make: Make) -> None:
    """None is the default, 0 is for ever, and less is over at once."""
    cache = make(default_timeout=100)
    hour = datetime.timedelta(hours=1)
    for timeout, least, most in (
        (None, 99, 100), (0, math.inf, math.inf), (50, 49, 50), (hour, 3599, 3600),
        (10**10, math.inf, math.inf),
    ):  # fmt: skip
        assert cache.set("set", 1, timeout) is True
        assert cache.add(f"add {timeout}", 1, timeout) is True
        assert cache.set_many({"many": 1}, timeout) == ["many"]
        for key in ("set", f"add {timeout}", "many"):
            assert least <= (ttl(cache, key) or 0) <= most, (key, timeout)
    cache.set("set", 1, -1)
    assert cache.get("set") is None
    assert make(default_timeout=0).set("k", 1) is True
    assert ttl(cache, "k") == math.inf


def test_counters(make: Make) -> None:
    cache = make()
    assert [cache.inc("n"), cache.inc("n", 41), cache.dec("n", 2)] == [1, 42, 40]
    assert 290 < (ttl(cache, "n") or 0) <= 300
    assert cache.dec("m", 5) == -5
    for start, delta, total in ((10, 5, 15), (1.5, 1, 2.5), (2**63 - 1, 1, 2**63)):
        cache.set("n", start, 1000)
        assert cache.inc("n", delta) == total == cache.get("n")
        assert 900 < (ttl(cache, "n") or 0) <= 1000


def test_many(make: Make) -> None:
    cache = make()
    assert cache.set_many({"a": 1, "b": None, "c": {1, 2}}) == ["a", "b", "c"]
    assert cache.get_many("a", "b", "c", "d") == [1, None, {1, 2}, None]
    assert cache.get_dict("a", "d") == {"a": 1, "d": None}
    assert cache.has("b")
    assert not cache.has("d")
    assert cache.delete_many("a", "d") == ["a", "d"]
    assert [cache.delete("a"), cache.delete("c")] == [False, True]
    assert cache.set_many({}) == cache.get_many() == cache.delete_many() == []


def test_what_is_too_large_is_not_kept(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvserve.integrations.shared.TOO_LARGE.told_at", -math.inf)
    cache = make()
    large = os.urandom(300_000)  # the server's limit is 256 KiB
    cache.set_many({"k": "old", "m": "old"})
    assert cache.set("k", large) is False
    assert [message[:12] for message in caplog.messages] == ["not stored: "]
    assert cache.add("new", large) is False
    assert cache.set_many({"m": large, "small": 1}) == ["small"]
    assert cache.get_many("k", "m", "new", "small") == [None, None, None, 1]


def test_clear_removes_the_keys_of_the_prefix(served: Server, namespace: str) -> None:
    one, two, bare = (
        KvserveCache(served.name, key_prefix=prefix, namespace=namespace)
        for prefix in ("one:", lambda: "two:", None)
    )
    for cache in (one, two, bare):
        cache.set("k", 1)
    assert one.clear() is True
    assert (one.get("k"), two.get("k"), bare.get("k")) == (None, 1, 1)
    assert bare.clear() is True
    assert (two.get("k"), bare.get("k")) == (None, None)


def test_a_serializer_of_cachelib_is_used(make: Make) -> None:
    cache = make()
    cache.serializer = JSONSerializer()
    for value in ({"a": [1, None]}, "text", 7, True, None):
        assert cache.set("k", value)
        assert cache.get("k") == value == cache.get_many("k")[0]
    assert cache.set_many({"k": (1, 2)}) == ["k"]
    assert cache.get("k") == [1, 2]
    assert cache.add("k", 1) is False
    assert cache.inc("n", 5) == cache.get("n") == 5
    assert cache.get("nobody") is None


def application(name: str, namespace: str) -> tuple[Flask, Cache, list[str]]:
    """A page that notes each time that it is computed, and a cart."""
    app = Flask("shop")
    app.config |= {
        "TESTING": True,
        "SECRET_KEY": "of tests",
        "CACHE_TYPE": FLASK_CACHING,
        "CACHE_KVSERVE_NAME": name,
        "CACHE_KEY_PREFIX": "shop:",
        "CACHE_OPTIONS": {"namespace": namespace, "timeout": 20},
        "SESSION_TYPE": "cachelib",
        "SESSION_CACHELIB": KvserveCache(name, namespace=f"{namespace}-carts"),
    }
    pages = Cache(app)
    Session(app)
    computed: list[str] = []

    @app.get("/page/<name>")
    @pages.cached(timeout=60)
    def page(name: str) -> str:
        computed.append(name)
        return f"{name} {len(computed)}"

    @app.get("/cart/<article>")
    def cart(article: str) -> list[str]:
        session["cart"] = [*session.get("cart", []), article]
        found: list[str] = session["cart"]
        return found

    return app, pages, computed


def test_flask_caching_and_flask_session(served: Server, namespace: str) -> None:
    """Two applications, as two processes would have them, share pages and carts."""
    (app, pages, computed), (second, _, others) = (
        application(served.name, namespace) for _ in range(2)
    )
    assert app.test_client().get("/page/a").text == "a 1"
    assert second.test_client().get("/page/a").text == "a 1"
    assert (computed, others) == (["a"], [])

    @pages.memoize(60)
    def double(number: int) -> int:
        computed.append(str(number))
        return number * 2

    with app.app_context():
        assert [double(2), double(2), double(3)] == [4, 4, 6]
        pages.delete_memoized(double, 2)
        assert [double(2), double(3)] == [4, 6]
        assert computed == ["a", "2", "3", "2"]
        assert pages.set("k", {"tea"})
        assert pages.get("k") == {"tea"}
        assert pages.unlink("k") == ["k"]
        assert pages.clear()
    assert second.test_client().get("/page/a").text == "a 1"
    assert others == ["a"]

    first, again = app.test_client(), second.test_client()
    assert first.get("/cart/tea").json == ["tea"]
    cookie = first.get_cookie("session")
    assert cookie is not None
    again.set_cookie("session", cookie.value)
    assert again.get("/cart/milk").json == ["tea", "milk"]


@pytest.mark.usefixtures("own_clients")
def test_life_without_a_server(
    make_server: StartServer, new_names: NewNames, eventually: Eventually
) -> None:
    names = new_names()
    app, pages, computed = application(names.name, "flask")
    visitor = app.test_client()
    assert [visitor.get("/page/a").text, visitor.get("/page/a").text] == ["a 1", "a 2"]
    assert visitor.get("/cart/tea").json == ["tea"]
    server = make_server(names=names)
    eventually(lambda: pages.cache._cache._client.lost.error is None)
    assert visitor.get("/page/a").text == visitor.get("/page/a").text
    seen = len(computed)
    server.stop()
    assert visitor.get("/page/a").text == f"a {seen}"
    assert visitor.get("/cart/tea").status_code == 200

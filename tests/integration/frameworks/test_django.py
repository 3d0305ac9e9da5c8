"""Django's cache over kvserve: its interface, sync and async, and what Django builds on it."""

from __future__ import annotations

import asyncio
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from conftest import Eventually, NewNames
from support.servers import Server, StartServer

django = pytest.importorskip("django")

from django.conf import settings  # noqa: E402
from django.core.cache import cache as default_cache  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.template import engines  # noqa: E402
from django.test import RequestFactory, override_settings  # noqa: E402
from django.utils.safestring import SafeString, mark_safe  # noqa: E402
from django.views.decorators.cache import cache_page  # noqa: E402

from kvserve.errors import InvalidArgument  # noqa: E402
from kvserve.integrations.django import KvserveCache  # noqa: E402

BACKEND = "kvserve.integrations.django.KvserveCache"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
if not settings.configured:
    settings.configure(SECRET_KEY="of tests", ALLOWED_HOSTS=["*"], USE_TZ=True, TEMPLATES=TEMPLATES)
    django.setup()

Make = Callable[..., KvserveCache]


@pytest.fixture
def make(served: Server, namespace: str) -> Make:
    """Makes backends of the test's own namespace, with these settings."""

    def make(**params: Any) -> KvserveCache:
        options = {"namespace": namespace, "timeout": 20} | params.pop("OPTIONS", {})
        return KvserveCache(served.name, {"OPTIONS": options, **params})

    return make


@pytest.fixture(params=["blocking", "asyncio"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Calls a method by its name, or its asyncio twin, each in an event loop of its own."""

    def call(cache: KvserveCache, name: str, *args: Any, **kwargs: Any) -> Any:
        if request.param == "blocking":
            return getattr(cache, name)(*args, **kwargs)
        return asyncio.run(getattr(cache, f"a{name}")(*args, **kwargs))

    return call


@pytest.mark.parametrize("timeout", [0, -1, -(10**9), 0.0])
def test_what_is_over_at_once_is_not_kept(make: Make, call: Any, timeout: float) -> None:
    cache = make()
    cache.set_many({"old": 1, "touched": 2})
    call(cache, "set", "old", 5, timeout)
    assert call(cache, "get", "old", "gone") == "gone"
    assert call(cache, "touch", "touched", timeout) is True
    assert call(cache, "has_key", "touched") is False
    assert call(cache, "add", "new", 5, timeout) is True
    assert call(cache, "get", "new") is None
    assert call(cache, "set_many", {"many": 1}, timeout) == []
    assert call(cache, "get_many", ["many"]) == {}


@pytest.mark.parametrize("timeout", [None, 101 * 366 * 86400, 2**62, 1e18, math.inf])
def test_what_outlives_us_is_kept_for_ever(make: Make, call: Any, timeout: Any) -> None:
    cache = make(TIMEOUT=1)
    for name, arguments in (
        ("set", ("k", 5)), ("add", ("new", 5)), ("set_many", ({"many": 1},)), ("touch", ("k",))
    ):  # fmt: skip
        assert call(cache, name, *arguments, timeout) in (None, True, [])
    for key in ("k", "new", "many"):
        assert cache._cache.ttl(cache.make_key(key)) == math.inf


def test_timeout_of_the_settings(make: Make, call: Any) -> None:
    def ttl(cache: KvserveCache) -> float | None:
        call(cache, "set", "k", 1)
        return cache._cache.ttl(cache.make_key("k"))

    assert 290 < (ttl(make()) or 0) <= 300
    assert 30 < (ttl(make(TIMEOUT=40)) or 0) <= 40
    assert ttl(make(TIMEOUT=None)) == math.inf
    assert ttl(make(TIMEOUT=0)) is None


def test_incr_keeps_the_ttl_and_says_what_is_missing(make: Make, call: Any) -> None:
    cache = make()
    with pytest.raises(ValueError, match="'nobody' not found"):
        call(cache, "incr", "nobody")
    with pytest.raises(ValueError, match="'nobody' not found"):
        call(cache, "decr", "nobody", 3)
    assert cache.get("nobody") is None
    for start, delta, total in ((41, 1, 42), (1.5, 1, 2.5), (1, 0.5, 1.5), (2**63 - 1, 1, 2**63)):
        cache.set("n", start, 1000)
        assert call(cache, "incr", "n", delta) == total
        assert cache.get("n") == total
        assert 900 < cache._cache.ttl(cache.make_key("n")) <= 1000
    cache.set("n", 5)
    assert call(cache, "decr", "n", 7) == -2
    for other in (None, "text", [1]):
        cache.set("n", other)
        with pytest.raises(TypeError):
            call(cache, "incr", "n")
        assert cache.get("n") == other


def test_values_come_back_as_what_they_were(make: Make, call: Any) -> None:
    cache = make()
    for value in (
        mark_safe("<b>"), "text", b"bytes", 7, True, None, 1.5, 2**100, {1, 2}, {"a": (1, None)},
        len,
    ):  # fmt: skip
        call(cache, "set", "k", value)
        found = call(cache, "get", "k", "missing")
        assert (found, type(found)) == (value, type(value))
    cache.set("k", mark_safe("<b>"))
    assert type(cache.get_many(["k"])["k"]) is SafeString


class NoPickle:
    """A value that says no when it is pickled."""

    def __getstate__(self) -> object:
        raise pickle.PickleError


def test_what_cannot_be_pickled_is_said_as_elsewhere_in_django(make: Make, call: Any) -> None:
    cache = make()
    for name, arguments in (
        ("set", ("k", NoPickle())), ("add", ("k", NoPickle())), ("set_many", ({"k": NoPickle()},))
    ):  # fmt: skip
        with pytest.raises(pickle.PickleError):
            call(cache, name, *arguments)


def test_versions_prefixes_and_key_functions(make: Make, call: Any) -> None:
    one, two = make(), make(VERSION=2)
    other = make(KEY_PREFIX="other")
    odd = make(KEY_FUNCTION=lambda key, _, version: f"odd-{version}-{key}")
    call(one, "set", "k", "one")
    assert (two.get("k"), other.get("k"), odd.get("k")) == (None, None, None)
    assert two.get("k", version=1) == "one"
    assert call(one, "incr_version", "k") == 2
    assert (call(one, "get", "k"), call(two, "get", "k")) == (None, "one")
    call(odd, "set", "k", "odd")
    assert odd._cache.get("odd-1-k") == "odd"
    assert call(other, "get_many", ["k"]) == {}


def test_many(make: Make, call: Any) -> None:
    cache = make()
    assert call(cache, "set_many", {"a": 1, "b": {"x": None}, "none": None}, version=3) == []
    found = call(cache, "get_many", (key for key in ("a", "b", "none", "c")), version=3)
    assert found == {"a": 1, "b": {"x": None}, "none": None}
    call(cache, "delete_many", (key for key in ("a", "b")), version=3)
    assert call(cache, "get_many", ["a", "b", "none"], version=3) == {"none": None}
    call(cache, "delete_many", [])
    assert call(cache, "set_many", {}) == []


def test_what_is_too_large_is_named_and_leaves_no_old_value(
    make: Make, call: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvserve.integrations.shared.TOO_LARGE.told_at", -math.inf)
    cache = make()
    cache.set_many({"k": "old", "m": "old"})
    large = os.urandom(300_000)  # the server's limit is 256 KiB
    call(cache, "set", "k", large)
    assert cache.get("k") is None
    assert [message[:12] for message in caplog.messages] == ["not stored: "]
    assert call(cache, "set_many", {"m": large, "small": 1}) == ["m"]
    assert cache.get_many(["m", "small"]) == {"small": 1}


def test_any_key_works(make: Make, call: Any) -> None:
    cache = make()
    for key in ("x" * 5000, "with space", "\x00", "ключ", "\udcff", 7, ("a", 1), ""):
        with pytest.warns() if _is_odd(key) else nullcontext():
            call(cache, "set", key, f"{key!r}")
            assert call(cache, "get", key) == f"{key!r}"


def _is_odd(key: Any) -> bool:
    return key in ("x" * 5000, "with space", "\x00", ("a", 1))


def test_clear_empties_the_namespace_alone(
    make: Make, call: Any, served: Server, namespace: str
) -> None:
    cache, other = make(), make(OPTIONS={"namespace": f"{namespace}-2"})
    with served.connect() as client:
        client.set(f"{namespace}-mine", 1)
        for each in (cache, other):
            each.set("k", 1)
        call(cache, "clear")
        assert (cache.get("k"), other.get("k"), client.get(f"{namespace}-mine")) == (None, 1, 1)


def test_get_or_set(make: Make, call: Any) -> None:
    cache = make()
    assert call(cache, "get_or_set", "k", lambda: 5) == 5
    assert call(cache, "get_or_set", "k", 6) == 5
    assert call(cache, "get_or_set", "none", None) is None
    assert call(cache, "get_or_set", "none", 6) is None
    assert call(cache, "touch", "nobody") is False
    assert call(cache, "delete", "k") is True
    assert call(cache, "delete", "k") is False
    cache.close()
    assert call(cache, "get_or_set", "k", 7) == 7


def test_a_hit_of_aget_needs_no_thread_and_no_worker(make: Make) -> None:
    """It is read by the coroutine's first step."""
    cache = make()
    cache.set("k", {"a": 1})
    for coroutine, answer in (
        (cache.aget("k"), {"a": 1}), (cache.aget("nobody", 5), 5), (cache.ahas_key("k"), True),
        (cache.aget_many(["k", "nobody"]), {"k": {"a": 1}}),
    ):  # fmt: skip
        with pytest.raises(StopIteration) as stopped:
            coroutine.send(None)
        assert stopped.value.value == answer


def test_unknown_options_are_named(served: Server) -> None:
    with pytest.raises(InvalidArgument, match="unknown options tiemout"):
        KvserveCache(served.name, {"OPTIONS": {"tiemout": 1}})
    KvserveCache(served.name, {"OPTIONS": {"MAX_ENTRIES": 5, "CULL_FREQUENCY": 2}})


@pytest.fixture
def site(served: Server, namespace: str) -> Iterator[None]:
    """Django's settings with kvserve as the default cache."""
    place = {"BACKEND": BACKEND, "LOCATION": served.name, "OPTIONS": {"namespace": namespace}}
    with override_settings(CACHES={"default": place}):
        yield


@pytest.mark.usefixtures("site")
def test_cache_page() -> None:
    asked = []

    @cache_page(60)
    def view(request: HttpRequest) -> HttpResponse:
        asked.append(request.path)
        return HttpResponse(f"page {len(asked)}")

    requests = RequestFactory()
    answers = [view(requests.get(path)).content for path in ("/a", "/a", "/b", "/a")]
    assert answers == [b"page 1", b"page 1", b"page 2", b"page 1"]
    default_cache.clear()
    assert view(requests.get("/a")).content == b"page 3"


@pytest.mark.usefixtures("site")
def test_parts_of_templates() -> None:
    template = engines["django"].from_string(
        "{% load cache %}{% cache 60 part name %}{{ name }} {{ text }}{% endcache %}"
    )
    first = template.render({"name": "a", "text": "first"})
    assert template.render({"name": "a", "text": "second"}) == first == "a first"
    assert template.render({"name": "b", "text": "second"}) == "b second"


@pytest.mark.usefixtures("site")
def test_sessions() -> None:
    from django.contrib.sessions.backends.cache import SessionStore

    session = SessionStore()
    session["cart"] = {"tea": 3}
    session.save()
    again = SessionStore(session.session_key)
    assert again["cart"] == {"tea": 3}
    again.flush()
    assert SessionStore(session.session_key).get("cart") is None


PROCESS = """
import os, sys
from django.conf import settings
settings.configure(CACHES={"default": {
    "BACKEND": "kvserve.integrations.django.KvserveCache", "LOCATION": sys.argv[1],
    "OPTIONS": {"timeout": 20},
}})
from django.core.cache import cache
cache.get("imported")
child = os.fork()
cache.add("hits", 0)
for _ in range(50):
    cache.incr("hits")
if child == 0:
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.usefixtures("own_clients")
def test_processes_share_it_also_when_forked_after_use(server: Server) -> None:
    command = [sys.executable, "-c", PROCESS, server.name]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[0] for process in running] == [b"0\n", b"0\n"]
    assert KvserveCache(server.name, {}).get("hits") == 2 * 2 * 50


@pytest.mark.usefixtures("own_clients")
def test_life_without_a_server(
    make_server: StartServer, new_names: NewNames, eventually: Eventually
) -> None:
    """A site boots before its server, goes on when it ends, and uses it again when it is back."""
    names = new_names()
    cache = KvserveCache(names.name, {"OPTIONS": {"timeout": 5}})
    assert cache.get("k", "missing") == "missing"
    cache.set("k", "lost")
    assert (cache.get("k"), cache.add("k", 1), cache.delete("k")) == (None, False, False)
    assert asyncio.run(cache.aget_many(["k"])) == {}
    server = make_server(names=names)
    eventually(lambda: cache._cache._client.lost.error is None)
    cache.set("k", "kept")
    server.stop()
    assert cache.get("k") == "kept"
    cache.delete("k")
    assert cache.get("k") is None
    cache.set("other", 1)
    make_server(names=names)
    eventually(lambda: cache._cache._client.lost.error is None)
    cache.set("other", 2)
    assert (cache.get("k"), cache.get("other")) == (None, 2)

"""Records, kept ttls, updates and prefixes where a store is behind the cache."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from subprocess import Popen
from typing import Any

import pytest
from support import ways
from support.servers import Server, StartServer
from support.valkeys import serve

import kvserve

UPDATE = """
import sys
from support import ways
way, name = sys.argv[1:]
cache = ways.connect(way, name)
for _ in range(60):
    cache.update("sum", lambda had: [had[0] + 1, [*had[1], len(had[1])]], [0, []], ttl=500)
cache.close()
"""


@pytest.fixture(scope="module", params=["through", "behind", "valkey"])
def server(
    request: pytest.FixtureRequest,
    make_module_server: StartServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A server over each kind of store, for the module."""
    if request.param == "valkey":
        with serve() as valkey:
            started = make_module_server("--store", valkey.url)
            with started.connect() as cache:
                cache.set("a", 1)
                while cache.get_here("a") is kvserve.ASK_WORKER:  # it follows the store by then
                    cache.get("a")
            yield started
        return
    file = tmp_path_factory.mktemp("store") / "cache.db"
    behind = ("--write-behind", "0.2") if request.param == "behind" else ()
    yield make_module_server("--store", f"sqlite:///{file}", *behind)


@pytest.fixture(params=["direct", "worker-queue", "async", "namespace", "async-namespace"])
def cache(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    """Clients of each kind, of a store without the keys of these tests."""
    opened = ways.connect(request.param, server.name)
    opened.delete_many(["a", "b", "ever", *(f"user:{n}" for n in range(100))])
    forget(opened)
    yield opened
    opened.close()


def forget(cache: Any) -> None:
    """Empties the table; what is in the store stays."""
    ended = getattr(cache, "_cache", cache)
    ended.flush()


def test_what_only_the_store_has(cache: Any) -> None:
    assert cache.get_record("a") is None
    cache.set("a", [1, "x"], 300)
    found = cache.get_record("a")
    assert found.value == [1, "x"]
    assert cache.cas("a", [1, "x"], found.version, 300) is True
    assert 298 < found.ttl <= 300
    forget(cache)
    found = cache.get_record("a")
    assert found.value == [1, "x"]
    assert 297 < found.ttl <= 300
    forget(cache)
    with cache.pipeline() as p:
        p.get_record("a").get_record("nobody").set("b", 2).get_record("b")
    assert p.results[0].value == [1, "x"]
    assert p.results[1] is None
    assert (p.results[3].value, p.results[3].ttl) == (2, math.inf)


def test_get_here_leaves_it_to_the_worker(server: Server) -> None:
    with server.connect() as cache:
        cache.delete("a")
        assert cache.get_here("a") is kvserve.ASK_WORKER
        cache.set("a", 1)
        forget(cache)
        assert cache.get_here("a", "default") is kvserve.ASK_WORKER
        assert cache.namespace("eu").get_here("a") is kvserve.ASK_WORKER
        assert cache.get("a") == 1


@pytest.mark.parametrize("forgotten", [False, True], ids=["in the table", "in the store alone"])
def test_a_kept_ttl(cache: Any, forgotten: bool) -> None:
    cache.set("a", 1, 300)
    cache.set("ever", 1)
    for how in ("replace", "cas", "update"):
        if forgotten:
            forget(cache)
        for key in ("a", "ever"):
            if how == "replace":
                assert cache.replace(key, "replaced", keep_ttl=True) is True
            elif how == "cas":
                assert cache.cas(key, "swapped", cache.gets(key)[1], keep_ttl=True) is True
            else:
                assert cache.update(key, lambda had: had + "!") == "swapped!"
        for _ in range(2):  # first in the table, then in the store
            assert 297 < cache.ttl("a") <= 300
            assert cache.ttl("ever") == math.inf
            forget(cache)
    assert cache.get_many(["a", "ever"]) == {"a": "swapped!", "ever": "swapped!"}
    assert cache.replace("nobody", 1, keep_ttl=True) is False
    assert cache.cas("nobody", 1, 5, keep_ttl=True) is False


def test_expire_at(cache: Any) -> None:
    cache.set("a", 1)
    forget(cache)
    assert cache.expire_at("a", time.time() + 100) is True
    forget(cache)
    assert 98 < cache.ttl("a") <= 100
    assert cache.expire_at("a", time.time() - 1) is True
    forget(cache)
    assert cache.get("a") is None
    assert cache.expire_at("a", time.time() - 1) is False


def test_a_prefix_is_removed_from_both_where_the_table_has_it(cache: Any) -> None:
    """As `scan`, which sees the table alone."""
    cache.set_many({f"user:{n}": n for n in range(100)})
    forget(cache)
    new = {f"user:{n}:new": n for n in range(100)}
    cache.set_many(new)
    while len(list(cache.scan("user:"))) < 100:  # a shared store fills the table when it is fresh
        assert cache.get_many(new) == new
    assert sorted(cache.scan("user:1")) == sorted(
        f"user:{n}:new" for n in range(100) if str(n).startswith("1")
    )
    assert cache.delete_matching("user:1*") == 11
    assert cache.delete_prefix("user:") == 89
    assert cache.delete_prefix("user:") == 0
    forget(cache)
    assert cache.get("user:7:new") is None
    assert cache.get("user:7") == 7


@pytest.mark.parametrize("way", ["direct", "async"])
def test_processes_lose_no_update(server: Server, way: str) -> None:
    command = [sys.executable, "-c", UPDATE, way, server.name]
    with server.connect() as cache:
        cache.delete("sum")
    processes = [Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    with server.connect() as cache:
        assert cache.get("sum") == [180, list(range(180))]

"""aiocache over a real server: its serializers and locks, several loops and processes, outages."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.servers import Server, StartServer

pytest.importorskip("aiocache")
from aiocache import Cache, cached, caches
from aiocache.lock import OptimisticLock, OptimisticLockError, RedLock
from aiocache.serializers import (
    JsonSerializer,
    NullSerializer,
    PickleSerializer,
    StringSerializer,
)

import kvserve
from kvserve.integrations.aiocache import KvserveCache


@pytest.fixture
def make(served: Server, namespace: str) -> Callable[..., KvserveCache]:
    def make(**options: Any) -> KvserveCache:
        return KvserveCache(served.name, namespace=namespace, **options)

    return make


def run(*calls: Awaitable[Any]) -> list[Any]:
    """The results of these, one after the other, in a loop of their own."""

    async def all_of_them() -> list[Any]:
        return [await call for call in calls]

    return asyncio.run(all_of_them())


def test_values_and_lifetimes(make: Callable[..., KvserveCache]) -> None:
    cache = make()
    value = {"a": [1, None, "x"]}
    assert run(cache.set("k", value, ttl=60), cache.get("k"), cache.exists("k")) == [
        True, value, True,
    ]  # fmt: skip
    assert run(cache.get("none"), cache.get("none", default=1), cache.delete("none")) == [
        None,
        1,
        0,
    ]
    assert run(cache.multi_set([("a", 1), ("b", 2)]), cache.multi_get(["a", "none", "b"])) == [
        True, [1, None, 2],
    ]  # fmt: skip
    assert run(cache.expire("a", 0.05), asyncio.sleep(0.1), cache.get("a"), cache.get("b")) == [
        True, None, None, 2,
    ]  # fmt: skip
    assert run(cache.set("k", 1, ttl=0.05), cache.expire("k", 0)) == [True, True]
    assert run(asyncio.sleep(0.1), cache.get("k")) == [None, 1]
    with pytest.raises(ValueError, match="exists"):
        run(cache.add("k", 2))


@pytest.mark.parametrize(
    "serializer", [JsonSerializer, StringSerializer, PickleSerializer, NullSerializer]
)
def test_increments_of_what_serializers_make(
    make: Callable[..., KvserveCache], serializer: Any
) -> None:
    cache = make(serializer=serializer())
    if serializer is not PickleSerializer:
        run(cache.set("k", 5, ttl=60))
        assert run(cache.increment("k", 2), cache.increment("k", -3)) == [7, 4]
        assert str(run(cache.get("k"))[0]) == "4"
        assert 0 < run(cache._keys.ttl(cache.build_key("k")))[0] <= 60
    assert run(cache.increment("new", 2), cache.increment("new"), cache.increment("new")) == [
        2,
        3,
        4,
    ]
    run(cache.set("text", "tea"))
    with pytest.raises(TypeError):
        run(cache.increment("text"))


def test_native_values(make: Callable[..., KvserveCache]) -> None:
    cache = make(serializer=NullSerializer())
    for value in (1, 2.5, "text", b"bytes", True, (1, [2]), {"a": None}):
        (_, found) = run(cache.set("k", value), cache.get("k"))
        assert (found, type(found)) == (value, type(value))
    anything = make(serializer=NullSerializer(), codec="pickle")
    assert run(anything.set("k", {1, 2}), anything.get("k")) == [True, {1, 2}]


def test_clear_of_a_prefix_and_of_all(make: Callable[..., KvserveCache], served: Server) -> None:
    cache, other = make(), KvserveCache(served.name, namespace="other")
    run(cache.set("k", 1), other.set("k", 2), cache.clear(cache.namespace))
    assert run(cache.get("k"), other.get("k")) == [None, 2]
    with served.connect() as client:
        client.set("not aiocache's", 1)
        run(cache.clear())
        assert client.get("not aiocache's") == 1
    assert run(other.get("k")) == [None]


def test_locks(make: Callable[..., KvserveCache]) -> None:
    cache = make()

    async def conflict() -> None:
        await cache.set("k", 1)
        async with OptimisticLock(cache, "k") as lock:
            await cache.set("k", 2)
            await cache.set("k", 1)  # as it was, and yet changed
            with pytest.raises(OptimisticLockError):
                await lock.cas(3)
        async with OptimisticLock(cache, "k") as lock:
            assert await lock.cas(3)
        assert await cache.get("k") == 3

    async def in_turn() -> list[str]:
        order: list[str] = []

        async def one(name: str) -> None:
            async with RedLock(cache, "lock", lease=5):
                order.append(f"{name} in")
                await asyncio.sleep(0.01)
                order.append(f"{name} out")

        await asyncio.gather(one("a"), one("b"))
        return order

    asyncio.run(conflict())
    assert asyncio.run(in_turn())[:2] == ["a in", "a out"]


def test_a_decorated_function_and_a_configuration(served: Server, namespace: str) -> None:
    caches.set_config({
        "default": {
            "cache": "kvserve.integrations.aiocache.KvserveCache",
            "name": served.name,
            "namespace": namespace,
            "serializer": {"class": "aiocache.serializers.JsonSerializer"},
        }
    })  # fmt: skip
    calls = []

    @cached(alias="default", ttl=60, key="page")
    async def page() -> list[int]:
        calls.append(1)
        return [1, 2]

    assert run(page(), page()) == [[1, 2], [1, 2]]
    assert len(calls) == 1
    assert run(caches.get("default").get("page")) == [[1, 2]]


def test_urls_and_options(served: Server) -> None:
    cache = Cache.from_url(f"kvserve://{served.name}?timeout=0.5")
    assert isinstance(cache, KvserveCache)
    with pytest.raises(TypeError, match="timout"):
        Cache.from_url(f"kvserve://{served.name}?timout=0.5")
    with pytest.raises(TypeError, match="path"):
        Cache.from_url(f"kvserve://{served.name}/1")


COUNTS = """
import asyncio, sys
from kvserve.integrations.aiocache import KvserveCache
cache = KvserveCache(sys.argv[1], namespace=sys.argv[2])
async def main():
    for _ in range(100):
        await cache.increment("n")
asyncio.run(main())
"""


def test_processes_share_it(make: Callable[..., KvserveCache], served: Server) -> None:
    cache = make()
    command = [sys.executable, "-c", COUNTS, served.name, cache.namespace]
    for process in [subprocess.Popen(command) for _ in range(3)]:
        assert process.wait() == 0
    assert run(cache.get("n")) == [300]


@pytest.mark.usefixtures("own_clients")
def test_a_server_that_is_down(
    make_server: StartServer, new_names: Any, eventually: Callable[..., None]
) -> None:
    names = new_names()
    cache = KvserveCache(names.name)
    assert run(cache.get("k"), cache.set("k", 1), cache.get("k")) == [None, True, None]
    server = make_server(names=names)
    eventually(lambda: run(cache.set("k", 1), cache.get("k"))[1] == 1)
    server.stop()
    assert run(cache.get("k"), cache.set("k", 2)) == [1, True]
    assert run(cache.get("k")) == [None]  # what was lost is no old value
    with pytest.raises(kvserve.ServerError):
        run(cache.increment("n"))
    make_server(names=names)
    eventually(lambda: run(cache.set("k", 3), cache.get("k"))[1] == 3)

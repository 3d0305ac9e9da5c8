"""What does one request cost through a worker, beside redis-py and Valkey over a Unix socket?"""

from __future__ import annotations

from typing import Any

import pytest
from conftest import KEY, VALUE

import kvserve

LOOPS = {"rounds": 3_000, "iterations": 1, "warmup_rounds": 100}


@pytest.fixture(scope="module")
def redis_client(valkey_socket: str) -> Any:
    redis = pytest.importorskip("redis", reason="install the extra `bench`")
    client = redis.Redis(unix_socket_path=valkey_socket)
    client.set(KEY, VALUE)
    return client


@pytest.mark.benchmark(group="get through a server")
@pytest.mark.parametrize("way", ["queue", "fifo"])
def test_kvserve_get(benchmark: Any, server: str, way: str) -> None:
    queue_bytes = 0 if way == "fifo" else None
    with kvserve.connect(server, read="worker", queue_bytes=queue_bytes) as cache:
        cache.set(KEY, VALUE)
        assert benchmark.pedantic(cache.get, (KEY,), **LOOPS) == VALUE


@pytest.mark.benchmark(group="get through a server")
def test_redis_get(benchmark: Any, redis_client: Any) -> None:
    assert benchmark.pedantic(redis_client.get, (KEY,), **LOOPS) == VALUE


@pytest.mark.benchmark(group="set")
def test_kvserve_set(benchmark: Any, server: str) -> None:
    with kvserve.connect(server) as cache:
        benchmark.pedantic(cache.set, (KEY, VALUE), **LOOPS)


@pytest.mark.benchmark(group="set")
def test_redis_set(benchmark: Any, redis_client: Any) -> None:
    benchmark.pedantic(redis_client.set, (KEY, VALUE), **LOOPS)


@pytest.mark.benchmark(group="1 MiB there and back")
def test_kvserve_large(benchmark: Any, server: str) -> None:
    large = b"x" * 2**20

    def there_and_back() -> None:
        cache.set("large", large)
        cache.get("large")

    with kvserve.connect(server, read="worker") as cache:
        benchmark.pedantic(there_and_back, rounds=50, warmup_rounds=3)


@pytest.mark.benchmark(group="1 MiB there and back")
def test_redis_large(benchmark: Any, redis_client: Any) -> None:
    large = b"x" * 2**20

    def there_and_back() -> None:
        redis_client.set("large", large)
        redis_client.get("large")

    benchmark.pedantic(there_and_back, rounds=50, warmup_rounds=3)


@pytest.mark.benchmark(group="100 keys at once")
@pytest.mark.parametrize("read", ["direct", "worker"])
def test_kvserve_get_many(benchmark: Any, server: str, read: Any) -> None:
    keys = [b"key:%08d" % number for number in range(100)]
    with kvserve.connect(server, read=read) as cache:
        cache.set_many(dict.fromkeys(keys, VALUE))
        found = benchmark.pedantic(cache.get_many, (keys,), rounds=300, warmup_rounds=10)
    assert len(found) == 100


@pytest.mark.benchmark(group="100 keys at once")
def test_redis_mget(benchmark: Any, redis_client: Any) -> None:
    keys = [b"key:%08d" % number for number in range(100)]
    redis_client.mset(dict.fromkeys(keys, VALUE))
    assert len(benchmark.pedantic(redis_client.mget, (keys,), rounds=300, warmup_rounds=10)) == 100

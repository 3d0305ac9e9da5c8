"""What do limits, aiocache, Celery's results and cached responses cost over kvserve and over Redis?

    python -m benchmarks.frameworks_async [--rounds N] [--calls N] [--writers]

Beside each adapter stands the framework's own Redis backend, over a Valkey on this machine, and its
memory backend. All take turns in each round, so that a busy neighbour strikes all alike; told is
the median of the rounds' medians, and what kvserve's is of Redis's. Needs the tests' packages.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import kvserve
from kvserve import names
from kvserve.parent.cleanup import clean

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.valkeys import Valkey, wait_until  # not a package

GOAL = 1 / 15
VALUE = {"id": 7, "name": "Darjeeling", "price": 4.5, "tags": ["tea", "black"]}
Call = Callable[[], Any]
AsyncCall = Callable[[], Awaitable[Any]]


def limits_rows(port: int) -> dict[str, dict[str, Call]]:
    """A hit of each strategy, and a look at a fixed window, by backend."""
    import limits
    from limits.storage import storage_from_string

    import kvserve.integrations.limits

    assert kvserve.integrations.limits
    urls = {
        "kvserve": "kvserve://?namespace=a",
        "kvserve, writer": "kvserve://?namespace=a&write=direct",
        "redis": f"redis://127.0.0.1:{port}",
        "memory": "memory://",
    }
    item = limits.parse("1000000000 per hour")
    moving = limits.parse("1000 per second")
    rows: dict[str, dict[str, Call]] = {}
    for backend, url in urls.items():
        storage: Any = storage_from_string(url)
        fixed = limits.strategies.FixedWindowRateLimiter(storage)
        window = limits.strategies.MovingWindowRateLimiter(storage)
        counter = limits.strategies.SlidingWindowCounterRateLimiter(storage)
        calls: dict[str, Call] = {
            "limits, fixed window, hit": lambda each=fixed: each.hit(item, "fixed"),
            "limits, fixed window, test": lambda each=fixed: each.test(item, "fixed"),
            "limits, sliding counter, hit": lambda each=counter: each.hit(item, "counter"),
            "limits, moving window, hit": lambda each=window: each.hit(moving, "moving"),
        }
        for row, call in calls.items():
            rows.setdefault(row, {})[backend] = call
    return rows


def aiocache_rows(port: int) -> dict[str, dict[str, AsyncCall]]:
    """get, multi_get, set and a decorated function's hit, by backend."""
    from aiocache import RedisCache, SimpleMemoryCache
    from aiocache.serializers import JsonSerializer

    from kvserve.integrations.aiocache import KvserveCache

    caches: dict[str, Any] = {
        "kvserve": KvserveCache(namespace="a"),
        "kvserve, writer": KvserveCache(namespace="a", write="direct", on_error="raise"),
        "redis": RedisCache(endpoint="127.0.0.1", port=port, namespace="a"),
        "redis, no timeout": RedisCache(
            endpoint="127.0.0.1", port=port, namespace="b", timeout=None
        ),
        "memory": SimpleMemoryCache(serializer=JsonSerializer(), timeout=None),
    }
    keys = [f"user:{number}" for number in range(20)]
    rows: dict[str, dict[str, AsyncCall]] = {}
    for backend, cache in caches.items():
        calls: dict[str, AsyncCall] = {
            "aiocache, set": lambda each=cache: each.set("user:7", VALUE, ttl=600),
            "aiocache, multi_set 20": lambda each=cache: each.multi_set(
                [(key, VALUE) for key in keys], ttl=600
            ),
            "aiocache, get": lambda each=cache: each.get("user:7"),
            "aiocache, multi_get 20": lambda each=cache: each.multi_get(keys),
        }
        for row, call in calls.items():
            rows.setdefault(row, {})[backend] = call
    return rows


def celery_rows(port: int) -> dict[str, dict[str, Call]]:
    """Storing and reading a task's result, by backend."""
    from celery import Celery

    urls = {
        "kvserve": "kvserve.integrations.celery.KvserveBackend://",
        "redis": f"redis://127.0.0.1:{port}/1",
    }
    rows: dict[str, dict[str, Call]] = {}
    for backend, url in urls.items():
        app = Celery(backend=url, set_as_current=False)
        app.conf.result_cache_max = -1
        store = app.backend
        calls: dict[str, Call] = {
            "celery, store a result": lambda each=store: each.store_result(
                secrets.token_hex(8), VALUE, "SUCCESS"
            ),
            "celery, read a result": lambda each=store: each.get_task_meta("known", cache=False),
        }
        store.store_result("known", VALUE, "SUCCESS")
        for row, call in calls.items():
            rows.setdefault(row, {})[backend] = call
    return rows


def median_us(call: Call, count: int) -> float:
    """The median of so many calls, each timed alone."""
    times = []
    for _ in range(count):
        began = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1000


async def async_median_us(call: AsyncCall, count: int) -> float:
    """The same for a coroutine function."""
    times = []
    for _ in range(count):
        began = time.perf_counter_ns()
        await call()
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1000


def measure(port: int, rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """The microseconds of each row, by backend."""
    found: dict[str, dict[str, list[float]]] = {}
    blocking = limits_rows(port) | celery_rows(port)
    for _ in range(rounds):
        for row, backends in blocking.items():
            for backend, call in backends.items():
                found.setdefault(row, {}).setdefault(backend, []).append(median_us(call, calls))

    async def aio() -> None:
        rows = aiocache_rows(port)
        for _ in range(rounds):
            for row, backends in rows.items():
                for backend, call in backends.items():
                    each = found.setdefault(row, {}).setdefault(backend, [])
                    each.append(await async_median_us(call, calls))

    asyncio.run(aio())
    return {
        row: {backend: statistics.median(each) for backend, each in backends.items()}
        for row, backends in found.items()
    }


@contextmanager
def served(directory: Path) -> Iterator[None]:
    """A kvserve server that this process uses without naming it, with trusted writers."""
    name = f"bench-{secrets.token_hex(4)}"
    os.environ |= {"KVSERVE_NAME": name, "KVSERVE_RUNTIME_DIR": str(directory)}
    command = [sys.executable, "-m", "kvserve", "serve", "--workers", "1", "--writers", "4"]
    server = subprocess.Popen([*command, "--no-keep"], stderr=subprocess.DEVNULL)

    def is_served() -> bool:
        with suppress(kvserve.KvserveError), kvserve.connect() as cache:
            return cache.ping() >= 0
        return False

    try:
        wait_until(is_served)
        yield
    finally:
        from kvserve.integrations.shared import close_clients

        close_clients()
        server.send_signal(signal.SIGTERM)
        server.wait()
        clean(names.instance())


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        directory = Path(place)
        (directory / "valkey").mkdir()
        valkey = Valkey(directory / "valkey", free_port())
        try:
            with served(directory / "run"):
                told = measure(valkey.port, options.rounds, options.calls)
        finally:
            valkey.kill()
    print("| what | kvserve, us | as a trusted writer | Redis | memory | kvserve / Redis |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row, by in told.items():
        redis = min(value for backend, value in by.items() if backend.startswith("redis"))
        cells = [by.get(each) for each in ("kvserve", "kvserve, writer")]
        figures = [
            "" if each is None else f"{each:.1f}" for each in (*cells, redis, by.get("memory"))
        ]
        best = by["kvserve"] / redis
        print(f"| {row} | {' | '.join(figures)} | {best:.3f} |")


if __name__ == "__main__":
    main()

"""What the tests of signals and of cancelled awaits interrupt: every kind of request."""

from __future__ import annotations

import sys
from pathlib import Path

import kvserve

LARGE = bytes(range(250)) * 600  # more than a queue takes, and than a FIFO holds at once


# What a blocking client is interrupted in. Each asserts its own result.


def get(cache: kvserve.Client, _: int) -> None:
    assert cache.get("kept") == "kept"


def set_and_count(cache: kvserve.Client, turn: int) -> None:
    cache.set("number", turn)
    assert cache.incr("number") == turn + 1


def large(cache: kvserve.Client, _: int) -> None:
    cache.set("large", LARGE)
    assert cache.get("large") == LARGE


def pipeline(cache: kvserve.Client, turn: int) -> None:
    with cache.pipeline() as p:
        for key in range(10):
            p.set(f"key {key}", turn).incr(f"key {key}")
    assert p.results[1::2] == [turn + 1] * 10


def scan(cache: kvserve.Client, _: int) -> None:
    assert "kept" in list(cache.scan())


def ask_all(cache: kvserve.Client, _: int) -> None:
    assert cache.ping() > 0


def connect(cache: kvserve.Client, _: int) -> None:
    with kvserve.connect(cache._names.name, timeout=30, read="worker") as another:
        another.set("kept", "kept")
        get(another, 0)


KINDS = (get, set_and_count, large, pipeline, scan, ask_all, connect)


# The same in a task of an asyncio client.


async def count_async(cache: kvserve.AsyncClient, turn: int) -> None:
    await cache.set("number", turn)
    assert await cache.incr("number") >= turn  # type: ignore[operator]


async def large_async(cache: kvserve.AsyncClient, _: int) -> None:
    await cache.set("large", LARGE)
    assert await cache.get("large") == LARGE


async def pipeline_async(cache: kvserve.AsyncClient, turn: int) -> None:
    p = cache.pipeline()
    for key in range(10):
        p.set(f"key {key}", turn).get(f"key {key}")
    assert len(await p.execute()) == 20


async def scan_async(cache: kvserve.AsyncClient, _: int) -> None:
    assert "kept" in [key async for key in cache.scan()]


async def ask_all_async(cache: kvserve.AsyncClient, _: int) -> None:
    assert await cache.ping() > 0


async def connect_async(cache: kvserve.AsyncClient, turn: int) -> None:
    name = cache._names.name
    another = await kvserve.connect_async(name, timeout=30, read="worker")
    try:
        await count_async(another, turn)
    finally:
        sys.setprofile(None)  # who interrupts the closing has to close again
        await another.close()


ASYNC_KINDS = {
    "count": count_async,
    "large": large_async,
    "pipeline": pipeline_async,
    "scan": scan_async,
    "ask all": ask_all_async,
    "connect": connect_async,
}


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))

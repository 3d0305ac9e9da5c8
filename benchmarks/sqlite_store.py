"""How many saves and loads a second does the SQLite store acknowledge on this disk?

    python benchmarks/sqlite_store.py --directory /var/tmp

The first row is what the disk itself can do, since one caller's saves cannot be faster. Without a
server: callers are coroutines of one process, each with one call under way, as the requests of
one worker are; then several processes use one file, as the workers of an instance do.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import uvloop

from kvserve.protocol import codec
from kvserve.store.base import Record
from kvserve.store.sqlite.store import SqliteStore

CALLERS = (1, 16, 256)
PROCESSES = 4
KEYS = 10_000
VALUE = bytes(100)
TIMEOUT_SECONDS = 30.0


async def _rate(callers: int, seconds: float, call: Callable[[int], Awaitable[object]]) -> str:
    """Calls a second, and their latency, when each caller makes one after the other."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        while (started := time.perf_counter()) < end:
            await call(number % KEYS)
            latencies.append(time.perf_counter() - started)
            number += callers

    await asyncio.gather(*(caller(number) for number in range(callers)))
    latencies.sort()
    middle, late = (latencies[int(share * (len(latencies) - 1))] * 1e3 for share in (0.5, 0.99))
    return (
        f"{len(latencies) / seconds:9,.0f} a second, median {middle:7.3f} ms, 99% {late:7.3f} ms, "
        f"max {latencies[-1] * 1e3:8.3f} ms"
    )


async def _measure(
    url: str, seconds: float, callers: tuple[int, ...], label: str, together: Callable[[], object]
) -> None:
    store = SqliteStore(url, TIMEOUT_SECONDS)
    await store.open()

    async def save(number: int) -> None:
        await store.save_many([Record(f"key{number}", codec.BYTES, VALUE, 0)])

    async def load(number: int) -> None:
        await store.load_many([f"key{number}"])

    for name, call in (("saves", save), ("loads", load)):
        for count in callers:
            together()
            print(f"{label}{name}, {count:3} callers: {await _rate(count, seconds, call)}")
    await store.close()


def _disk(directory: Path, seconds: float) -> str:
    """How often a second 4 KiB reach the disk, one after the other."""
    count = 0
    with (directory / "probe").open("wb", buffering=0) as probe:
        probe.write(bytes(4096 * 256))
        os.fsync(probe.fileno())
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            os.pwrite(probe.fileno(), VALUE * 40, count % 256 * 4096)
            os.fdatasync(probe.fileno())
            count += 1
    return f"{count / seconds:9,.0f} a second"


def _alone() -> None:
    """Nobody to wait for."""


def _process(url: str, seconds: float, label: str, barrier: Barrier) -> None:
    uvloop.run(_measure(url, seconds, (16,), label, barrier.wait))


def main() -> None:
    """Prints one line a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, help="on the disk in question")
    parser.add_argument("--seconds", type=float, default=5.0, help="a row")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        url = f"sqlite:///{directory}/cache.db"
        print(f"fdatasync of 4 KiB:  {_disk(Path(directory), options.seconds)}")
        uvloop.run(_measure(url, options.seconds, CALLERS, "", _alone))
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(PROCESSES)
        processes = [
            context.Process(
                target=_process, args=(url, options.seconds, f"process {number}: ", barrier)
            )
            for number in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()


if __name__ == "__main__":
    main()

"""Replays a real trace through the client library, read-through: a miss is followed by a set.

How the table is made to hold so many objects: one shard, since a few hundred records must not be
split; items all of one size, told to the server as --item-size; and the least memory whose two logs
hold that many of them, which the geometry's own arithmetic finds.
"""

from __future__ import annotations

import lzma
import sys
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

import kvserve
from benchmarks.instance import running
from kvserve.errors import ConfigError
from kvserve.table.geometry import Geometry, plan

TRACE = Path(__file__).parent / "data" / "web07.trace.xz"
KEY_BYTES = 8
VALUE_BYTES = 100
S3_FIFO = {204: 0.5621, 2048: 0.4188}  # see data/README.md


@dataclass(frozen=True)
class Replay:
    """What one replay gave."""

    objects: int
    read: str
    memory: int
    hits: int
    misses: int
    seconds: float

    @property
    def miss_ratio(self) -> float:
        return self.misses / (self.hits + self.misses)


def load(trace: Path) -> array[int]:
    """The ids of a trace, in order."""
    ids = array("I", lzma.decompress(trace.read_bytes()))
    if sys.byteorder == "little":
        ids.byteswap()
    return ids


def geometry_for(objects: int) -> Geometry:
    """The smallest table of one shard that holds so many objects of the replay."""
    low, high = 1, 2**30
    while low < high:
        memory = (low + high) // 2
        try:
            enough = _plan(memory).capacity_items >= objects
        except ConfigError:
            enough = False
        low, high = (low, memory) if enough else (memory + 1, high)
    return _plan(low)


def _plan(memory: int) -> Geometry:
    return plan(memory, KEY_BYTES + VALUE_BYTES, VALUE_BYTES, shards=1, workers=1)


def replay(trace: Path, objects: int, read: Any, *, progress: bool = False) -> Replay:
    """Replays a trace on a server of its own.

    Args:
        trace: the file.
        objects: how many the table holds.
        read: "direct" or "worker", see `kvserve.connect`.
        progress: whether to draw a progress bar.
    """
    ids = load(trace)
    memory = geometry_for(objects).memory_bytes
    flags = f"--memory {memory} --shards 1 --workers 1"
    flags += f" --item-size {KEY_BYTES + VALUE_BYTES} --max-value {VALUE_BYTES}"
    value = b"x" * VALUE_BYTES
    hits = 0
    with running(*flags.split()) as name, kvserve.connect(name, read=read) as cache:
        started = time.perf_counter()
        for number in track(ids, f"{objects} {read}", disable=not progress):
            key = b"%08x" % number
            if cache.get(key) is None:
                cache.set(key, value)
            else:
                hits += 1
        seconds = time.perf_counter() - started
    return Replay(objects, read, memory, hits, len(ids) - hits, seconds)


@click.command()
@click.option("--trace", default=TRACE, type=click.Path(exists=True, path_type=Path))
@click.option("--objects", multiple=True, default=tuple(S3_FIFO), help="Capacity; repeatable.")
@click.option("--read", multiple=True, default=("direct", "worker"), help="Mode; repeatable.")
def main(trace: Path, objects: tuple[int, ...], read: tuple[str, ...]) -> None:
    """Replays TRACE at each capacity in each mode, and prints hits, misses, ratio and time."""
    table = Table("objects", "memory", "read", "hits", "misses", "hit ratio", "miss ratio",
                  "S3-FIFO", "seconds", title=trace.name)  # fmt: skip
    for capacity in objects:
        for mode in read:
            result = replay(trace, capacity, mode, progress=True)
            reference = S3_FIFO.get(capacity)
            table.add_row(
                str(capacity),
                str(result.memory),
                mode,
                str(result.hits),
                str(result.misses),
                f"{1 - result.miss_ratio:.4f}",
                f"{result.miss_ratio:.4f}",
                f"{reference:.4f}" if reference else "",
                f"{result.seconds:.2f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()

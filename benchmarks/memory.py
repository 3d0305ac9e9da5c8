"""Goal 7: how many items of 12 + 100 bytes fit 256 MB, beside memcached and Valkey?

Each is filled with more than it holds, then asked how many it has. A limit is what each one calls
so: memcached's leaves out its hash table, so what its process really takes stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

import kvserve
from benchmarks import report
from benchmarks.effort import Effort
from benchmarks.instance import running
from benchmarks.measuring import STDERR, Spread
from benchmarks.peers import enter, memcached, package, valkey
from benchmarks.report import Goal, Report, Table

LIMIT_MIB = 256
LIMIT_BYTES = LIMIT_MIB * 2**20
ITEM_BYTES = 12 + 100
VALUE = b"x" * 100
OFFERED = LIMIT_BYTES // ITEM_BYTES + 100_000  # more than fits without any overhead
BATCH = 1_000
AHEAD_BOUND = 1.1
OVERHEAD_BOUND_BYTES = 48


@dataclass(frozen=True)
class Vessel:
    """Something to fill.

    Attributes:
        put_many: stores a batch.
        count: how many items there are.
        taken_bytes: what it takes of the machine, as far as the kernel tells.
    """

    put_many: Callable[[Mapping[bytes, bytes]], Any]
    count: Callable[[], int]
    taken_bytes: Callable[[], int]


@contextmanager
def our_table() -> Iterator[Vessel]:
    flags = ("--memory", f"{LIMIT_MIB}MiB", "--item-size", str(ITEM_BYTES))
    with running(*flags) as name, kvserve.connect(name, timeout=10) as cache:
        yield Vessel(
            cache.set_many,
            lambda: int(cache.stats()["items"]),
            lambda: int(cache.stats()["memory_bytes"]),
        )


@contextmanager
def memcached_items() -> Iterator[Vessel]:
    pymemcache = package("pymemcache.client.base", "pymemcache")
    with memcached(LIMIT_MIB) as peer, closing(pymemcache.Client(peer.socket)) as client:
        yield Vessel(
            client.set_many,
            lambda: int(client.stats()[b"curr_items"]),
            lambda: resident_bytes(peer.pid),
        )


@contextmanager
def valkey_items() -> Iterator[Vessel]:
    redis = package("redis", "redis[hiredis]")
    limit = ("--maxmemory", f"{LIMIT_MIB}mb", "--maxmemory-policy", "allkeys-lru")
    with valkey(*limit) as peer, redis.Redis(unix_socket_path=peer.socket) as client:
        yield Vessel(client.mset, client.dbsize, lambda: resident_bytes(peer.pid))


def resident_bytes(pid: int) -> int:
    """What a process has in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel tells no VmRSS of {pid}")


def measure(effort: Effort) -> Report:
    del effort  # a count needs no rounds
    answer = Report()
    vessels = {
        "kvserve": our_table,
        "memcached": memcached_items,
        "Valkey, allkeys-lru": valkey_items,
    }
    counts: dict[str, int] = {}
    densities: dict[str, float] = {}  # items a MiB that it really takes
    rows: list[list[Any]] = []
    for name, vessel in vessels.items():
        with ExitStack() as stack:
            filled = enter(stack, vessel(), answer.missing)
            if filled is None:
                continue
            for start in track(
                range(0, OFFERED, BATCH), f"filling {name}", console=STDERR, transient=True
            ):
                numbers = range(start, start + BATCH)
                filled.put_many({b"key:%08d" % number: VALUE for number in numbers})
            counts[name] = filled.count()
            overhead = LIMIT_BYTES / counts[name] - ITEM_BYTES
            taken_mib = filled.taken_bytes() / 2**20
            densities[name] = counts[name] / taken_mib
            rows.append([name, counts[name], overhead, taken_mib])
    columns = ["", "items", "bytes of overhead an item", "taken, MiB"]
    answer.tables.append(Table(f"items of {ITEM_BYTES} bytes in {LIMIT_MIB} MiB", columns, rows))
    if len(counts) > 1:
        for what, figures in (
            ("items at the same limit", counts),
            ("items a MiB taken", densities),
        ):
            best = max(set(figures) - {"kvserve"}, key=figures.__getitem__)
            ahead = _once(figures["kvserve"] / figures[best])
            answer.goals.append(Goal(7, f"{what} / {best}", ahead, AHEAD_BOUND, at_most=False))
    overhead = rows[0][2]
    answer.goals.append(
        Goal(7, "overhead of an item", _once(overhead), OVERHEAD_BOUND_BYTES, unit="bytes")
    )
    return answer


def _once(value: float) -> Spread:
    return Spread(value, value, value)


if __name__ == "__main__":
    report.main("memory", measure)

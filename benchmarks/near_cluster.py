"""What do a miss and a set cost through one worker of a near cache over a Valkey cluster?

    python benchmarks/near_cluster.py [--rounds N] [--calls N] [--spin MICROSECONDS]

Beside them redis-py's GET and SET, one after the other, to the same cluster of three primaries on
this machine. The four take turns in each round, so that a busy neighbour strikes all alike; told is
the median of the rounds' medians, and what kvserve's is of redis-py's. Needs the tests' packages.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

import kvserve

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.valkeys import Cluster, serve_cluster, wait_until  # not a package

_VALUE = b"x" * 100
_LABELS = ("redis-py get", "kvserve miss", "redis-py set", "kvserve set")


def measure(rounds: int, calls: int, spin: int) -> dict[str, float]:
    """The microseconds of each, by its label."""
    medians: dict[str, list[float]] = {label: [] for label in _LABELS}
    with serve_cluster() as cluster:
        cluster.wait_ready()
        with _near_cache(cluster, spin) as cache:
            beside = redis.RedisCluster(host="127.0.0.1", port=cluster.servers[0].port)
            for number in range(rounds):
                keys = [f"{number}:{call}" for call in range(calls)]
                for key in keys:
                    beside.set(key, _VALUE)
                time.sleep(0.1)  # until all is told and forgotten
                work: tuple[Callable[[str], Any], ...] = (
                    beside.get,
                    cache.get,
                    lambda key: beside.set(key, _VALUE),
                    lambda key: cache.set(key, _VALUE),
                )
                for label, call in zip(_LABELS, work, strict=True):
                    medians[label].append(_median_us(call, keys))
            beside.close()
    return {label: statistics.median(each) for label, each in medians.items()}


def _median_us(call: Callable[[str], Any], keys: list[str]) -> float:
    times = []
    for key in keys:
        began = time.perf_counter_ns()
        call(key)
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1000


@contextmanager
def _near_cache(cluster: Cluster, spin: int) -> Iterator[kvserve.Client]:
    name = f"bench-{secrets.token_hex(4)}"
    command = [sys.executable, "-m", "kvserve", "serve", "--name", name, "--store", cluster.url]
    command += ["--workers", "1", "--no-keep", "--spin", str(spin)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:

        def is_served() -> bool:
            with suppress(kvserve.KvserveError), kvserve.connect(name) as cache:
                (worker,) = cache.stats()["workers"]
                nodes = worker["store"]["nodes"].values()
                return bool(nodes) and all("heard_seconds" in node for node in nodes)
            return False

        wait_until(is_served)
        with kvserve.connect(name) as cache:
            yield cache
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--spin", type=int, default=50)
    told = measure(**vars(parser.parse_args()))
    for label, microseconds in told.items():
        print(f"{label}: {microseconds:.0f} us")
    for ours, theirs in (("kvserve miss", "redis-py get"), ("kvserve set", "redis-py set")):
        print(f"{ours}: {told[ours] / told[theirs]:.2f} times {theirs}")

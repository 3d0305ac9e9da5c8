"""Is any value of a near cache over a cluster older than its bound? Six nodes under faults.

    PYTHONPATH=tests python -m fault.cluster_checker [SECONDS [SEED [FAULT ...]]]

A kvserve with two workers is the near cache of a real cluster, three primaries and three replicas.
Plain redis-py clients, each with a connection to one node, write keys whose values are the moments
at which they were written, and note when a write was acknowledged: by a replica, too, since a
cluster may lose what only a dead primary had. Readers through kvserve, and beside them redis-py's
cluster client, note when each read began and what came. Nothing that is read may have been replaced
by a write that was acknowledged longer than the bound before the read began; a miss counts as the
value from before the first write. Meanwhile one fault after the other strikes one part of the
cluster, and calls for keys of the others are counted, and those that fail. The last line is JSON.
"""

from __future__ import annotations

import json
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import redis
import redis.cluster
from fault.cluster_faults import FAULTS, Faults
from fault.cluster_trial import BOUND_SECONDS, SHARDS, TIMEOUT_SECONDS, Trial
from support.servers import clean_up
from support.valkeys import Cluster, serve_cluster, wait_until

import kvserve
from kvserve.names import instance


def run(seconds: float, seed: int, names: list[str]) -> dict[str, Any]:
    """Strikes until the time is over, each fault at least once; returns the summary."""
    dice = random.Random(seed)
    with serve_cluster(spares=SHARDS) as cluster, _near_cache(cluster) as name:
        cluster.wait_ready()
        for shard in range(SHARDS):
            primary = cluster.node_id(cluster.servers[shard])
            cluster.spares[shard].call("CLUSTER", "REPLICATE", primary)
        trial = Faults(cluster, name)
        trial.repair()
        with _clients(trial, name, dice):
            time.sleep(BOUND_SECONDS)
            ends = time.monotonic() + seconds
            todo = dice.sample(names, len(names))
            while todo or time.monotonic() < ends:
                fault = todo.pop() if todo else dice.choice(names)
                print(f"{fault} ...", file=sys.stderr, flush=True)
                FAULTS[fault](trial, dice)
                trial.fault = "calm"
                time.sleep(0.5 * BOUND_SECONDS)
        for violation in trial.violations[:20]:
            print("VIOLATION", violation)
        return {"seed": seed, **trial.summary()}


@contextmanager
def _near_cache(cluster: Cluster) -> Iterator[str]:
    name = f"checker-{secrets.token_hex(4)}"
    command = [sys.executable, "-m", "kvserve", "serve", "--name", name, "--workers", "2"]
    command += ["--store", cluster.url, "--near-cache-staleness", str(BOUND_SECONDS)]
    command += ["--store-timeout", str(TIMEOUT_SECONDS), "--negative-ttl", "30"]
    cluster.wait_ready()
    server = subprocess.Popen(command, stderr=sys.stderr)
    try:

        def is_served() -> bool:
            with suppress(kvserve.KvserveError), kvserve.connect(name) as cache:
                return bool(cache.stats())
            return False

        wait_until(is_served)
        yield name
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        clean_up(instance(name))  # the table that it keeps


@contextmanager
def _clients(trial: Trial, name: str, dice: random.Random) -> Iterator[None]:
    """All clients of a trial, until the block ends."""
    with ExitStack() as stack:
        work: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
            (trial.write, (shard,)) for shard in range(SHARDS)
        ]
        for _ in range(2):
            cache = stack.enter_context(kvserve.connect(name, timeout=5 * TIMEOUT_SECONDS))
            nodes = [redis.cluster.ClusterNode("127.0.0.1", s.port) for s in trial.cluster.servers]
            beside = redis.RedisCluster(
                startup_nodes=nodes, protocol=2, socket_timeout=TIMEOUT_SECONDS
            )
            stack.callback(beside.close)
            for who, get, put in (
                ("kvserve", cache.get, cache.set),
                ("redis-py", beside.get, beside.set),
            ):
                work.append((trial.read, (who, get, dice.random())))
                work.append((trial.call, (who, put, dice.random())))
        threads = [threading.Thread(target=each, args=arguments) for each, arguments in work]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            trial.ended.set()
            for thread in threads:
                thread.join()


if __name__ == "__main__":
    chosen = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbits(32)
    print(f"seed {chosen}", flush=True)
    told = run(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, chosen, sys.argv[3:] or [*FAULTS])
    print(json.dumps(told))
    sys.exit(bool(told["violations"] or told["living_failed"]))

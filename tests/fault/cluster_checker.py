"""Is any value of a near cache over a cluster older than its bound? Six nodes, and what befalls them.

    PYTHONPATH=tests python -m fault.cluster_checker [SECONDS [SEED [FAULT ...]]]

A kvserve with two workers is the near cache of a real cluster of three primaries and three replicas.
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
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import redis
import redis.cluster
from redis.crc import key_slot
from valkeys import NEVER, SLOTS, Cluster, serve_cluster, wait_until

import kvserve

BOUND_SECONDS = 1.0
SLACK_SECONDS = 0.05  # between the moments that are compared and their notes
TIMEOUT_SECONDS = 2.0  # of the store
KEYS_A_SHARD = 3
SHARDS = 3
_PAUSE_SECONDS = 0.002
_DROP_ALL = -2  # of DEBUG DROP-CLUSTER-PACKET-FILTER


def keys_of_shard(shard: int, count: int, title: str) -> list[str]:
    """Names whose slots a third of the cluster has at the start."""
    first, end = (SLOTS * each // SHARDS for each in (shard, shard + 1))
    names = (f"{title}-{number}" for number in range(100_000))
    found = (name for name in names if first <= key_slot(name.encode()) < end)
    return [next(found) for _ in range(count)]


class Truth:
    """What was acknowledged of each key, and when."""

    def __init__(self) -> None:
        self._stamps: dict[str, list[int]] = defaultdict(list)
        self._moments: dict[str, list[float]] = defaultdict(list)

    def acknowledge(self, key: str, stamp: int) -> None:
        """A write of this value has just been acknowledged. One writer a key."""
        self._moments[key].append(time.monotonic())  # first: a reader looks for the stamp
        self._stamps[key].append(stamp)

    def age_seconds(self, key: str, stamp: int, began: float) -> float:
        """How long, when a read began, what it returned had been replaced."""
        newer = bisect_right(self._stamps[key], stamp)
        moments = self._moments[key]
        return began - moments[newer] if newer < len(self._stamps[key]) else 0.0


class Trial:
    """The cluster, its clients, and what they noted."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        with kvserve.connect(name) as cache:
            self.worker_pids = [worker["pid"] for worker in cache.stats()["workers"]]
        self.primary = list(cluster.servers[:SHARDS])  # of each shard, just now
        self.replica = list(cluster.servers[SHARDS:])
        self.keys = {s: keys_of_shard(s, KEYS_A_SHARD, "key") for s in range(SHARDS)}
        self.absent = {s: keys_of_shard(s, 4000, "absent") for s in range(SHARDS)}
        self.turn = 0  # which of the absent ones are about to be written
        self.port = {key: self.primary[s].port for s in self.keys for key in self.keys[s]}
        self.truth = Truth()
        self.fault = "calm"
        self.hurt: set[int] = set()  # shards that a fault strikes
        self.needs_replica = True
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.stalest: dict[tuple[str, str], float] = defaultdict(float)
        self.violations: list[str] = []
        self.served_at = {"kvserve": 0.0, "redis-py": 0.0}  # the last answer
        self.whole_at = 0.0  # when the cluster was whole again after an outage
        self.again = {"kvserve": 0.0, "redis-py": 0.0}  # how long after that each was served
        self.ended = threading.Event()

    # The clients, each in a thread of its own.

    def write(self, shard: int) -> None:
        """Writes the keys of a shard, over one connection to each node."""
        links: dict[int, redis.Redis] = {}
        number = 0
        while not self.ended.wait(_PAUSE_SECONDS * 5):
            number += 1
            key = self.keys[shard][number % KEYS_A_SHARD]
            if number % 20 == 0:  # one that is not there yet
                self.turn = max(self.turn, number // 20)
                key = self.absent[shard][number // 20 % len(self.absent[shard])]
                self.port[key] = self.primary[shard].port
            stamp = time.monotonic_ns()
            with suppress(redis.exceptions.RedisError):
                if self._set(links, key, stamp):
                    self.truth.acknowledge(key, stamp)
        for link in links.values():
            link.close()

    def _set(self, links: dict[int, redis.Redis], key: str, stamp: int) -> bool:
        port = self.port[key]
        for _ in range(3):
            if port not in links:
                links[port] = redis.Redis(
                    port=port, protocol=2, retry=NEVER, socket_timeout=0.5,
                    single_connection_client=True,
                )  # fmt: skip
            try:
                links[port].execute_command("SET", key, stamp)
                break
            except redis.exceptions.MovedError as error:
                port = self.port[key] = error.port
            except redis.exceptions.AskError:
                return False
            except redis.exceptions.RedisError:
                links.pop(port).close()
                self.port[key] = self.primary[int(key_slot(key.encode()) * SHARDS / SLOTS)].port
                raise
        return not self.needs_replica or links[port].execute_command("WAIT", 1, 200) >= 1

    def read(self, who: str, get: Callable[[str], Any], seed: int) -> None:
        """Reads keys at random, and judges what comes."""
        dice = random.Random(seed)
        while not self.ended.wait(_PAUSE_SECONDS):
            shard = dice.randrange(SHARDS)
            key = dice.choice(self.keys[shard])
            if dice.random() < 0.2:
                key = self.absent[shard][(self.turn + dice.randrange(-3, 3)) % 4000]
            fault, is_hurt = self.fault, shard in self.hurt
            began = time.monotonic()
            try:
                found = get(key)
            except (kvserve.ServerError, redis.exceptions.RedisError) as error:
                self._count(who, fault, is_hurt, error)
                continue
            self._count(who, fault, is_hurt, None)
            age = self.truth.age_seconds(key, int(found or 0), began)
            self.stalest[who, fault] = max(self.stalest[who, fault], age)
            if age > BOUND_SECONDS + SLACK_SECONDS and who == "kvserve":
                self.violations.append(f"{fault}: {key} was {age:.3f} s old")

    def call(self, who: str, put: Callable[[str, int], Any], seed: int) -> None:
        """Sets keys of its own; only whether that works is looked at."""
        dice = random.Random(seed)
        names = {s: keys_of_shard(s, 20, f"own-{who}") for s in range(SHARDS)}
        while not self.ended.wait(_PAUSE_SECONDS * 2):
            shard = dice.randrange(SHARDS)
            fault, is_hurt = self.fault, shard in self.hurt
            try:
                put(dice.choice(names[shard]), 1)
            except (kvserve.ServerError, redis.exceptions.RedisError) as error:
                self._count(f"{who} set", fault, is_hurt, error)
            else:
                self._count(f"{who} set", fault, is_hurt, None)
                now = time.monotonic()
                if self.served_at[who] < self.whole_at:
                    self.again[who] = max(self.again[who], now - self.whole_at)
                self.served_at[who] = now

    def _count(self, who: str, fault: str, is_hurt: bool, error: Exception | None) -> None:
        if fault != self.fault:
            return  # it began or ended meanwhile
        place = "hurt" if is_hurt else "living"
        self.counts[who, fault, f"{place} {'failed' if error else 'done'}"] += 1
        if error and not is_hurt:
            self.counts[who, fault, f"{type(error).__name__}: {str(error)[:90]}"] += 1

    # What befalls the cluster. Each leaves it whole.

    @contextmanager
    def striking(self, fault: str, *shards: int) -> Iterator[None]:
        """Calls for keys of other shards are to go on meanwhile."""
        self.hurt = set(shards)
        self.fault = fault
        yield
        self.mend()
        self.hurt = set()

    def mend(self) -> None:
        """Waits until the cluster agrees, and every shard has a replica that is up to date."""
        self.cluster.wait_ready()
        for shard in range(SHARDS):
            wait_until(
                lambda shard=shard: (
                    b"master_link_status:up" in self.replica[shard].call("INFO", "replication")
                )
            )

    def swap(self, shard: int) -> None:
        """The replica of a shard is its primary now."""
        self.primary[shard], self.replica[shard] = self.replica[shard], self.primary[shard]

    def stand_still(self, dice: random.Random) -> None:
        """A primary stops for 1.8 times the bound; if that is long enough, its replica takes over."""
        shard = dice.randrange(SHARDS)
        with self.striking("a node stands still", shard):
            self.primary[shard].signal(signal.SIGSTOP)
            time.sleep(1.8 * BOUND_SECONDS)
            self.primary[shard].signal(signal.SIGCONT)
            time.sleep(BOUND_SECONDS)
            self.cluster.wait_ready()
            if b"role:slave" in self.primary[shard].call("INFO", "replication"):
                self.swap(shard)

    def kill(self, dice: random.Random) -> None:
        """A primary dies; its replica takes over; it comes back as the replica."""
        shard = dice.randrange(SHARDS)
        with self.striking("a primary is killed", shard):
            self.primary[shard].kill()
            successor = self.replica[shard]
            wait_until(lambda: b"role:master" in successor.call("INFO", "replication"))
            time.sleep(BOUND_SECONDS)
            self.primary[shard].start()
            self.swap(shard)

    def fail_over(self, dice: random.Random) -> None:
        """An operator asks for a failover."""
        shard = dice.randrange(SHARDS)
        with self.striking("a failover that was asked for", shard):
            self._until_primary(shard, "FAILOVER")

    def take_over(self, dice: random.Random) -> None:
        """A primary hears nothing from the others any more; its replica is forced to take over, and
        is written to, while the primary still answers as if nothing had happened."""
        shard = dice.randrange(SHARDS)
        with self.striking("a takeover while the old primary is cut off", shard):
            for server in self.cluster.servers:
                server.call("CONFIG", "SET", "cluster-node-timeout", 6000)
            old = self.primary[shard]
            old.call("DEBUG", "DROP-CLUSTER-PACKET-FILTER", _DROP_ALL)
            self._until_primary(shard, "FAILOVER", "TAKEOVER")
            self.needs_replica = False  # what is written now is the new primary's alone
            for key in (*self.keys[shard], *self.absent[shard]):
                self.port[key] = self.primary[shard].port
            time.sleep(3 * BOUND_SECONDS)
            self.needs_replica = True
            old.call("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -1)
            for server in self.cluster.servers:
                server.call("CONFIG", "SET", "cluster-node-timeout", 1000)

    def _until_primary(self, shard: int, *words: str) -> None:
        successor = self.replica[shard]
        successor.call("CLUSTER", *words)
        wait_until(lambda: b"role:master" in successor.call("INFO", "replication"))
        self.swap(shard)

    def move_slot(self, dice: random.Random) -> None:
        """The slot of a key moves to another primary, and back. No call may fail for that."""
        shard = dice.randrange(SHARDS)
        old, new = self.primary[shard], self.primary[(shard + 1) % SHARDS]
        with self.striking("a slot that moves"):
            slot = key_slot(self.keys[shard][0].encode())
            for source, target in ((old, new), (new, old)):
                names = [self.cluster.node_id(each) for each in (source, target)]
                target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
                source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
                time.sleep(0.2)
                while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 100):
                    source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
                for server in (target, source, *self.primary):
                    server.call("CLUSTER", "SETSLOT", slot, "NODE", names[1])
                time.sleep(BOUND_SECONDS)

    def cut_links(self, dice: random.Random) -> None:
        """The connections that tell of changes are cut, again and again."""
        with self.striking("tracking connections are cut"):
            for _ in range(5):
                server = dice.choice(self.primary)
                for line in server.call("CLIENT", "LIST").splitlines():
                    if b"name=kvserve-follower" in line:
                        number = line.split()[0].removeprefix(b"id=")
                        server.call("CLIENT", "KILL", "ID", number)
                time.sleep(dice.uniform(0.05, 0.5))

    def stop_worker(self, dice: random.Random) -> None:
        """A worker stops for longer than the bound, while its table can be read."""
        with self.striking("a worker is stopped", *range(SHARDS)):
            pid = dice.choice(self.worker_pids)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(2.5 * BOUND_SECONDS)
            os.kill(pid, signal.SIGCONT)
            time.sleep(BOUND_SECONDS)

    def lie_dead(self, dice: random.Random) -> None:
        """A primary is dead, and nobody takes its place; the others' keys must not notice."""
        shard = dice.randrange(SHARDS)
        for server in self.cluster.servers:
            server.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
        self.replica[shard].call("CONFIG", "SET", "cluster-replica-no-failover", "yes")
        with self.striking("a primary is dead for long", shard):
            self.primary[shard].kill()
            time.sleep(4 * BOUND_SECONDS)
            self.primary[shard].start()
            self.primary[shard].call("CONFIG", "SET", "cluster-require-full-coverage", "no")
        self.replica[shard].call("CONFIG", "SET", "cluster-replica-no-failover", "no")
        for server in self.cluster.servers:
            server.call("CONFIG", "SET", "cluster-require-full-coverage", "yes")

    def outage(self, dice: random.Random) -> None:
        """All nodes stand still; how long until each client is served again is noted."""
        with self.striking("all nodes stand still", *range(SHARDS)):
            for server in self.cluster.servers:
                server.signal(signal.SIGSTOP)
            time.sleep(dice.uniform(4.0, 6.0) * BOUND_SECONDS)
            for server in self.cluster.servers:
                server.signal(signal.SIGCONT)
            self.cluster.wait_ready()
            whole = self.whole_at = time.monotonic()
            wait_until(lambda: all(served > whole for served in self.served_at.values()))
            for shard in range(SHARDS):
                if b"role:slave" in self.primary[shard].call("INFO", "replication"):
                    self.swap(shard)

    def summary(self) -> dict[str, Any]:
        """What was noted, by fault."""
        faults: dict[str, dict[str, Any]] = {}
        for (who, fault, what), count in sorted(self.counts.items()):
            faults.setdefault(fault, {})[f"{who}: {what}"] = count
        for (who, fault), age in self.stalest.items():
            faults[fault][f"{who}: stalest, ms"] = round(1000 * age)
        reads = sum(
            count for (who, _, what), count in self.counts.items()
            if who == "kvserve" and what.endswith("done")
        )  # fmt: skip
        return {
            "reads": reads,
            "violations": len(self.violations),
            "living_failed": sum(
                count for (who, _, what), count in self.counts.items()
                if who.startswith("kvserve") and what == "living failed"
            ),
            "again_after_ms": {who: round(1000 * each) for who, each in self.again.items()},
            "faults": faults,
        }  # fmt: skip


FAULTS = {
    "stop": Trial.stand_still,
    "kill": Trial.kill,
    "failover": Trial.fail_over,
    "takeover": Trial.take_over,
    "slot": Trial.move_slot,
    "links": Trial.cut_links,
    "worker": Trial.stop_worker,
    "dead": Trial.lie_dead,
    "outage": Trial.outage,
}


def run(seconds: float, seed: int, names: list[str]) -> dict[str, Any]:
    """Strikes until the time is over, each fault at least once; returns the summary."""
    dice = random.Random(seed)
    with serve_cluster(spares=SHARDS) as cluster, _near_cache(cluster) as name:
        cluster.wait_ready()
        for shard in range(SHARDS):
            primary = cluster.node_id(cluster.servers[shard])
            cluster.spares[shard].call("CLUSTER", "REPLICATE", primary)
        trial = Trial(cluster, name)
        trial.mend()
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
    command += ["--store-timeout", str(TIMEOUT_SECONDS), "--absence-ttl", "30"]
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

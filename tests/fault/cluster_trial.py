"""The clients of the cluster checker: what they write and read, and how it is judged."""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
import redis.cluster
from redis.crc import key_slot
from support.valkeys import NEVER, SLOTS, Cluster

import kvserve

BOUND_SECONDS = 1.0
SLACK_SECONDS = 0.05  # between the moments that are compared and their notes
TIMEOUT_SECONDS = 2.0  # of the store
KEYS_A_SHARD = 3
SHARDS = 3
_PAUSE_SECONDS = 0.002
# After a long outage redis-py raises one that is no RedisError.
FAILURES = (
    kvserve.ServerError, redis.exceptions.RedisError, redis.exceptions.RedisClusterException
)  # fmt: skip
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
        self.outage_ends = 0.0  # when the nodes went on after an outage
        # How long after that each was served, and the cluster whole, at the latest.
        self.again = {"kvserve": 0.0, "redis-py": 0.0, "the cluster": 0.0}
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
            except FAILURES as error:
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
            except FAILURES as error:
                self._count(f"{who} set", fault, is_hurt, error)
            else:
                self._count(f"{who} set", fault, is_hurt, None)
                now = time.monotonic()
                if self.served_at[who] < self.outage_ends:
                    self.again[who] = max(self.again[who], now - self.outage_ends)
                self.served_at[who] = now

    def _count(self, who: str, fault: str, is_hurt: bool, error: Exception | None) -> None:
        if fault != self.fault:
            return  # it began or ended meanwhile
        place = "hurt" if is_hurt else "living"
        self.counts[who, fault, f"{place} {'failed' if error else 'done'}"] += 1
        if error and not is_hurt:
            self.counts[who, fault, f"{type(error).__name__}: {str(error)[:90]}"] += 1

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

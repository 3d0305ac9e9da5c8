"""What befalls the cluster of the cluster checker. Each fault leaves it whole."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fault.cluster_trial import BOUND_SECONDS, SHARDS, Trial
from redis.crc import key_slot
from support.valkeys import wait_until

_DROP_ALL = -2  # of DEBUG DROP-CLUSTER-PACKET-FILTER


class Faults(Trial):
    """A trial, and its faults."""

    @contextmanager
    def striking(self, fault: str, *shards: int) -> Iterator[None]:
        """Calls for keys of other shards are to go on meanwhile."""
        self.hurt = set(shards)
        self.fault = fault
        yield
        self.repair()
        self.hurt = set()

    def repair(self) -> None:
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
        """A primary stops for 1.8 times the bound; its replica may have taken over by then."""
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
        """A primary is dead, and for long nobody takes its place; others' keys must not notice."""
        self._be_away("a primary is dead for long", dice, signal.SIGKILL)

    def hang(self, dice: random.Random) -> None:
        """The same, but it keeps its connections and answers nothing."""
        self._be_away("a primary hangs for long", dice, signal.SIGSTOP)

    def _be_away(self, fault: str, dice: random.Random, how: signal.Signals) -> None:
        shard = dice.randrange(SHARDS)
        old, successor = self.primary[shard], self.replica[shard]
        for server in self.cluster.servers:
            server.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
        successor.call("CONFIG", "SET", "cluster-replica-no-failover", "yes")
        with self.striking(fault, shard):
            if how is signal.SIGKILL:
                old.kill()
            else:
                old.signal(how)
            time.sleep(4 * BOUND_SECONDS)
            successor.call("CONFIG", "SET", "cluster-replica-no-failover", "no")
            wait_until(lambda: b"role:master" in successor.call("INFO", "replication"))
            if how is signal.SIGKILL:
                old.start()  # as the replica: it has lost what it had in memory
            else:
                old.signal(signal.SIGCONT)
            self.swap(shard)
        for server in self.cluster.servers:
            server.call("CONFIG", "SET", "cluster-require-full-coverage", "yes")

    def outage(self, dice: random.Random) -> None:
        """All nodes stand still; how long until each client is served again is noted."""
        self._freeze(dice.uniform(4.0, 6.0) * BOUND_SECONDS)

    def long_outage(self, _dice: random.Random) -> None:
        """As long as a restart of all nodes takes: every pause is at its longest by then."""
        self._freeze(25.0)

    def _freeze(self, seconds: float) -> None:
        with self.striking("all nodes stand still", *range(SHARDS)):
            for server in self.cluster.servers:
                server.signal(signal.SIGSTOP)
            time.sleep(seconds)
            ends = self.outage_ends = time.monotonic()
            for server in self.cluster.servers:
                server.signal(signal.SIGCONT)
            self.cluster.wait_ready()
            whole = time.monotonic()
            self.again["the cluster"] = max(self.again["the cluster"], whole - ends)
            wait_until(lambda: all(served > whole for served in self.served_at.values()))
            for shard in range(SHARDS):
                if b"role:slave" in self.primary[shard].call("INFO", "replication"):
                    self.swap(shard)


FAULTS = {
    "stop": Faults.stand_still,
    "kill": Faults.kill,
    "failover": Faults.fail_over,
    "takeover": Faults.take_over,
    "slot": Faults.move_slot,
    "links": Faults.cut_links,
    "worker": Faults.stop_worker,
    "dead": Faults.lie_dead,
    "hung": Faults.hang,
    "outage": Faults.outage,
    "long outage": Faults.long_outage,
}

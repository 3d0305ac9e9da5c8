"""Trusted writers of a real server are killed beside its workers, clients and lock-free readers.

Each writer is a process of two threads. Whoever dies, dies with the locks that it holds, in the
middle of a change or of an event; others go on, and take its locks, its place and its ring.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from fault import payloads
from support.servers import Server, StartServer

import kvserve
from kvserve.errors import ServerBusy

FORK = multiprocessing.get_context("fork")
KILLS = int(os.environ.get("KVSERVE_TEST_KILLS", "100"))
WRITERS = 3
PLACES = 2 * WRITERS  # a killed process's place is free when the kernel says so
KEYS = 20  # overwritten without pause, never deleted: never seen missing
CHURN = 20_000  # others that come and go, and keep both logs turning


def write(name: str, seed: int, busy: Any) -> None:
    """Overwrites the watched keys in turn with the churn, for ever, in two threads."""
    with kvserve.connect(name, write="direct", timeout=30.0) as cache:
        second = threading.Thread(target=change, args=(cache, seed + 1, busy), daemon=True)
        second.start()
        change(cache, seed, busy)


def change(cache: kvserve.Client, seed: int, busy: Any) -> None:
    chance = random.Random(seed)
    while True:
        key = f"watched {chance.randrange(KEYS)}"
        size_bytes = chance.choice((20, 300, 3000))
        try:
            cache.set(key, payloads.make(time.monotonic_ns(), size_bytes))
            cache.set_many({f"churn {chance.randrange(CHURN)}": bytes(200) for _ in range(3)})
            cache.set(f"churn {chance.randrange(CHURN)}", "short", ttl=0.05)
            cache.delete(f"churn {chance.randrange(CHURN)}")
            cache.touch(f"churn {chance.randrange(CHURN)}", ttl=60)
            cache.incr("counter")
        except ServerBusy:
            busy.value += 1


def read(name: str, done: Any, reads: Any) -> None:
    """The oracle: what is there throughout is never missing, torn, or older than before."""
    versions = dict.fromkeys(range(KEYS), 0)
    with kvserve.connect(name, timeout=20) as cache:
        while not done.is_set():
            for key in range(KEYS):
                value, version = cache.gets(f"watched {key}")
                assert value is not None, f"watched {key} is missing"
                payloads.number_of(value)
                assert version is not None
                assert version >= versions[key]
                versions[key] = version
                reads.value += 1


def watch(name: str, done: Any, seen: Any) -> None:
    """The events of a key come in order, whoever changed it, and whoever died between."""
    versions: dict[Any, int] = {}
    with kvserve.connect(name, timeout=20) as cache:
        for event in cache.watch("watched", timeout=30):
            if done.is_set():
                return
            if event.key is not None:
                assert event.version is not None
                assert event.version >= versions.get(event.key, 0)
                versions[event.key] = event.version
                seen.value += 1


@pytest.mark.watchdog(240 + KILLS)
def test_writers_are_killed_beside_workers_and_readers(make_server: StartServer, seed: int) -> None:
    chance = random.Random(seed)
    server = make_server("--writers", str(PLACES), "--shards", "2", "--max-value", "8KiB")
    done = FORK.Event()
    # Raw: a lock of multiprocessing has no owner, and would be held for ever by the first killed.
    busy, reads, seen = (FORK.RawValue("Q", 0) for _ in range(3))

    def spawn(work: Any, *arguments: Any) -> BaseProcess:
        process = FORK.Process(target=work, args=(server.name, *arguments), daemon=True)
        process.start()
        return process

    with server.connect(timeout=30.0) as cache:
        for key in range(KEYS):
            cache.set(f"watched {key}", payloads.make(1, 20))
        oracles = [spawn(read, done, reads), spawn(watch, done, seen)]
        writers = [spawn(write, chance.getrandbits(32), busy) for _ in range(WRITERS)]
        longest_seconds = 0.0
        for turn in range(KILLS):
            time.sleep(chance.uniform(0.005, 0.05))
            index = chance.randrange(WRITERS)
            writers[index].kill()
            if turn % 20 == 10:
                kill_a_worker(server, chance)
            began = time.monotonic()
            for key in range(KEYS):
                cache.set(f"watched {key}", payloads.make(turn, 300))
            longest_seconds = max(longest_seconds, time.monotonic() - began)
            writers[index].join()
            writers[index] = spawn(write, chance.getrandbits(32), busy)
            for oracle in oracles:
                assert oracle.exitcode is None, "an oracle found something"
        for writer in writers:
            writer.kill()
            writer.join()
        done.set()
        for oracle in oracles:
            while oracle.is_alive():
                cache.set("watched 0", payloads.make(2, 20))
                oracle.join(0.05)
            assert oracle.exitcode == 0
        figures = cache.stats()
        print(
            f"{KILLS} kills, {figures['lock_recoveries']} locks taken from the dead, "
            f"{reads.value} reads, {seen.value} events, {busy.value} times busy, "
            f"longest {KEYS} sets by way of the workers {longest_seconds * 1000:.0f} ms"
        )
        assert reads.value
        assert seen.value
        assert busy.value == 0  # that nobody waits for the dead: a second would be too long
        assert cache.verify() == []
        assert figures["writers"] == 0
    take_all_places(server)


def kill_a_worker(server: Server, chance: random.Random) -> None:
    pids = server.worker_pids
    if pids:
        os.kill(chance.choice(pids), signal.SIGKILL)


def take_all_places(server: Server) -> None:
    """Every place of the dead can be had again, with its ring, and all goes on working."""

    def work(release: Any) -> None:
        with kvserve.connect(server.name, timeout=20, write="direct") as cache:
            for turn in range(2000):
                cache.set(f"after {turn % 300}", bytes(turn % 700))
            release.wait()

    release = FORK.Event()
    crew = [FORK.Process(target=work, args=(release,)) for _ in range(PLACES)]
    for process in crew:
        process.start()
    with server.connect() as cache:
        give_up = time.monotonic() + 60
        while cache.stats()["writers"] < PLACES:
            assert time.monotonic() < give_up
        release.set()
        for process in crew:
            process.join()
            assert process.exitcode == 0
        assert cache.verify() == []

"""Two hosts with a near cache each over one Valkey: nothing older than the bound is ever read.

Each server here stands for a host. A writer counts a key up and notes when each number was
acknowledged; a reader on the other host notes what it read and when it began. Whatever happens to
workers, connections and servers meanwhile, a number that is read must not be older than the one
that was acknowledged `STALENESS` before.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from support.servers import Server, StartServer
from support.valkeys import Cluster, Valkey, serve, serve_cluster, wait_until

import kvserve

STALENESS = 0.5
CLOCK_SLACK = 0.02  # between the moments that are compared and their notes


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with serve() as started:
        yield started


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serve_cluster() as started:
        started.wait_ready()
        yield started


@pytest.fixture
def prefix() -> str:
    """Tests share a Valkey, and no keys."""
    return f"{secrets.token_hex(4)}:"


def near_cache(make_server: StartServer, url: str, prefix: str, timeout: str = "1") -> Server:
    flags = ("--near-cache-staleness", str(STALENESS), "--store-timeout", timeout, "--workers", "1")
    joint = "&" if "?" in url else "?"
    return make_server("--store", f"{url}{joint}prefix={prefix}", *flags)


def until_cached(cache: kvserve.Client, key: str) -> None:
    """Reads a key until a hit needs no worker any more."""

    def is_hit() -> bool:
        before = loads(cache)
        cache.get(key)
        cache.get(key)
        return loads(cache) == before

    wait_until(is_hit)


def nodes_of(cache: kvserve.Client) -> dict[str, dict[str, Any]]:
    """What the only worker knows of each of its store's servers."""
    (worker,) = cache.stats()["workers"]
    nodes: dict[str, dict[str, Any]] = worker["store"]["nodes"]
    return nodes


def loads(cache: kvserve.Client) -> int:
    return sum(worker["store"]["loads"] for worker in cache.stats()["workers"])


def test_what_one_host_changes_the_other_sees(
    make_server: StartServer, valkey: Valkey, prefix: str
) -> None:
    one = near_cache(make_server, valkey.url, prefix, timeout="20")
    other = near_cache(make_server, valkey.url, prefix, timeout="20")
    with one.connect() as here, other.connect() as there:
        here.set("a", "old")
        assert there.get("a") == "old"
        until_cached(there, "a")
        here.set("a", "new")
        wait_until(lambda: there.get("a") == "new")
        until_cached(there, "a")
        assert here.delete("a")
        wait_until(lambda: there.get("a") is None)


def test_conditions_are_decided_for_all_hosts(
    make_server: StartServer, valkey: Valkey, prefix: str
) -> None:
    one = near_cache(make_server, valkey.url, prefix, timeout="20")
    other = near_cache(make_server, valkey.url, prefix, timeout="20")
    with one.connect() as here, other.connect() as there:
        added = [here.add("only", 1), there.add("only", 2), here.add("only", 3)]
        assert added == [True, False, False]
        threads = [
            threading.Thread(target=lambda cache=cache: [cache.incr("n") for _ in range(200)])
            for cache in (here, there, here, there)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert here.incr("n", 0) == there.incr("n", 0) == 800
        here.set("draft", "first")
        until_cached(there, "draft")
        _, version = there.gets("draft")
        here.set("draft", "second")
        assert not there.cas("draft", "third", version)
        wait_until(lambda: there.gets("draft")[0] == "second")
        until_cached(there, "draft")
        assert there.cas("draft", "third", there.gets("draft")[1])
        assert here.replace("draft", "fourth")
        assert not here.replace("nobody", 1)


@contextmanager
def counting(cache: kvserve.Client, key: str) -> Iterator[list[tuple[float, int]]]:
    """Counts a key up meanwhile; yields (moment when it was acknowledged, number)."""
    done: list[tuple[float, int]] = []
    ends = threading.Event()

    def write() -> None:
        n = 0
        while not ends.wait(0.002):
            n += 1
            try:
                cache.set(key, n)
            except kvserve.ServerError:
                continue  # it may have been done: a later number is never too new
            done.append((time.monotonic(), n))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield done
    finally:
        ends.set()
        thread.join()


@contextmanager
def reading(cache: kvserve.Client, key: str) -> Iterator[list[tuple[float, int]]]:
    """Reads a key over and over meanwhile; yields (moment before the read, number)."""
    seen: list[tuple[float, int]] = []
    ends = threading.Event()

    def read() -> None:
        while not ends.wait(0.0005):
            began = time.monotonic()
            try:
                found = cache.get(key)
            except kvserve.ServerError:
                continue
            if found is not None:
                seen.append((began, found))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        ends.set()
        thread.join()


def stalest(done: list[tuple[float, int]], seen: list[tuple[float, int]]) -> float:
    """The greatest age of a number at the moment when it was read: since the next one was there."""
    replaced = {n: moment for (_, n), (moment, _) in pairwise(done)}
    return max((began - replaced.get(n, began) for began, n in seen), default=0.0)


def sigstop_worker(server: Server) -> None:
    """A worker that is stopped cannot drop what it is told."""
    pid = server.worker_pids[0]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(3 * STALENESS)
    os.kill(pid, signal.SIGCONT)


def sigkill_worker(server: Server) -> None:
    os.kill(server.worker_pids[0], signal.SIGKILL)


Trouble = Callable[[Server, Valkey], None]


def cut_connections(_: Server, valkey: Valkey) -> None:
    for kind in ("normal", "pubsub"):
        valkey.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def pause(_: Server, valkey: Valkey) -> None:
    valkey.signal(signal.SIGSTOP)
    time.sleep(3 * STALENESS)
    valkey.signal(signal.SIGCONT)


def start_anew(_: Server, valkey: Valkey) -> None:
    valkey.kill()
    time.sleep(STALENESS)
    valkey.start()


@pytest.mark.parametrize(
    "trouble",
    [
        lambda server, _: sigstop_worker(server),
        lambda server, _: sigkill_worker(server),
        cut_connections,
        pause,
        start_anew,
    ],
    ids=["stopped worker", "killed worker", "cut connections", "paused store", "new store"],
)
def test_nothing_older_than_the_bound_is_read(
    make_server: StartServer, valkey: Valkey, prefix: str, trouble: Trouble
) -> None:
    one = near_cache(make_server, valkey.url, prefix)
    other = near_cache(make_server, valkey.url, prefix)
    with one.connect() as here, other.connect() as there:
        here.set("n", 0)
        until_cached(there, "n")
        with counting(here, "n") as done, reading(there, "n") as seen:
            time.sleep(2 * STALENESS)
            trouble(other, valkey)
            time.sleep(2 * STALENESS)
            calm = len(seen)
            wait_until(lambda: len(seen) > calm + 20)
        age = stalest(done, seen)
        print(f"{len(done)} writes, {len(seen)} reads, the stalest {age * 1000:.0f} ms")
        assert age < STALENESS + CLOCK_SLACK
        assert max(n for _, n in seen) > 10


def test_a_cluster_and_a_node_that_is_killed(
    make_server: StartServer, cluster: Cluster, prefix: str
) -> None:
    one = near_cache(make_server, cluster.url, prefix)
    other = near_cache(make_server, cluster.url, prefix)
    with one.connect() as here, other.connect() as there:
        keys = [f"key-{n}" for n in range(30)]
        here.set_many(dict.fromkeys(keys, 0))
        assert there.get_many(keys) == dict.fromkeys(keys, 0)
        until_cached(there, keys[0])
        assert len({cluster.owner(prefix + key).port for key in keys}) == 3
        assert {each["breaker"] for each in nodes_of(here).values()} == {"closed"}
        node = cluster.owner(prefix + keys[0])
        with counting(here, keys[0]) as done, reading(there, keys[0]) as seen:
            time.sleep(STALENESS)
            node.kill()
            # It alone is left alone. Who asks for nothing of it learns that it does not matter.
            wait_until(lambda: nodes_of(here)[f"127.0.0.1:{node.port}"]["left_alone"])
            assert sum(each["left_alone"] for each in nodes_of(here).values()) == 1
            time.sleep(2 * STALENESS)
            node.start()
            cluster.wait_ready()
            calm = len(seen)
            wait_until(lambda: len(seen) > calm + 20)
            wait_until(lambda: not any(each["left_alone"] for each in nodes_of(here).values()))
        assert stalest(done, seen) < STALENESS + CLOCK_SLACK
        wait_until(lambda: all("heard_seconds" in each for each in nodes_of(there).values()))
        assert all(each["connections"] for each in nodes_of(here).values())

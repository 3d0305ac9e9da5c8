"""A client's life: opened, asked about the server, closed, and of no use afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable
from subprocess import PIPE, Popen
from typing import Any

import pytest
from support import ways
from support.servers import Server

import kvserve
from kvserve.errors import ClientClosed, InvalidName, ServerUnavailable
from kvserve.names import Names

IDLE = """
import sys, time
import kvserve
cache = kvserve.connect(sys.argv[1], timeout=20)
cache.ping()
print(1, flush=True)
time.sleep(1000)
"""
Eventually = Callable[[Callable[[], object]], None]

CALLS: dict[str, Callable[[Any], object]] = {
    "get": lambda cache: cache.get("key"),
    "gets": lambda cache: cache.gets("key"),
    "set": lambda cache: cache.set("key", 1),
    "add": lambda cache: cache.add("key", 1),
    "replace": lambda cache: cache.replace("key", 1),
    "cas": lambda cache: cache.cas("key", 1, 1),
    "delete": lambda cache: cache.delete("key"),
    "touch": lambda cache: cache.touch("key", 1),
    "ttl": lambda cache: cache.ttl("key"),
    "incr": lambda cache: cache.incr("key"),
    "decr": lambda cache: cache.decr("key"),
    "get_many": lambda cache: cache.get_many(["key"]),
    "set_many": lambda cache: cache.set_many({"key": 1}),
    "delete_many": lambda cache: cache.delete_many(["key"]),
    "scan": lambda cache: list(cache.scan()),
    "flush": lambda cache: cache.flush(),
    "ping": lambda cache: cache.ping(),
    "stats": lambda cache: cache.stats(),
    "verify": lambda cache: cache.verify(),
}


@pytest.mark.ways(*ways.SERVED)
def test_ping_takes_a_moment(cache: Any) -> None:
    assert cache.ping() > 0


@pytest.mark.ways(*ways.SERVED)
def test_stats_name_the_server_and_count_what_happens(cache: Any, served: Server) -> None:
    before = cache.stats()
    assert (before["name"], before["pid"]) == (served.name, served.pid)
    assert sorted(worker["pid"] for worker in before["workers"]) == sorted(served.worker_pids)
    assert before["items"] == 0
    cache.set("key", "value")
    cache.get("key")
    cache.get("key")
    cache.get("absent")
    cache.delete("key")
    cache.set("other", 1)
    after = cache.stats()
    changed = {name: after[name] - before[name] for name in ("sets", "deletes", "hits", "misses")}
    assert changed == {"sets": 2, "deletes": 1, "hits": 2, "misses": 1}
    assert after["items"] == 1
    assert after["live_bytes"] > 0
    assert 0 <= after["hit_ratio"] <= 1
    assert after["uptime_seconds"] >= before["uptime_seconds"] > 0
    assert after["value_bytes_max"] == 2**20


@pytest.mark.ways(*ways.SERVED)
def test_verify_finds_nothing(cache: Any) -> None:
    cache.set_many({f"key {number}": number for number in range(100)})
    assert cache.verify() == []


@pytest.mark.parametrize("way", ways.SERVED)
def test_closed_client_refuses_every_call(served: Server, way: str) -> None:
    cache = ways.connect(way, served.name)
    cache.set("key", 1)
    (cache.close_client if way in ways.LOOPS else cache.close)()
    for name, call in CALLS.items():
        with pytest.raises(ClientClosed):
            assert call(cache) == f"{name} must not answer"
    cache.close()


@pytest.mark.parametrize("way", ways.ASKING)
def test_closed_client_leaves_no_fifo(served: Server, way: str, eventually: Eventually) -> None:
    before = set(served.names.clients_directory.iterdir())
    cache = ways.connect(way, served.name)
    cache.set("key", bytes(100_000))
    assert set(served.names.clients_directory.iterdir()) > before
    cache.close()
    eventually(lambda: set(served.names.clients_directory.iterdir()) <= before)


def test_killed_client_leaves_no_fifo(served: Server, eventually: Eventually) -> None:
    before = set(served.names.clients_directory.iterdir())
    client = Popen([sys.executable, "-c", IDLE, served.name], stdout=PIPE)
    assert client.stdout is not None
    with client, client.stdout:
        assert client.stdout.read(1) == b"1"
        assert set(served.names.clients_directory.iterdir()) > before
        client.kill()
    eventually(lambda: set(served.names.clients_directory.iterdir()) <= before)


def test_client_is_a_context_manager(served: Server) -> None:
    with kvserve.connect(served.name, timeout=20) as cache:
        cache.set("key", 1)
    with pytest.raises(ClientClosed):
        cache.get("key")


def test_two_clients_of_one_process_are_two(served: Server) -> None:
    first = kvserve.connect(served.name, timeout=20)
    with kvserve.connect(served.name, timeout=20) as second:
        first.set("key", 1)
        first.close()
        assert second.get("key") == 1
        second.set("key", 2)


def test_nobody_serves(names: Names) -> None:
    with pytest.raises(ServerUnavailable, match=f"kvserve serve --name {names.name}"):
        kvserve.connect(names.name)


def test_name_that_is_none() -> None:
    with pytest.raises(InvalidName):
        kvserve.connect("../etc")

"""Settings that change while a server runs, by command, and what every worker makes of them."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Eventually, NewNames
from support.commands import answers, kvserve
from support.configuring import change, config, refused, versions
from support.servers import Server, StartServer

from kvserve.errors import ValueTooLarge
from kvserve.live import settings


def test_every_worker_applies_a_change_and_says_so(server: Server, eventually: Eventually) -> None:
    assert versions(server) == [1, 1]
    assert answers(config(server, "get", "log_level"), 0, b"info\n")
    assert answers(config(server, "set", "log_level", "debug"), 0, b"log_level: info -> debug\n")
    assert versions(server) == [2, 2]
    assert answers(config(server, "get", "log_level"), 0, b"debug\n")
    line = "settings version 2: log_level: info -> debug"
    for source in ("parent[", "worker 0[", "worker 1["):
        eventually(
            lambda source=source: [
                text for text in server.log.splitlines() if source in text and text.endswith(line)
            ]
        )
    stats = kvserve("stats", "--name", server.name).stdout.decode().splitlines()
    assert {"worker.0.settings_version 2", "worker.1.settings_version 2"} <= set(stats)


def test_the_workers_notice_by_themselves(server: Server, eventually: Eventually) -> None:
    """Whoever writes the page need not ask them."""
    with settings.writing(server.names) as page:
        page.publish(page.read().values | {"spin": 0})
    eventually(lambda: versions(server) == [2, 2])
    eventually(lambda: server.log.count("settings version 2: spin: 50 -> 0") == 3)


def test_commands_as_json(server: Server) -> None:
    done = config(server, "set", "max_value", "64KiB", "--json")
    assert json.loads(done.stdout) == {
        "setting": "max_value",
        "old": 256 * 1024,
        "new": 64 * 1024,
        "version": 2,
        "lagging_workers": [],
    }
    got = config(server, "get", "max_value", "--json")
    assert json.loads(got.stdout) == {"setting": "max_value", "value": 64 * 1024}
    assert json.loads(config(server, "get", "mode", "--json").stdout)["value"] == "0600"
    shown = json.loads(config(server, "show", "--live", "--json").stdout)
    assert shown["max_value"] == {"value": 64 * 1024, "changes": "live"}
    assert shown["workers"] == {"value": 2, "changes": "restart"}
    lines = config(server, "show", "--live").stdout.decode().splitlines()
    assert len(lines) == len(shown)
    assert {"max_value 65536 live", "workers 2 restart", "group - restart"} <= set(lines)


def test_a_value_that_is_in_force_is_not_published_again(server: Server) -> None:
    assert answers(config(server, "set", "spin", "50"), 0, b"spin: 50 still\n")
    assert versions(server) == [1, 1]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("log_level", "loud", "log_level 'loud': use one of debug, info, warning, error"),
        ("spin", "-5", "spin = -5: use a value from 0 to 1000"),
        ("default_ttl", "nan", "default_ttl = nan: use a value from 0.0"),
        ("max_value", "256.5KiB", "made for values of at most 256 KiB; restart the server with"),
        ("memory", "1GiB", "memory cannot change while the server runs: the table was laid out"),
        ("wokers", "1", "unknown key 'wokers'; known: name, memory"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_published(
    module_server: Server, name: str, value: str, text: str
) -> None:
    assert text in refused(config(module_server, "set", name, value), 2)
    assert versions(module_server) == [1, 1]


@pytest.fixture(scope="module")
def module_server(make_module_server: StartServer) -> Server:
    return make_module_server()


def test_unknown_names_and_odd_words(module_server: Server) -> None:
    assert "unknown key 'nope'" in refused(config(module_server, "get", "nope"), 2)
    done = config(module_server, "show", "--live", "--config", "x.toml")
    assert done.returncode == 2
    assert b"not a file" in done.stderr


def test_without_a_server(new_names: NewNames) -> None:
    name = new_names().name
    for words in (["get", "spin"], ["set", "spin", "0"], ["show", "--live"]):
        text = refused(kvserve("config", *words, "--name", name), 3)
        assert f"no kvserve server named {name!r} is running; start one" in text


def test_the_largest_value_goes_down_and_up_again(server: Server) -> None:
    change(server, "max_value", "1000")
    with server.connect() as cache:
        cache.set("a", b"x" * 1000)
        for write in (cache.set, cache.add, cache.replace):
            with pytest.raises(ValueTooLarge, match="1001 bytes; at most 1000 are allowed now"):
                write("a", b"x" * 1001)
        with pytest.raises(ValueTooLarge), cache.pipeline() as pipeline:
            pipeline.set("b", b"x" * 2000)
        assert cache.get("a") == b"x" * 1000
        change(server, "max_value", "256KiB")
        cache.set("a", b"x" * 256 * 1024)


def test_a_write_without_a_ttl_gets_the_default_one(server: Server) -> None:
    with server.connect() as cache:
        cache.set("before", 1)
        change(server, "default_ttl", "60")
        cache.set("set", 1)
        cache.add("add", 1)
        cache.set_many({"many": 1})
        cache.incr("counter")
        cache.replace("set", 2)
        _, version = cache.gets("add")
        assert version is not None
        assert cache.cas("add", 2, version)
        for key in ("set", "add", "many", "counter"):
            assert 0 < (cache.ttl(key) or 0) <= 60
        cache.set("own", 1, ttl=5)
        assert 0 < (cache.ttl("own") or 0) <= 5
        cache.set("asked for", 1, ttl=math.inf)
        assert cache.ttl("before") == cache.ttl("asked for") == math.inf
        cache.touch("set")  # stores nothing, and so means what it says
        assert cache.ttl("set") == math.inf
        change(server, "default_ttl", "0")
        cache.set("add", 3)
        assert cache.ttl("add") == math.inf


@pytest.mark.parametrize("ttl", ["0.0001", "1e-7", "5e-324"])
def test_the_shortest_default_ttl_is_not_for_ever(
    make_server: StartServer, eventually: Eventually, ttl: str
) -> None:
    server = make_server("--default-ttl", ttl, "--writers", "1")
    with server.connect() as cache, server.connect(write="direct") as writer:
        cache.set("a", 1)
        writer.set("b", 1)
        writer.set_many({"c": 1})
        eventually(lambda: not cache.get_many(["a", "b", "c"]))


def test_slow_requests_are_logged(server: Server, eventually: Eventually) -> None:
    with server.connect(read="worker") as cache:
        cache.set("quiet", "before")
        change(server, "slow_request", "0.000001")
        cache.set("key\n1", "secret")
        cache.get("k" * 300)
        cache.set_many({"many": "secret"})
        cache.flush()
        eventually(lambda: server.log.count("slow request: flush took ") == 2)
        change(server, "slow_request", "0")
        eventually(lambda: "slow_request: 1e-06 -> 0.0" in server.log)
        logged = server.log.count("slow request: ")
        cache.set("quiet", "after")
    assert r"slow request: set 'key\n1' took 0." in server.log
    assert "slow request: get 'kkkk" in server.log
    assert "k" * 101 not in server.log
    assert "slow request: set_many of 1 took " in server.log
    assert not {"secret", "quiet"} & set(server.log.replace("'", " ").split())
    assert logged >= 5
    assert server.log.count("slow request: ") == logged


def is_idle(pid: int) -> bool:
    """Whether a process has taken every signal that it was sent, and waits for the next."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\t(\w+)", status, re.MULTILINE)
    return "\nState:\tS" in status and not any(int(signals, 16) for signals in pending)


def test_the_log_level_filters_the_parent_too(server: Server, eventually: Eventually) -> None:
    change(server, "log_level", "error")
    server.process.send_signal(signal.SIGUSR1)  # would log statistics
    eventually(lambda: is_idle(server.pid))
    change(server, "log_level", "info")
    server.process.send_signal(signal.SIGUSR1)
    eventually(lambda: "statistics: " in server.log)
    assert server.log.count("statistics: ") == 1
    # The parent's line and each worker's: the parent takes the new level before it reads theirs.
    eventually(lambda: server.log.count("settings version 3: log_level: error -> info") == 3)


def test_a_respawned_worker_has_the_settings_that_are_in_force(
    server: Server, eventually: Eventually
) -> None:
    change(server, "default_ttl", "60")
    for victim in server.worker_pids:
        os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(server.worker_pids) == 2)
    with server.connect(timeout=30) as cache:
        cache.set("a", 1)
        assert 0 < (cache.ttl("a") or 0) <= 60
        assert [worker["settings_version"] for worker in cache.stats()["workers"]] == [2, 2]


def test_a_worker_that_does_not_apply_it_is_named(server: Server, eventually: Eventually) -> None:
    with server.connect() as cache:
        stopped, other = (worker["pid"] for worker in cache.stats()["workers"])
    os.kill(stopped, signal.SIGSTOP)
    try:
        done = config(server, "set", "spin", "0")
        assert (done.returncode, done.stdout) == (3, b"spin: 50 -> 0\n")
        assert b"not applied yet by worker 0; see settings_version" in done.stderr
        assert stopped != other
    finally:
        os.kill(stopped, signal.SIGCONT)
    eventually(lambda: versions(server) == [2, 2])


def test_two_commands_at_once_both_take_effect(server: Server) -> None:
    command = [sys.executable, "-m", "kvserve", "config", "set", "--name", server.name]
    setters = [
        subprocess.Popen([*command, name, value], stdout=subprocess.DEVNULL)
        for name, value in (("spin", "0"), ("default_ttl", "60"), ("negative_ttl", "5"))
    ]
    assert [setter.wait() for setter in setters] == [0, 0, 0]
    assert versions(server) == [4, 4]
    shown = json.loads(config(server, "show", "--live", "--json").stdout)
    assert [shown[name]["value"] for name in ("spin", "default_ttl", "negative_ttl")] == [0, 60, 5]

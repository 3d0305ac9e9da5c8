"""The command line as a shell sees it: arguments, streams, exit statuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import COMMAND, Run, answers, environment, kvserve
from support.servers import Server

from kvserve.names import Names

CLIENT_COMMANDS = {
    "get": ["k"],
    "set": ["k", "v"],
    "add": ["k", "v"],
    "replace": ["k", "v"],
    "delete": ["k"],
    "incr": ["k"],
    "decr": ["k"],
    "touch": ["k"],
    "ttl": ["k"],
    "keys": [],
    "flush": ["--yes"],
    "stats": [],
    "ping": [],
    "bench": ["--seconds", "0.1"],
}


@pytest.fixture
def run(shared: Server) -> Callable[..., Run]:
    """Runs a command against the shared server."""

    def run_it(command: str, *arguments: str | bytes, stdin: bytes = b"") -> Run:
        return kvserve(command, "--name", shared.name, *arguments, stdin=stdin)

    return run_it


@pytest.mark.parametrize("name", CLIENT_COMMANDS)
def test_without_a_server_it_exits_with_3_and_says_so(name: str, names: Names) -> None:
    done = kvserve(name, *CLIENT_COMMANDS[name], "--name", names.name)
    assert done.returncode == 3
    assert done.stdout == b""
    sentence = f"no kvserve server named {names.name!r} is running"
    assert done.stderr.decode().startswith(f"kvserve: {sentence}; start one: kvserve serve")
    assert done.stderr.count(b"\n") == 1


# --- Values


def test_set_and_get_text(run: Callable[..., Run]) -> None:
    assert answers(run("set", "text", "grüße"), 0, b"")
    assert answers(run("get", "text"), 0, "grüße".encode())


def test_binary_from_stdin_to_stdout(run: Callable[..., Run]) -> None:
    data = bytes(range(256)) * 300
    assert answers(run("set", "binary", "-", stdin=data), 0, b"")
    assert answers(run("get", "binary"), 0, data)


def test_an_empty_value_is_no_miss(run: Callable[..., Run]) -> None:
    assert answers(run("set", "empty", "-"), 0, b"")
    assert answers(run("get", "empty"), 0, b"")


@pytest.mark.parametrize(
    ("value_type", "given", "stored"),
    [
        ("text", "5", "5"),
        ("bytes", "5", b"5"),
        ("int", "5", 5),
        ("json", '{"a": [1, null, true, 0.5]}', {"a": [1, None, True, 0.5]}),
        ("json", "null", None),
        ("json", '"5"', "5"),
    ],
)
@pytest.mark.parametrize("way", ["argument", "stdin"])
def test_types(
    shared: Server, run: Callable[..., Run], value_type: str, given: str, stored: Any, way: str
) -> None:
    value = "-" if way == "stdin" else given
    assert answers(run("set", "typed", value, "--type", value_type, stdin=given.encode()), 0, b"")
    with shared.connect() as cache:
        found, version = cache.gets("typed")
    assert (found, type(found)) == (stored, type(stored))
    assert version


def test_stdin_that_is_not_the_type_stores_nothing(run: Callable[..., Run]) -> None:
    for value_type in ("text", "int", "json"):
        done = run("set", "not-the-type", "-", "--type", value_type, stdin=b"\xff")
        assert done.returncode == 2
    assert run("get", "not-the-type").returncode == 1


def test_a_value_that_begins_with_a_dash(run: Callable[..., Run]) -> None:
    assert answers(run("set", "degrees", "-5", "--type", "int"), 0, b"")
    assert answers(run("incr", "degrees", "-2"), 0, b"-7\n")
    assert answers(run("replace", "degrees", "-7.5"), 0, b"")
    assert answers(run("get", "degrees"), 0, b"-7.5")
    assert answers(run("set", "flags", "--", "--verbose"), 0, b"")
    assert answers(run("get", "flags"), 0, b"--verbose")


def test_a_key_that_is_not_text(shared: Server, run: Callable[..., Run]) -> None:
    key = b"raw-\xff"
    assert answers(run("set", key, "v"), 0, b"")
    assert answers(run("get", key), 0, b"v")
    assert answers(run("keys", b"raw-\xff"), 0, key + b"\n")
    with shared.connect() as cache:
        assert cache.get(key) == "v"


def test_a_miss_is_silent(run: Callable[..., Run]) -> None:
    assert answers(run("get", "nobody"), 1, b"")
    assert answers(run("get", "nobody", "--json"), 1, b"")
    assert answers(run("ttl", "nobody"), 1, b"")
    assert answers(run("touch", "nobody"), 1, b"")
    assert answers(run("replace", "nobody", "v"), 1, b"")


def test_get_prints_other_values_as_json(shared: Server, run: Callable[..., Run]) -> None:
    with shared.connect() as cache:
        cache.set("nested", {"a": (1, None), "b": b"\x00"})
    assert answers(run("get", "nested"), 0, b'{"a": [1, null], "b": {"$base64": "AA=="}}')


def test_get_as_json(run: Callable[..., Run]) -> None:
    run("set", "json", "v", "--ttl", "60")
    shown = json.loads(run("get", "json", "--json").stdout)
    assert shown["version"] > 0
    assert 0 < shown["ttl"] <= 60
    assert (shown["key"], shown["value"]) == ("json", "v")
    run("set", "json", "v")
    assert json.loads(run("get", "json", "--json").stdout)["ttl"] is None


def test_get_several(run: Callable[..., Run]) -> None:
    run("set", "several:1", "a")
    run("set", "several:2", "[1, 2]", "--type", "json")
    assert answers(run("get", "several:2", "several:1"), 0, b"several:2\t[1, 2]\nseveral:1\ta\n")
    assert answers(run("get", "several:1", "several:3"), 1, b"several:1\ta\n")
    done = run("get", "several:1", "several:2", "several:3", "--json")
    assert json.loads(done.stdout) == {"several:1": "a", "several:2": [1, 2]}
    assert done.returncode == 1


def test_add_and_replace(run: Callable[..., Run]) -> None:
    assert answers(run("add", "added", "1"), 0, b"")
    assert answers(run("add", "added", "2"), 1, b"")
    assert answers(run("get", "added"), 0, b"1")
    assert answers(run("replace", "added", "3"), 0, b"")
    assert answers(run("get", "added"), 0, b"3")


def test_delete(run: Callable[..., Run]) -> None:
    run("set", "gone", "v")
    assert answers(run("delete", "gone", "never-there"), 0, b"1\n")
    assert answers(run("delete", "gone", "never-there"), 1, b"0\n")
    assert answers(run("delete", "gone", "--json"), 1, b'{"deleted": 0}\n')


def test_counters(run: Callable[..., Run]) -> None:
    assert answers(run("incr", "count"), 0, b"1\n")
    assert answers(run("incr", "count", "41"), 0, b"42\n")
    assert answers(run("incr", "count", "-2"), 0, b"40\n")
    assert answers(run("decr", "count", "--json"), 0, b'{"key": "count", "value": 39}\n')
    assert answers(run("decr", "tickets", "--initial", "100", "--ttl", "60"), 0, b"99\n")
    assert run("ttl", "tickets").returncode == 0
    run("set", "count", "text")
    done = run("incr", "count")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"kvserve: ")


def test_ttl_and_touch(run: Callable[..., Run]) -> None:
    run("set", "aging", "v")
    assert answers(run("ttl", "aging"), 0, b"never\n")
    assert answers(run("ttl", "aging", "--json"), 0, b'{"key": "aging", "ttl": null}\n')
    assert answers(run("touch", "aging", "--ttl", "60"), 0, b"")
    assert 0 < float(run("ttl", "aging").stdout) <= 60
    assert answers(run("touch", "aging"), 0, b"")
    assert answers(run("ttl", "aging"), 0, b"never\n")


@pytest.mark.parametrize("ttl", ["0", "-1", "nan", "-inf"])
def test_a_bad_ttl_changes_nothing(run: Callable[..., Run], ttl: str) -> None:
    done = run("set", "no-ttl", "v", "--ttl", ttl)
    assert done.returncode == 2
    assert done.stderr.startswith(b"kvserve: ")
    assert run("get", "no-ttl").returncode == 1


# --- The whole instance


def test_keys_and_flush(own: tuple[Server, Any]) -> None:
    server, cache = own
    stored = {f"user:{number}" for number in range(50)}
    cache.set_many(dict.fromkeys(stored, 1))
    cache.set("other", 1)

    def keys(*arguments: str) -> bytes:
        return kvserve("keys", "--name", server.name, *arguments).stdout

    assert set(keys("user:").decode().splitlines()) == stored
    assert set(keys().decode().splitlines()) == stored | {"other"}
    assert set(json.loads(keys("user:", "--json"))) == stored
    assert json.loads(keys("nobody", "--json")) == []
    assert len(keys("--limit", "7").splitlines()) == 7
    assert keys("--limit", "0") == b""
    assert answers(kvserve("flush", "--name", server.name), 0, b"")
    assert keys() == b""


def test_a_reader_that_leaves_ends_it_quietly(own: tuple[Server, Any]) -> None:
    server, cache = own
    cache.set_many({f"{'long' * 20}{number}": 1 for number in range(5000)})
    process = subprocess.Popen(
        [*COMMAND, "keys", "--name", server.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"long")
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_full_disk_is_told(shared: Server, run: Callable[..., Run]) -> None:
    run("set", "small", "v")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "get", "small", "--name", shared.name],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )
    assert done.returncode == 74
    assert done.stderr.startswith(b"kvserve: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("words", "status"),
    [(["get", "k"], 3), (["get", "k", "--json"], 3), (["get", ""], 3), (["get", "--typo"], 74)],
)
def test_an_error_that_cannot_be_told_is_no_miss(
    words: list[str], status: int, names: Names
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, *words],
            stdout=subprocess.PIPE,
            stderr=full,
            env=environment() | {"KVSERVE_NAME": names.name},
            check=False,
        )
    assert (done.returncode, done.stdout) == (status, b"")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["get", "--help"]])
def test_help_that_cannot_be_written_is_told(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )
    assert done.returncode == 74
    assert done.stderr == b"kvserve: reading or writing failed: No space left on device\n"


def test_stats(run: Callable[..., Run]) -> None:
    shown = json.loads(run("stats", "--json").stdout)
    lines = dict(line.split(" ", 1) for line in run("stats").stdout.decode().splitlines())
    assert lines["workers"] == str(len(shown["workers"]))
    assert lines["memory_bytes"] == str(shown["memory_bytes"])
    assert {f"worker.{worker['index']}.pid" for worker in shown["workers"]} <= set(lines)


def test_ping(run: Callable[..., Run]) -> None:
    number, unit = run("ping").stdout.decode().split()
    assert float(number) > 0
    assert unit == "ms"
    assert json.loads(run("ping", "--json").stdout)["round_trip_ms"] > 0


def test_verify(run: Callable[..., Run]) -> None:
    assert answers(run("verify"), 0, b"the table keeps its invariants\n")
    unharmed = b'{"violations": [], "kept": false, "unrecovered_shards": 0}\n'
    assert answers(run("verify", "--json"), 0, unharmed)


def test_the_name_may_come_from_the_environment(shared: Server) -> None:
    assert kvserve("ping", KVSERVE_NAME=shared.name).returncode == 0

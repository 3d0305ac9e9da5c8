"""`kvserve dump` and `kvserve load`: whole, through pipes, damaged, and into another server."""

from __future__ import annotations

import datetime
import json
import math
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Eventually
from support.commands import COMMAND, answers, environment, kvserve, on_terminal
from support.servers import Server, StartServer

import kvserve as package
from kvserve.client.admin import dump
from kvserve.names import Names
from kvserve.protocol.dump import DumpReader, DumpWriter, Header, Item

VALUES: dict[str | bytes, Any] = {
    "text": "é",
    "bytes": b"\xff\x00",
    "counter": 41,
    "none": None,
    "map": {"at": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "pair": (1, 2)},
    b"\xff key of bytes": 1.5,
    "k" * 1024: "the longest key",
    "empty": b"",
}


@pytest.fixture(scope="module")
def source(make_module_server: StartServer) -> Server:
    """A server whose content no test changes."""
    server = make_module_server()
    with server.connect() as cache:
        cache.set_many(VALUES)
        cache.set("mortal", "v", ttl=1000)
    return server


@pytest.fixture(scope="module")
def dumped(source: Server) -> bytes:
    """All of it."""
    done = kvserve("dump", "--name", source.name)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def frames(*items: Item) -> list[bytes]:
    """A dump of these items, frame by frame."""
    writer = DumpWriter(7)
    return [writer.header(Header("x", 0)), *map(writer.item, items), writer.trailer()]


def test_everything_comes_back_as_it_was(dumped: bytes, server: Server) -> None:
    loaded = kvserve("load", "--name", server.name, stdin=dumped)
    assert answers(loaded, 0, b"loaded 9, skipped 0 bad records, 0 expired\n")
    with server.connect() as cache:
        assert {type(key): 0 for key in cache.scan()} == {str: 0, bytes: 0}
        assert cache.get_many([*VALUES]) == VALUES
        assert {*cache.scan()} == {*VALUES, "mortal"}
        assert cache.ttl("text") == math.inf
        assert 0 < (cache.ttl("mortal") or 0) <= 1000
        assert cache.incr("counter") == 42


def test_the_header_names_the_instance_and_the_time(source: Server, dumped: bytes) -> None:
    reader = DumpReader()
    reader.feed(dumped)
    assert reader.header is not None
    assert reader.header.name == source.name
    assert abs(reader.header.created_at_ms / 1000 - time.time()) < 3600


def test_a_prefix_chooses(source: Server) -> None:
    done = kvserve("dump", "--prefix", "m", "--name", source.name)
    reader = DumpReader()
    assert {item.key for item in reader.feed(done.stdout)} == {"map", "mortal"}
    assert reader.is_whole


def test_times_to_live_go_on_while_the_dump_lies(server: Server) -> None:
    now_ms = int(time.time() * 1000)
    items = [
        Item("over", 1, b"x", now_ms - 1),
        Item("soon", 1, b"x", now_ms + 600_000),
        Item("far", 1, b"x", 2**62),
        Item("never", 1, b"x", 0),
    ]
    done = kvserve("load", "--name", server.name, stdin=b"".join(frames(*items)))
    assert answers(done, 0, b"loaded 3, skipped 0 bad records, 1 expired\n")
    with server.connect() as cache:
        assert cache.get("over") is None
        assert 500 < (cache.ttl("soon") or 0) <= 600
        assert cache.ttl("never") == math.inf


def test_what_never_expires_gets_no_default_ttl(dumped: bytes, make_server: StartServer) -> None:
    server = make_server("--default-ttl", "60")
    kvserve("load", "--name", server.name, stdin=dumped)
    with server.connect() as cache:
        assert cache.ttl("text") == math.inf


def test_keep_leaves_what_is_there(server: Server) -> None:
    dump = b"".join(frames(Item("a", 1, b"dumped", 0), Item("b", 1, b"dumped", 0)))
    with server.connect() as cache:
        cache["a"] = "here before"
        done = kvserve("load", "--keep", "--name", server.name, stdin=dump)
        expected = b"loaded 1, skipped 0 bad records, 0 expired, 1 kept as they were\n"
        assert answers(done, 0, expected)
        assert cache.get_many(["a", "b"]) == {"a": "here before", "b": "dumped"}
        kvserve("load", "--name", server.name, stdin=dump)
        assert cache["a"] == "dumped"


def test_damaged_records_are_skipped_and_counted(server: Server) -> None:
    dump = frames(*(Item(f"key:{number}", 1, b"value", 0) for number in range(1000)))
    for number in (1, 500, 501, 1000):
        dump[number] = dump[number].replace(b"value", b"valuE")
    done = kvserve("load", "--json", "--name", server.name, stdin=b"".join(dump))
    assert (done.returncode, done.stderr) == (1, b"")
    report = json.loads(done.stdout)
    assert (report["loaded"], report["skipped"], report["complete"]) == (996, 4, True)
    with server.connect() as cache:
        assert cache.stats()["items"] == 996


def test_a_dump_cut_short_is_told_and_what_came_is_loaded(server: Server) -> None:
    dump = b"".join(frames(Item("a", 1, b"x", 0), Item("b", 1, b"x", 0))[:2])
    done = kvserve("load", "--name", server.name, stdin=dump)
    expected = b"loaded 1, skipped 0 bad records, 0 expired; the dump was cut short\n"
    assert answers(done, 2, expected)
    with server.connect() as cache:
        assert cache["a"] == "x"


def test_what_the_server_refuses_is_counted_with_its_reason(server: Server) -> None:
    items = [
        Item("large", 0, bytes(300 * 1024), 0),
        Item("larger than a frame", 0, bytes(9 << 20), 0),
        Item("strange", 9, b"x", 0),
        Item("fits", 1, b"x", 0),
    ]
    done = kvserve("load", "--name", server.name, stdin=b"".join(frames(*items)))
    expected = (
        "loaded 1, skipped 0 bad records, 0 expired, 3 refused "
        "(the first one 'large': a value of 307200 bytes; at most 262144 fit here)\n"
    )
    assert answers(done, 1, expected.encode())
    with server.connect() as cache:
        assert list(cache.scan()) == ["fits"]


@pytest.mark.parametrize("stream", [b"", b"no dump\n" * 1000])
def test_what_is_no_dump_changes_nothing(source: Server, stream: bytes) -> None:
    done = kvserve("load", "--name", source.name, stdin=stream)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"kvserve: this is no dump of kvserve\n"


def test_files(source: Server, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "dumps" / "cache.dump"
    file.parent.mkdir()
    file.write_bytes(b"an older one")
    assert answers(kvserve("dump", str(file), "--name", source.name), 0, b"")
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    assert kvserve("load", str(file), "--name", server.name).returncode == 0
    with server.connect() as cache:
        assert cache["counter"] == 41


def test_a_dump_that_fails_leaves_the_older_file(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "dumps" / "cache.dump"
    file.parent.mkdir()
    file.write_bytes(b"an older one")
    for pid in server.worker_pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        done = kvserve("dump", str(file), "--name", server.name, "--timeout", "0.2")
    finally:
        for pid in server.worker_pids:
            os.kill(pid, signal.SIGCONT)
    assert done.returncode == 3
    assert file.read_bytes() == b"an older one"
    assert list(file.parent.iterdir()) == [file]


def test_other_than_regular_files_are_written_as_they_are(source: Server) -> None:
    assert answers(kvserve("dump", "/dev/null", "--name", source.name), 0, b"")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("command", ["dump", "load"])
def test_names_that_are_no_files_are_refused(source: Server, command: str, tmp_path: Path) -> None:
    done = kvserve(command, str(tmp_path), "--name", source.name)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"is a directory" in done.stderr
    assert kvserve("load", str(tmp_path / "nothing"), "--name", source.name).returncode == 2


@pytest.mark.parametrize("command", ["dump", "load"])
def test_without_a_server(command: str, names: Names) -> None:
    done = kvserve(command, "--name", names.name)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"no kvserve server named" in done.stderr


def test_a_pipe_closed_early_is_quiet(server: Server) -> None:
    with server.connect() as cache:
        cache.set_many({f"k{number}": b"x" * 1000 for number in range(1000)})
    process = subprocess.Popen(
        [*COMMAND, "dump", "--name", server.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(10)[:4] == b"\x94\xa2kv"
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (141, b"")
    process.stderr.close()


def test_terminals_are_refused_and_bars_are_drawn(source: Server, tmp_path: Path) -> None:
    status, screen = on_terminal("dump", "--name", source.name)
    assert status == 2
    assert "kvserve dump FILE" in screen
    status, screen = on_terminal("load", "--name", source.name)
    assert status == 2
    assert "kvserve load FILE" in screen
    file = str(tmp_path / "cache.dump")
    assert on_terminal("dump", file, "--name", source.name)[0] == 0
    status, screen = on_terminal("load", file, "--name", source.name)
    assert status == 0
    assert screen.endswith("loaded 9, skipped 0 bad records, 0 expired\n")


def test_a_server_that_dies_meanwhile_leaves_what_was_loaded(
    server: Server, eventually: Eventually
) -> None:
    dump = frames(*(Item(f"key:{number}", 1, b"v", 0) for number in range(1000)))
    process = subprocess.Popen(
        [*COMMAND, "load", "--name", server.name, "--timeout", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None
    # A piece is read in full before it is loaded.
    process.stdin.write(b"".join(dump[:601]) + bytes(256 * 1024))
    process.stdin.flush()
    with server.connect() as cache:
        eventually(lambda: cache.stats()["items"] >= 512)
    server.stop()
    stdout, stderr = process.communicate(b"".join(dump[601:]))
    assert process.returncode == 3
    assert stdout.startswith(b"loaded 512, ")
    assert b"no kvserve server named" in stderr


def test_a_dump_while_others_write_has_all_that_stays(server: Server) -> None:
    with server.connect() as cache:
        stays = {f"stays:{number}": number for number in range(2000)}
        cache.set_many(stays)
        items: dict[str | bytes, Item] = {}
        for number, item in enumerate(dump.dump(cache)):
            cache.set(f"comes:{number}", number)
            cache.delete(f"comes:{number - 10}")
            items[item.key] = item
        assert {*stays} <= {*items}


def test_load_counts_what_it_did_before_an_error(server: Server) -> None:
    def broken() -> Any:
        for number in range(300):
            yield Item(f"k{number}", 1, b"x", 0)
        raise package.ServerBusy("in the middle")

    tally = dump.Tally()
    with server.connect() as cache, pytest.raises(package.ServerBusy):
        dump.load(cache, broken(), tally=tally)
    assert tally.loaded == 256

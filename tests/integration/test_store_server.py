"""A server with an SQLite store behind its table, as its users see it."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Eventually
from support.commands import kvserve as command
from support.servers import Server, StartServer

import kvserve
from kvserve.names import Names


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
def server(make_server: StartServer, file: Path) -> Server:
    return make_server("--store", f"sqlite:///{file}")


def rows(file: Path) -> dict[object, object]:
    with closing(sqlite3.connect(file)) as database, database:
        return dict(database.execute("SELECT key, value FROM items"))


def edit(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(statement)


def test_what_is_set_is_in_the_database_and_outlives_a_flush(server: Server, file: Path) -> None:
    with server.connect() as cache:
        cache.set_many({"a": 1, "b": "text", "c": b"bytes", "d": {"x": [1.5, None]}})
        assert cache.incr("a", 4) == 5
        assert cache.delete("c")
        found = rows(file)
        assert (found["a"], found["b"]) == (5, "text")
        assert "c" not in found
        cache.flush()
        assert cache.get_many(["a", "b", "c", "d"]) == {
            "a": 5,
            "b": "text",
            "d": {"x": [1.5, None]},
        }
        assert cache.gets("c") == (None, None)


def test_what_others_put_into_the_database_is_read_through(server: Server, file: Path) -> None:
    with server.connect() as cache:
        cache.set("mine", 1)
        edit(file, "INSERT INTO items (key, is_text, codec, value) VALUES ('theirs', 1, 2, 41)")
        assert cache.get("theirs") == 41
        assert cache.incr("theirs") == 42
        assert "theirs" in cache
        assert cache.ttl("theirs") == float("inf")


def test_conditions_see_the_database(server: Server) -> None:
    with server.connect() as cache:
        cache.set("there", "v")
        cache.flush()
        assert not cache.add("there", "w")
        cache.flush()
        assert cache.replace("there", "w")
        cache.flush()
        value, version = cache.gets("there")
        assert value == "w"
        assert cache.cas("there", "x", version)
        assert not cache.cas("there", "y", version)
        cache.flush()
        assert cache.touch("there", ttl=3600)
        cache.flush()
        assert 3000 < cache.ttl("there") <= 3600
        assert not cache.touch("nobody", ttl=60)
        assert cache.incr("nobody", initial=None) is None


def test_times_to_live_are_the_databases_too(server: Server) -> None:
    with server.connect() as cache:
        cache.set("short", 1, ttl=0.2)
        cache.set("long", 1, ttl=3600)
        cache.flush()
        assert 3000 < cache.ttl("long") <= 3600
        time.sleep(0.25)
        assert cache.get("short") is None
        assert cache.add("short", 2)


def test_counting_keeps_the_time_to_live(server: Server) -> None:
    with server.connect() as cache:
        cache.incr("n", ttl=3600)
        cache.incr("n")
        assert 3000 < cache.ttl("n") <= 3600
        cache.flush()
        cache.incr("n")
        assert 3000 < cache.ttl("n") <= 3600
        cache.flush()
        assert 3000 < cache.ttl("n") <= 3600


def test_a_restart_finds_what_the_table_lost(
    make_server: StartServer, names: Names, file: Path
) -> None:
    server = make_server("--store", f"sqlite:///{file}", names=names)
    with server.connect() as cache:
        cache.set("a", 1)
    server.stop()
    assert command("clean", "--name", names.name).returncode == 0
    server = make_server("--store", f"sqlite:///{file}", names=names)
    with server.connect() as cache:
        assert cache.get("a") == 1


def test_a_kept_table_of_another_store_is_not_believed(
    make_server: StartServer, names: Names, file: Path, eventually: Eventually
) -> None:
    server = make_server(names=names)
    with server.connect() as cache:
        cache.set("a", "of no store")
    server.stop()
    server = make_server("--store", f"sqlite:///{file}", names=names)
    assert "not those of this store" in server.log
    with server.connect() as cache:
        assert cache.get("a") is None
        cache.set("a", "of the store")
    server.stop()
    server = make_server("--store", f"sqlite:///{file}", names=names)
    eventually(lambda: "1 items kept" in server.log)


READER = """
import sys
import kvserve
cache = kvserve.connect(sys.argv[1], timeout=20)
print("ready", flush=True)
sys.stdin.readline()
print(cache.get("wanted"), flush=True)
"""


def test_one_load_for_sixteen_processes_that_miss_at_once(server: Server, file: Path) -> None:
    with server.connect() as cache:
        cache.set("else", 1)
        edit(file, "INSERT INTO items (key, is_text, codec, value) VALUES ('wanted', 1, 2, 7)")
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", READER, server.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(16)
        ]
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
        before = loads(cache)
        for pid in server.worker_pids:  # so that all of them miss before the first is answered
            os.kill(pid, signal.SIGSTOP)
        for reader in readers:
            assert reader.stdin is not None
            reader.stdin.write("\n")
            reader.stdin.flush()
        time.sleep(0.3)
        for pid in server.worker_pids:
            os.kill(pid, signal.SIGCONT)
        assert {reader.communicate()[0] for reader in readers} == {"7\n"}
        assert loads(cache) - before == 1


def loads(cache: kvserve.Client) -> int:
    return sum(worker["store"]["loads"] for worker in cache.stats()["workers"])


def test_absences_are_asked_again_only_after_their_time(
    make_server: StartServer, file: Path
) -> None:
    server = make_server("--store", f"sqlite:///{file}", "--negative-ttl", "60")
    with server.connect() as cache:
        for _ in range(5):
            assert cache.get("nobody") is None
        assert loads(cache) == 1
        cache.set("nobody", 1)
        cache.flush()
        assert cache.get("nobody") == 1


def test_write_behind_answers_at_once_and_saves_later_and_at_the_end(
    make_server: StartServer, file: Path
) -> None:
    server = make_server("--store", f"sqlite:///{file}", "--write-behind", "30")
    with server.connect() as cache:
        cache.set("a", 1)
        cache.incr("a", 2)
        cache.set("b", 1)
        cache.delete("b")
        cache.flush()
        assert cache.get("a") == 3  # it waits in the worker
        assert cache.get("b") is None
        assert "a" not in rows(file)
    assert server.stop() == 0
    assert rows(file) == {"a": 3}


def test_a_locked_database_stops_nobody_else(server: Server, file: Path) -> None:
    with server.connect(timeout=10.0) as cache:
        cache.set("hit", 1)
        with closing(sqlite3.connect(file, isolation_level=None)) as database, database:
            database.execute("BEGIN EXCLUSIVE")
            with pytest.raises(kvserve.StoreUnavailable):
                cache.set("new", 1)
            assert cache.get("hit") == 1
            assert cache.ping() < 5.0
            database.execute("ROLLBACK")
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            try:
                cache.set("new", 2)
                break
            except kvserve.StoreUnavailable:
                time.sleep(0.1)
        assert rows(file)["new"] == 2


def test_the_asyncio_client_reads_through(server: Server, file: Path) -> None:
    edit(file, "INSERT INTO items (key, is_text, codec, value) VALUES ('theirs', 1, 1, 'x')")

    async def main() -> None:
        async with await kvserve.connect_async(server.name, timeout=20) as cache:
            assert await asyncio.gather(*[cache.get("theirs") for _ in range(20)]) == ["x"] * 20
            await cache.set("mine", 1)

    asyncio.run(main())
    assert rows(file)["mine"] == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", b"a URL"),
        ("postgres://db/x", b"cannot be postgres://"),
        ("sqlite:////proc/no/such.db", b"/proc/no"),
        ("valkey://127.0.0.1:1", b"127.0.0.1:1"),
    ],
)
def test_a_store_that_cannot_be_is_refused_with_one_sentence(url: str, said: bytes) -> None:
    done = command("serve", "--name", "test-no-store", "--store", url)
    assert done.returncode in (2, 3)
    assert done.stderr.startswith(b"kvserve: ")
    assert done.stderr.count(b"\n") == 1
    assert said in done.stderr


def test_a_database_of_something_else_is_refused_and_left_alone(file: Path) -> None:
    edit(file, "CREATE TABLE theirs (x)")
    before = file.read_bytes()
    done = command("serve", "--name", "test-no-store", "--store", f"sqlite:///{file}")
    assert done.returncode == 2
    assert str(file).encode() in done.stderr
    assert file.read_bytes() == before

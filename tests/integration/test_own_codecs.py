"""Values of an application's codec in the rest of the house: stores, dumps, restarts, commands."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.codecs import Reversing, SafeString, User, some_user
from support.commands import kvserve
from support.servers import PATIENCE_SECONDS, Server, StartServer
from support.valkeys import Valkey, serve

import kvserve as package
from kvserve import codecs
from kvserve.client.calls.operations import Operation
from kvserve.errors import InvalidArgument, InvalidValue, NotACounter, UnreadableValue
from kvserve.protocol import codec, commands, own
from kvserve.store.base import Record
from kvserve.store.valkey import format

HOSTILE_HEADS = [b"", b"\x00", b"\x00x", b"\x05json", b"\xffx", b"\x41" + b"x" * 65, b"\x01\xffx"]


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """A server with trusted writers."""
    return make_module_server("--writers", "4")


WAYS: list[dict[str, Any]] = [{}, {"read": "worker"}, {"write": "direct"}]


def test_a_database_keeps_them(make_server: StartServer, tmp_path: Path) -> None:
    """Through the store, after the table was lost, and by another client."""
    file = tmp_path / "cache.db"
    server = make_server("--store", f"sqlite:///{file}")
    numpy = pytest.importorskip("numpy")
    for options in WAYS[:2]:
        with server.connect(codec=Reversing(), **options) as cache:
            cache.set("own", SafeString("<b>"), ttl=600)
            cache.set("array", numpy.arange(3))
            cache.flush()
            assert type(cache.get("own")) is SafeString
            assert cache.get_many(["own", "array"])["own"] == "<b>"
            cache.flush()
            assert list(cache.get("array")) == [0, 1, 2]
            with pytest.raises(NotACounter):
                cache.incr("own")
            _, version = cache.gets("own")
            assert cache.cas("own", SafeString("<i>"), version)
            assert cache.touch("own", 60)
    with sqlite3.connect(file) as database:
        rows = dict(database.execute("SELECT key, codec FROM items"))
        database.execute("INSERT INTO items (key, codec, value) VALUES ('odd', 99, x'0978')")
    database.close()
    assert rows == {"own": 99, "array": 4}
    with server.connect() as cache:
        with pytest.raises(UnreadableValue, match="'odd' cannot be read"):
            cache.get("odd")  # it has no name: it never reaches the table
        with pytest.raises(UnreadableValue, match="codec 'reversing', number 99"):
            cache.get("own")
    server.stop()
    again = make_server("--fresh", "--store", f"sqlite:///{file}", names=server.names)
    with again.connect(codec=Reversing()) as cache:
        assert cache.get("own") == "<i>"


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A server of its own."""
    with serve() as server:
        yield server


def test_the_host_before_a_shared_store_keeps_them(
    make_server: StartServer, valkey: Valkey
) -> None:
    server, other = (make_server("--store", valkey.url) for _ in range(2))
    with server.connect(codec=Reversing()) as cache, other.connect(codec=Reversing()) as there:
        cache.set("own", SafeString("<b>"))
        assert there.get("own") == "<b>"
        assert type(there.get("own")) is SafeString
        _, version = there.gets("own")
        assert there.cas("own", SafeString("<i>"), version)
    with other.connect() as plain, pytest.raises(UnreadableValue, match="'reversing', number 99"):
        plain.get("own")


@pytest.mark.parametrize("number", [codec.ARRAY, 64, 99, 127])
def test_their_form_in_valkey(number: int) -> None:
    payload = codec.encode(memoryview(b"ab").cast("b"))[1] if number == 4 else b"\x01xrest"
    stored = format.to_stored(Record("k", number, payload, 0))
    found = format.from_stored("k", stored, 0)
    assert (found.codec, found.payload) == (number, payload)


def test_a_restart_and_a_dump_keep_them(make_server: StartServer) -> None:
    server = make_server()
    numpy = pytest.importorskip("numpy")
    with server.connect(codec=codecs.models(User)) as cache:
        user = some_user()
        cache.set("user", user)
        cache.set("array", numpy.eye(2), ttl=1000)
        server.stop()
        server = make_server(names=server.names)
        assert cache.get("user") == user
        cache.set("user 2", user)
    dumped = kvserve("dump", "--name", server.name).stdout
    assert kvserve("flush", "--yes", "--name", server.name).returncode == 0
    done = kvserve("load", "--name", server.name, stdin=dumped)
    assert done.stdout.startswith(b"loaded 3, skipped 0 bad records, 0 expired\n"), done
    with server.connect(codec=codecs.models(User)) as cache:
        assert cache.get_many(["user", "user 2"]) == {"user": user, "user 2": user}
        assert (cache.get("array") == numpy.eye(2)).all()
    server.kill_everything()
    server = make_server(names=server.names)
    with server.connect(codec=codecs.models(User)) as cache:
        assert cache.get("user") == user


def test_command_line_says_what_it_cannot_read(served: Server) -> None:
    numpy = pytest.importorskip("numpy")
    with served.connect(codec=Reversing()) as cache:
        cache.set_many({"own": SafeString("x"), "array": numpy.arange(2.0), "good": 1})
    for arguments in (["own"], ["own", "--json"]):
        done = kvserve("get", *arguments, "--name", served.name)
        assert (done.returncode, done.stdout) == (65, b"")
        assert b"the value of 'own' was encoded by the application's codec 'reversing'" in (
            done.stderr
        )
    done = kvserve("get", "own", "good", "--json", "--name", served.name)
    assert (done.returncode, json.loads(done.stdout)) == (1, {"good": 1})
    for arguments in (["array"], ["array", "good", "--json"]):
        done = kvserve("get", *arguments, "--name", served.name)
        shown = json.loads(done.stdout)
        array = {"dtype": "<f8", "shape": [2], "base64": "AAAAAAAAAAAAAAAAAADwPw=="}
        assert shown.get("array", shown) == {"$array": array}
    assert set(kvserve("keys", "--name", served.name).stdout.split()) >= {b"own", b"array"}
    assert kvserve("incr", "own", "--name", served.name).returncode != 0


@pytest.mark.parametrize("payload", HOSTILE_HEADS, ids=repr)
def test_workers_refuse_what_has_no_name(served: Server, payload: bytes) -> None:
    assert not codec.is_readable(99, payload)
    with pytest.raises(UnreadableValue, match="'k' cannot be read"):
        codec.decode(99, payload, "k")
    with served.connect() as cache:
        operation = Operation(commands.SET, ("k", 99, payload, 0), bool)
        with pytest.raises(InvalidValue, match="no value of codec 99"):
            cache._run(operation)
    # Written by a trusted writer that had a fault, it is unreadable for each client alike.
    with served.connect(write="direct") as cache:
        cache._table.settings.writer.set("k", 99, payload, 0)  # type: ignore[attr-defined]
    for options in WAYS:
        with served.connect(codec=Reversing(), **options) as cache:
            with pytest.raises(UnreadableValue, match="'k' cannot be read"):
                cache.get("k")
            assert cache.get_many(["k"]) == {}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"number": 63}, "use 64 to 127"), ({"number": 128}, "use 64 to 127"),
        ({"number": True}, "use 64 to 127"), ({"number": "99"}, "use 64 to 127"),
        ({"name": ""}, "1 to 64 bytes"), ({"name": "x" * 65}, "1 to 64 bytes"),
        ({"name": "a\nb"}, "printable"), ({"name": b"x"}, "printable"),
        ({"name": "\ud800"}, "printable"), ({"encode": None}, "use an object with name"),
        ({"decode": 7}, "use an object with name"),
    ],
)  # fmt: skip
def test_what_is_no_codec_is_refused(served: Server, change: dict[str, Any], text: str) -> None:
    bad = type("Bad", (Reversing,), change)()
    for connect in (package.connect, package.async_client):
        with pytest.raises(InvalidArgument, match=text):
            connect(served.name, codec=bad)
    with pytest.raises(InvalidArgument, match="use an object with name"):
        package.connect(served.name, codec=codecs.json)  # type: ignore[arg-type]


def test_a_codec_that_changes_its_name_changes_nothing(served: Server) -> None:
    changing = Reversing()
    with served.connect(codec=changing) as cache:
        cache.set("k", SafeString("x"))
        changing.name, changing.number = "another", 3  # type: ignore[misc]
        assert cache.get("k") == "x"
        assert own.name_in(cache._run(Operation(commands.GET, ("k",), tuple))[1]) == "reversing"


def test_namespaces_and_tasks_share_the_codec(served: Server) -> None:
    async def main() -> None:
        cache = package.async_client(served.name, timeout=PATIENCE_SECONDS, codec=Reversing())
        async with cache:
            part = cache.namespace("part")
            await asyncio.gather(*(part.set(f"{n}", SafeString(f"{n}")) for n in range(50)))
            found = await part.get_many([f"{n}" for n in range(50)])
            assert found == {f"{n}": f"{n}" for n in range(50)}
            assert {type(value) for value in found.values()} == {SafeString}
            with pytest.raises(InvalidValue, match="KeyError"):
                await part.set("bad", {1})

    asyncio.run(main())

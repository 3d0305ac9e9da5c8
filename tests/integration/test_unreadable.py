"""A record that is no value: refused where it comes in, and of harm to its own key alone."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.commands import kvserve
from support.servers import PATIENCE_SECONDS, Server, StartServer

import kvserve as package
from kvserve.client.admin import dump
from kvserve.client.calls.operations import Operation
from kvserve.errors import InvalidValue, UnreadableValue
from kvserve.protocol import codec, commands
from kvserve.protocol.dump import DumpWriter, Header, Item
from kvserve.store.valkey import format

BAD = b"\x93no"  # three items, of which the third is missing
GOOD = {"a": [1], "z": {"k": (2,)}}
WAYS: dict[str, dict[str, Any]] = {
    "direct": {}, "worker": {"read": "worker"}, "fifo": {"read": "worker", "queue_bytes": 0},
    "writer": {"write": "direct"},
}  # fmt: skip


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """A server with trusted writers, one of which writes what no worker would."""
    return make_module_server("--writers", "4")


@pytest.fixture(autouse=True)
def bad(served: Server) -> Iterator[None]:
    """Two good keys, and two that a later kvserve, or a damage, has made."""
    with served.connect(timeout=PATIENCE_SECONDS, write="direct") as cache:
        cache.flush()
        cache.set_many(GOOD)
        writer = cache._table.settings.writer  # type: ignore[attr-defined]
        writer.set("bad", codec.MSGPACK, BAD, 0)
        writer.set("later", 9, b"x", 0)
        yield


@pytest.mark.parametrize("way", WAYS)
def test_it_concerns_its_key_alone(served: Server, way: str) -> None:
    with served.connect(timeout=PATIENCE_SECONDS, **WAYS[way]) as cache:
        for key, text in (("bad", "'bad' cannot be read"), ("later", "'later' has codec 9")):
            for read in (cache.get, cache.gets, cache.__getitem__):
                with pytest.raises(UnreadableValue, match=text):
                    read(key)
        assert cache.get_many(["a", "bad", "later", "z", "none"]) == GOOD
        pipe = cache.pipeline().get("a").get("z").get("bad").gets("later").set("b", 1)
        with pytest.raises(UnreadableValue, match="'bad'"):
            pipe.execute()
        first, second, third, fourth, fifth = pipe.results
        assert (first, second, fifth > 0) == ([1], {"k": (2,)}, True)
        assert {type(third), type(fourth)} == {UnreadableValue}
        assert set(cache.scan()) == {*GOOD, "bad", "later", "b"}
        assert "bad" in cache
        assert cache.touch("bad", 60)
        assert [item.key for item in dump.dump(cache, "bad")] == ["bad"]
        assert cache.get_or_set("bad", lambda: "repaired", claim_ttl=3600) == "repaired"
        assert cache.get("bad") == "repaired"
        assert cache.memoize(key=lambda: "later")(lambda: "new")() == "new"
        assert cache.get_many(["later", "a"]) == {"later": "new", "a": [1]}


@pytest.mark.parametrize("way", WAYS)
def test_it_concerns_its_key_alone_in_asyncio(served: Server, way: str) -> None:
    async def main() -> None:
        async with await package.connect_async(
            served.name, timeout=PATIENCE_SECONDS, **WAYS[way]
        ) as cache:
            for key in ("bad", "later"):
                with pytest.raises(UnreadableValue, match=f"'{key}'"):
                    await cache.get(key)
                with pytest.raises(UnreadableValue, match=f"'{key}'"):
                    await cache.gets(key)
            assert await cache.get_many(["a", "bad", "later", "z", "none"]) == GOOD
            pipe = cache.pipeline()
            results = await pipe.get("bad").get("a").execute(raise_on_error=False)
            assert (type(results[0]), results[1]) == (UnreadableValue, [1])
            assert await cache.get_or_set("bad", lambda: "repaired", claim_ttl=3600) == "repaired"
            assert await cache.get("bad") == "repaired"

    asyncio.run(main())


def test_command_line_names_it_with_a_status_of_its_own(served: Server) -> None:
    for arguments in (["bad"], ["bad", "--json"]):
        done = kvserve("get", *arguments, "--name", served.name)
        assert (done.returncode, done.stdout) == (65, b"")
        assert done.stderr.startswith(b"kvserve: the value of 'bad' cannot be read: ")
        assert done.stderr.count(b"\n") == 1
    done = kvserve("get", "a", "bad", "z", "--json", "--name", served.name)
    assert (done.returncode, done.stderr) == (1, b"")
    assert json.loads(done.stdout) == {"a": [1], "z": {"k": [2]}}
    assert set(kvserve("keys", "--name", served.name).stdout.split()) == {
        b"a",
        b"bad",
        b"later",
        b"z",
    }


def hostile(*items: Item) -> bytes:
    """A dump that no kvserve wrote."""
    writer = DumpWriter(7)
    return b"".join([writer.header(Header("x", 0)), *map(writer.item, items), writer.trailer()])


def test_load_refuses_what_is_no_value(served: Server) -> None:
    items = [
        Item("one", codec.MSGPACK, b"\xc0", 0), Item("two", codec.MSGPACK, BAD, 0),
        Item("three", 9, b"x", 0), Item("four", codec.TEXT, b"\xff", 0),
        Item("five", codec.COUNTER, b"short", 0), Item("six", codec.MSGPACK, b"\x91" * 5000, 0),
        Item("seven", codec.MSGPACK, b"\xd4\x05x", 0), Item("eight", 2**63, b"x", 0),
        Item("nine", codec.BYTES, BAD, 0),
    ]  # fmt: skip
    done = kvserve("load", "--name", served.name, stdin=hostile(*items))
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout.startswith(b"loaded 2, skipped 0 bad records, 0 expired, 7 refused (the fir")
    with served.connect(timeout=PATIENCE_SECONDS) as cache:
        found = cache.get_many([item.key for item in items])
        assert found == {"one": None, "nine": BAD}
        assert cache.ttl("two") is None
    # What a dump of a table with such a record holds is refused as well.
    dumped = kvserve("dump", "--prefix", "bad", "--name", served.name).stdout
    assert kvserve("load", "--name", served.name, stdin=dumped).stdout.startswith(b"loaded 0, ")


@pytest.mark.parametrize("fields", [[], ["x"], ["x", 0, 0], [0, "x"], [None, None]], ids=str)
def test_dump_whose_header_is_another_is_refused_in_a_sentence(
    served: Server, fields: list[Any]
) -> None:
    stream = DumpWriter(7)._frame(0, "kvserve dump", 1, *fields)
    done = kvserve("load", "--name", served.name, stdin=stream)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"kvserve: record 1 at byte 0 is a header of version 1 with ")


@pytest.mark.parametrize(
    "command", [commands.SET, commands.ADD, commands.REPLACE, commands.CAS], ids=lambda c: c.name
)
def test_worker_refuses_what_is_no_value(served: Server, command: commands.Command) -> None:
    with served.connect(timeout=PATIENCE_SECONDS) as cache:
        for number, payload in ((codec.MSGPACK, BAD), (9, b"x"), (codec.MSGPACK, b"")):
            rest = (0, cache.gets("a")[1]) if command is commands.CAS else (0,)
            operation = Operation(command, ("a", number, payload, *rest), bool)
            with pytest.raises(InvalidValue):
                cache._run(operation)
            assert isinstance(cache._run_batch([operation])[0], InvalidValue)
        with pytest.raises(InvalidValue):
            cache._workers.ask(
                commands.SET_MANY,
                (["a"], bytes([codec.MSGPACK]), [BAD], 0),
                cache._shard_of("a"),
                cache._workers.deadline(),
            )
        assert cache.get("a") == [1]


def test_odd_rows_of_a_database(make_server: StartServer, tmp_path: Path) -> None:
    """They raise, each for its own key, and never reach the table."""
    file = tmp_path / "cache.db"
    server = make_server("--store", f"sqlite:///{file}")
    with server.connect(timeout=PATIENCE_SECONDS) as cache:
        cache.set("good", [1])
        rows = [("odd", 3, BAD), ("later", 9, b"x"), ("huge", 2**62, b"y"), ("below", -1, b"z")]
        with closing(sqlite3.connect(file)) as database, database:
            database.executemany(
                "INSERT INTO items (key, is_text, codec, value) VALUES (?, 1, ?, ?)", rows
            )
            database.execute(
                "INSERT INTO items (key, is_text, codec, value) VALUES ('long', 1, 0, ?)",
                [bytes(300 * 1024)],
            )
        database.close()
        found = cache.get_many(["good", "long", *(key for key, _, _ in rows)])
        assert found == {"good": [1]}
        for key, number, _ in rows:
            for read in (cache.get, cache.gets, cache.ttl):
                with pytest.raises(UnreadableValue, match=f"{key!r} cannot be read.* {number}"):
                    read(key)
        assert set(cache.scan()) == {"good"}
        assert cache.get_or_set("odd", lambda: BAD) == BAD
        assert cache.delete("later")
        assert cache.set("huge", 1) > 0
        assert cache.get_many(["odd", "later", "huge"]) == {"odd": BAD, "huge": 1}
        with pytest.raises(package.ValueTooLarge):
            cache.get("long")
        assert cache.get_many(["good", "odd"]) == {"good": [1], "odd": BAD}


@pytest.mark.parametrize("number", [*range(6), 64, 127, 255])
def test_values_of_valkey_can_all_be_read(number: int) -> None:
    for payload in (b"", BAD, b"\xff", b"\x91\x01", b"text", bytes(8)):
        stored = b"\xc1" + bytes([number]) + b"stamp678" + payload
        record = format.from_stored("k", stored, 0)
        assert codec.is_readable(record.codec, record.payload)


@pytest.mark.parametrize("depth", [699, 1024])
def test_deepest_value_is_printed(served: Server, depth: int) -> None:
    value: Any = 1
    for number in range(depth):
        value = [value] if number % 3 else {"k": value}
    with served.connect(timeout=PATIENCE_SECONDS) as cache:
        cache.set("deep", value)
    for arguments in (["deep"], ["deep", "--json"], ["deep", "a"], ["deep", "a", "--json"]):
        done = kvserve("get", *arguments, "--name", served.name)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.count(b"[") + done.stdout.count(b"{") >= depth


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("[" * 3000 + "]" * 3000, "json", b"nested "),  # by json itself, or by us
        ('{"a": [18446744073709551616]}', "json", b"this value['a'][0] is out of range"),
        ('["\\ud800"]', "json", b"this value[0] cannot be encoded as UTF-8"),
        ("9223372036854775808", "int", b"no counter"),
    ],
)
def test_values_that_the_command_line_refuses(
    served: Server, text: str, kind: str, told: bytes
) -> None:
    done = kvserve("set", "k", text, "--type", kind, "--name", served.name)
    assert (done.returncode, done.stdout) == (2, b"")
    assert told in done.stderr

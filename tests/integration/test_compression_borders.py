"""Databases and dumps hold plain values, whatever clients compressed; the table holds both."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support import valkeys
from support.commands import kvserve as command
from support.servers import Server, StartServer

import kvserve
from kvserve.protocol import codec, commands
from kvserve.protocol.dump import DumpReader

PAGE = "<li>Ada Lovelace, Countess</li>\n" * 400
COMPRESS = 1000


def stored(client: kvserve.Client, key: str) -> int:
    """The codec of a key's record, as a worker finds it in the table, or in the store."""
    return int(client._ask(commands.GET, (key,))[0])


def expect_every_change(client: kvserve.Client, plain: kvserve.Client) -> None:
    """Conditions that compare contents work on compressed values."""
    version = client.set("page", PAGE, ttl=600)
    assert client.cas("page", PAGE + "1", version)
    assert not client.cas("page", PAGE + "2", version)
    assert plain.get("page") == PAGE + "1"
    assert plain.touch("page", 600)
    assert client.replace("page", PAGE + "3")
    assert not client.add("page", PAGE + "4")
    assert client.delete("page", client.gets("page")[1])
    assert client.add("page", PAGE)
    client.flush()
    value, version = plain.gets("page")  # from the store, uncompressed
    assert value == PAGE
    assert version is not None
    assert plain.cas("page", [PAGE], version)
    assert client.get("page") == [PAGE]
    client.set_many({"a": PAGE, "b": 7})
    assert client.incr("b") == 8
    assert client.delete_many(["a", "b"]) == 2


@pytest.mark.parametrize("more", [(), ("--write-behind", "1")], ids=["through", "behind"])
def test_sqlite_has_plain_rows(
    make_server: StartServer, tmp_path: Path, more: tuple[str, ...]
) -> None:
    file = tmp_path / "cache.db"
    server = make_server("--store", f"sqlite:///{file}", *more)
    with server.connect(compress=COMPRESS) as client, server.connect() as plain:
        if not more:
            expect_every_change(client, plain)
        client.set("page", PAGE)
        assert stored(plain, "page") == codec.TEXT | codec.COMPRESSED
        client.set("rows", [PAGE])
        assert plain.get("page") == PAGE
    assert server.stop() == 0
    with closing(sqlite3.connect(file)) as database:
        rows = {
            key: value for key, *value in database.execute("SELECT key, codec, value FROM items")
        }
    assert rows["page"] == [codec.TEXT, PAGE]
    assert codec.decode(*rows["rows"]) == [PAGE]


def test_valkey_has_plain_values(make_server: StartServer) -> None:
    with valkeys.serve() as valkey:
        server = make_server("--store", valkey.url)
        with server.connect(compress=COMPRESS) as client, server.connect() as plain:
            expect_every_change(client, plain)
            client.set("page", PAGE)
        found = valkey.call("GET", "page")
        assert isinstance(found, bytes)
        assert found[1] == codec.TEXT
        assert found.endswith(PAGE.encode())


def test_a_dump_is_plain_and_compressed_values_survive_a_restart(
    server: Server, make_server: StartServer
) -> None:
    with server.connect(compress=COMPRESS) as client:
        client.set_many({"page": PAGE, "rows": [PAGE], "bytes": PAGE.encode(), "number": 7})
        done = command("dump", "--name", server.name)
        items = {item.key: item for item in DumpReader().feed(done.stdout)}
        assert {key: item.codec for key, item in items.items()} == {
            "page": codec.TEXT,
            "rows": codec.MSGPACK,
            "bytes": codec.BYTES,
            "number": codec.COUNTER,
        }
        assert items["page"].payload == PAGE.encode()
        assert server.stop() == 0
        make_server(names=server.names)
        assert client.get("page") == PAGE
        assert stored(client, "page") == codec.TEXT | codec.COMPRESSED
    other = make_server()
    assert command("load", "--name", other.name, stdin=done.stdout).returncode == 0
    with other.connect() as plain:
        assert plain.get("rows") == [PAGE]
        assert command("get", "page", "--name", server.name).stdout.rstrip(b"\n") == (
            PAGE.encode().rstrip(b"\n")
        )

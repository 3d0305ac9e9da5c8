"""The SQLite file: rows that people read and make by hand, and files that are not ours."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.stores import edit, opened, record

from kvserve.errors import ConfigError
from kvserve.protocol import codec
from kvserve.store.sqlite.store import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file of this test will be."""
    return tmp_path / "cache.db"


def test_people_find_text_as_text_and_numbers_as_numbers(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as store:
            await store.save_many([
                record("greeting", "héllo"), record(b"raw", b"abc"), record("hits", -7),
                record("nul\0key", "nul\0text"), record(b"\xff", None, 4_000_000_000_000),
            ])  # fmt: skip

    asyncio.run(main())
    columns = "key, is_text, codec, value, typeof(value), expires_at"
    assert set(edit(path, f"SELECT {columns} FROM items")) == {
        ("greeting", 1, 1, "héllo", "text", None),
        ("raw", 0, 0, b"abc", "blob", None),
        ("hits", 1, 2, -7, "integer", None),
        (b"nul\0key", 1, 1, b"nul\0text", "blob", None),
        (b"\xff", 0, 3, b"\xc0", "blob", 4_000_000_000_000),
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("'edited'", "edited"), ("''", ""), ("42", 42), ("-1", -1), ("x'00ff'", b"\x00\xff"),
        ("1.5", 1.5), ("NULL", None), ("CAST(x'ff' AS TEXT)", b"\xff"),
        ("CAST(x'610062' AS TEXT)", "a\0b"), ("9223372036854775807", 2**63 - 1),
    ],
)  # fmt: skip
def test_a_value_edited_by_hand_is_what_its_type_says(
    path: Path, value: str, expected: object
) -> None:
    """Whatever was there before, and where nothing was."""

    async def main() -> None:
        async with opened(path) as store:
            await store.save_many([record("number", 7), record("text", "7"), record("bytes", b"7")])
            edit(
                path, "INSERT INTO items (key) VALUES ('new')", f"UPDATE items SET value = {value}"
            )
            for each in await store.load_many(["number", "text", "bytes", "new"]):
                assert each is not None
                assert codec.decode(each.codec, each.payload) == expected

    asyncio.run(main())


def test_rows_that_no_kvserve_would_write_are_refused_or_loaded(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as store:
            for bad in ("codec) VALUES ('k', 1, 'text')", "expires_at) VALUES ('k', 1, 'soon')"):
                with pytest.raises(sqlite3.IntegrityError):
                    edit(path, f"INSERT INTO items (key, value, {bad}")
            edit(path, "INSERT INTO items (key, value) VALUES (5, 'five'), (x'fe', 'not text')")
            assert await store.load_many(["5", b"\xfe"]) == [
                record("5", "five"),
                record(b"\xfe", "not text"),
            ]
            edit(
                path,
                "INSERT INTO items (key, codec, value) VALUES ('t', 1, x'ff'), ('c', 2, x'00')",
            )
            assert await store.load_many(["t", "c"]) == [
                record("t", b"\xff"),
                record("c", b"\0"),
            ]

    asyncio.run(main())


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 shell")
def test_the_shell_reads_and_writes_beside_an_open_store(path: Path) -> None:
    def shell(sql: str) -> str:
        command = ["sqlite3", str(path), sql]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    async def main() -> None:
        async with opened(path) as store:
            await store.save_many([record("hits", 41), record("who", "Ada")])
            assert shell("SELECT key, value FROM items ORDER BY key") == "hits|41\nwho|Ada\n"
            shell("UPDATE items SET value = value + 1 WHERE key = 'hits'")
            shell("INSERT INTO items (key, value) VALUES ('by hand', 'yes')")
            found = await store.load_many(["hits", "by hand"])
            assert found == [record("hits", 42), record("by hand", "yes")]
            assert "1: the key was given as text" in shell(".schema")

    asyncio.run(main())


def _foreign(path: Path) -> None:
    edit(path, "CREATE TABLE mine (x)", "INSERT INTO mine VALUES (1)")


def _foreign_items(path: Path) -> None:
    edit(path, "CREATE TABLE items (key, value)", "PRAGMA user_version = 1")


def _foreign_application(path: Path) -> None:
    edit(path, "PRAGMA application_id = 7", "CREATE TABLE mine (x)")


def _foreign_log(path: Path) -> None:
    """Left by somebody who was killed: to open it would bring its log into the database."""
    program = f"""
import os, signal, sqlite3
connection = sqlite3.connect({str(path)!r})
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("CREATE TABLE mine (x)")
os.kill(os.getpid(), signal.SIGKILL)"""
    subprocess.run([sys.executable, "-c", program], check=False)
    assert path.with_name(f"{path.name}-wal").stat().st_size > 0


def _newer(path: Path) -> None:
    SqliteStore.check(f"sqlite:///{path}")
    edit(path, "PRAGMA user_version = 2")


def _without_table(path: Path) -> None:
    SqliteStore.check(f"sqlite:///{path}")
    edit(path, "ALTER TABLE items RENAME COLUMN codec TO format")


def _damaged(path: Path, start: int) -> None:
    """Ours by its first bytes, with nonsense from `start` on."""
    SqliteStore.check(f"sqlite:///{path}")
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + b"\xff" * 16 + whole[start + 16 :])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_foreign, "is another program's database; it was not touched"),
        (_foreign_items, "is another program's database; it was not touched"),
        (_foreign_application, "is another program's database; it was not touched"),
        (_foreign_log, "is another program's database; it was not touched"),
        (lambda path: path.write_text("dear diary"), "is not a database; it was not touched"),
        (lambda path: path.write_bytes(b"SQLite format 3\0"), "another program's database"),
        (_newer, "has version 2 of its schema, and this kvserve knows 1"),
        (_without_table, "schema of the store's file .* was changed: no such column: codec"),
        (lambda path: _damaged(path, 100), "is damaged: .* restore it from a backup"),
        (lambda path: _damaged(path, 20), "is damaged: .* restore it from a backup"),
        (Path.mkdir, "is not a plain file"),
        (os.mkfifo, "is not a plain file"),
    ],
)
def test_a_file_of_something_else_is_refused_and_stays_as_it_is(
    path: Path, make: Any, says: str
) -> None:
    make(path)
    before = {each: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    with pytest.raises(ConfigError, match=says) as caught:
        SqliteStore.check(f"sqlite:///{path}")
    assert "\n" not in str(caught.value)
    assert before == {each: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}


def test_a_directory_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=f"run: mkdir -p {path}"):
        SqliteStore.check(f"sqlite:///{path}/cache.db")


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    SqliteStore.check(f"sqlite:///{path}")
    assert edit(path, "PRAGMA application_id") == [(0x6B767376,)]
    assert edit(path, "PRAGMA user_version") == [(1,)]

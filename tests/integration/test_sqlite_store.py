"""The SQLite store: what is saved comes back; expiry, and how many writes share a commit."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Eventually
from hypothesis import given
from hypothesis import strategies as st
from support.stores import edit, now_ms, opened, record

from kvserve.errors import StoreUnavailable
from kvserve.protocol import codec
from kvserve.store.base import Key, Record
from kvserve.store.sqlite import store as sqlite
from kvserve.store.sqlite.store import PURGE_ROWS, SqliteStore

HOUR_MS = 3_600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file of this test will be."""
    return tmp_path / "cache.db"


keys = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.sampled_from(
        ["1", "1.0", "a\0b", "\0", "\ufeffa", "é", "x'61'", "a", b"a", b"\xff", "K" * 1024]
    ),
)
integers = st.integers(-(2**63), 2**63 - 1)
payloads = st.one_of(
    st.binary(max_size=200), st.text(st.characters(exclude_categories=["Cs"])), integers, st.none(),
    st.floats(allow_nan=False), st.lists(integers | st.text("ab\0")),
).map(codec.encode)  # fmt: skip
# Counters of a wrong size, text that is none: no store may make something else of them.
odd_payloads = st.tuples(st.sampled_from([codec.BYTES, codec.MSGPACK, 77]), st.binary(max_size=20))


@given(
    st.lists(
        st.tuples(keys, st.none() | payloads | odd_payloads, st.sampled_from([0, HOUR_MS])),
        max_size=30,
    )
)
def test_what_is_saved_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[Key, tuple[int, bytes] | None, int]],
) -> None:
    """A random list of saves and deletes, beside a dict that knows the UTF-8 bytes alone."""
    now = now_ms()

    async def main() -> None:
        async with opened(tmp_path_factory.mktemp("sqlite") / "cache.db") as store:
            model: dict[bytes, Record] = {}
            for key, content, ttl_ms in changes:
                name = key.encode() if isinstance(key, str) else key
                if content is None:
                    assert await store.delete_many([key]) == [name in model]
                    model.pop(name, None)
                else:
                    model[name] = Record(key, *content, ttl_ms and now + ttl_ms)
                    await store.save_many([model[name]])
            names = [*model, b"missing" * 9]
            assert await store.load_many(names) == [*model.values(), None]

    asyncio.run(main())


def test_a_key_is_the_same_as_text_and_as_bytes(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as store:
            for number, key in enumerate(["é", "a\0b", "plain"]):
                await store.save_many([record(key, number)])
                assert await store.load_many([key.encode()]) == [record(key, number)]
                await store.save_many([record(key.encode(), "new")])
                assert await store.load_many([key]) == [record(key.encode(), "new")]
                assert await store.delete_many([key, key.encode()]) == [True, False]

    asyncio.run(main())


def test_many_of_one_key_follow_their_order(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as store:
            await store.save_many([record("k", 1), record("k", 2)])
            assert await store.load_many(["k", "k"]) == [record("k", 2)] * 2
            # All in one turn, so in one transaction: still one after the other.
            await asyncio.gather(
                store.delete_many(["k"]),
                store.save_many([record("k", 3)]),
                store.delete_many(["x"]),
            )
            assert await store.load_many(["k"]) == [record("k", 3)]
            assert await store.load_many([]) == []
            await store.flush()

    asyncio.run(main())


def test_the_file_outlives_the_store_and_is_its_owners_alone(path: Path) -> None:
    async def main() -> None:
        before = os.umask(0)
        try:
            async with opened(path) as store:
                await store.save_many([record("k", "kept")])
                modes = {
                    each.name: oct(each.stat().st_mode & 0o777) for each in path.parent.iterdir()
                }
        finally:
            os.umask(before)
        assert modes == dict.fromkeys(["cache.db", "cache.db-wal", "cache.db-shm"], "0o600")
        assert [each.name for each in path.parent.iterdir()] == ["cache.db"]
        async with opened(path) as store:
            assert await store.load_many(["k"]) == [record("k", "kept")]
            await store.close()
            await store.close()
            with pytest.raises(StoreUnavailable, match="is not open"):
                await store.load_many(["k"])

    asyncio.run(main())


def test_calls_that_are_under_way_at_the_close_get_their_answers(path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(f"sqlite:///{path}", 30.0)
        await store.open()
        saves = [asyncio.ensure_future(store.save_many([record(f"k{i}", i)])) for i in range(50)]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*saves)

    asyncio.run(main())
    assert edit(path, "SELECT count(*) FROM items") == [(50,)]


def test_what_has_expired_is_not_there(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as store:
            await store.save_many([record("old", 1, now_ms() - 1), record("new", 2, 2**62)])
            assert await store.load_many(["old", "new"]) == [None, record("new", 2, 2**62)]
            assert await store.delete_many(["old", "new"]) == [False, True]
            assert edit(path, "SELECT count(*) FROM items") == [(0,)]

    asyncio.run(main())


@pytest.fixture
def unpurged(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store commits by itself, however long a test takes."""
    monkeypatch.setattr(sqlite, "PURGE_SECONDS", 3600.0)


Trace = Callable[[Callable[[str], None]], None]


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    """Lets a function see every statement that stores opened from then on execute."""
    connect = sqlite3.connect

    def start(see: Callable[[str], None]) -> None:
        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **options)
            if threading.current_thread().name.startswith("sqlite"):
                connection.set_trace_callback(see)
            return connection

        monkeypatch.setattr(sqlite3, "connect", traced)

    return start


def test_expired_rows_are_removed_step_by_step(
    path: Path, trace: Trace, eventually: Eventually
) -> None:
    statements: list[str] = []
    trace(statements.append)

    async def main() -> None:
        async with opened(path) as store:
            expired = [record(f"k{i}", i, 1 + i) for i in range(2 * PURGE_ROWS + 1)]
            await store.save_many([*expired, record("kept", 1), record("later", 1, 2**62)])
            await asyncio.to_thread(eventually, lambda: left() == [("kept",), ("later",)])
        assert len([each for each in statements if each.startswith("\nDELETE")]) >= 3

    def left() -> list[tuple[Any, ...]]:
        return edit(path, "SELECT key FROM items ORDER BY key LIMIT 3")

    asyncio.run(main())


def test_purging_needs_no_search_through_all_rows(path: Path) -> None:
    SqliteStore.check(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {sqlite._PURGE}", (0, 1)).fetchall()
    assert any("USING COVERING INDEX items_expires_at" in row[3] for row in plan)
    assert not any(row[3].startswith("SCAN") for row in plan)


@pytest.mark.usefixtures("unpurged")
def test_writes_of_one_turn_share_a_commit(path: Path, trace: Trace) -> None:
    statements: list[str] = []
    trace(statements.append)

    async def main() -> None:
        async with opened(path) as store:
            statements.clear()
            await asyncio.gather(
                *(store.save_many([record(f"k{i}", i)]) for i in range(100)),
                store.delete_many(["k7"]),
            )
            assert (statements[0], statements[-1]) == ("BEGIN IMMEDIATE", "COMMIT")
            assert statements.count("COMMIT") == 1
        assert edit(path, "SELECT count(*) FROM items") == [(99,)]

    asyncio.run(main())


@pytest.mark.usefixtures("unpurged")
def test_writes_during_a_commit_share_the_next_and_wait_for_it(path: Path, trace: Trace) -> None:
    may_commit = threading.Semaphore(1)  # one: that of the opening
    commits: list[str] = []

    def pause(statement: str) -> None:
        if statement == "COMMIT":
            commits.append(statement)
            may_commit.acquire()

    async def reached(number: int) -> None:
        while len(commits) < number:
            await asyncio.sleep(0.001)

    async def main() -> None:
        async with opened(path) as store:
            try:
                saves = [asyncio.ensure_future(store.save_many([record("first", 1)]))]
                await reached(2)
                for i in range(50):
                    saves.append(asyncio.ensure_future(store.save_many([record(f"k{i}", i)])))
                    await asyncio.sleep(0)
                assert not any(save.done() for save in saves)
                may_commit.release()
                await saves[0]
                await reached(3)
                assert not any(save.done() for save in saves[1:])
                may_commit.release()
                await asyncio.gather(*saves)
                assert len(commits) == 3
            finally:
                may_commit.release(100)  # for the close, and the thread's end after a failure

    trace(pause)
    asyncio.run(main())

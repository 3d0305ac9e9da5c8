"""SQLite stores for tests: opened and closed, their records, and their rows by hand."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from kvserve.protocol import codec
from kvserve.store.base import Key, Record
from kvserve.store.sqlite.store import SqliteStore


@asynccontextmanager
async def opened(path: Path, timeout_seconds: float = 30.0) -> AsyncIterator[SqliteStore]:
    """A store on a file, closed afterwards."""
    store = SqliteStore(f"sqlite:///{path}", timeout_seconds)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def record(key: Key, value: Any, expires_at_ms: int = 0) -> Record:
    """A record of a value."""
    return Record(key, *codec.encode(value), expires_at_ms)


def now_ms() -> int:
    """Unix time."""
    return time.time_ns() // 1_000_000


def edit(path: Path, *statements: str) -> list[tuple[Any, ...]]:
    """What the sqlite3 shell would do: runs the statements, returns the last one's rows."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]

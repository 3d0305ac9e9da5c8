"""A store in one SQLite file on one host, shared by all workers of one instance.

Each worker has one connection, used by one thread, so that its event loop never waits for a disk.
The thread is a ThreadPoolExecutor of one: a plain thread would need the same queue, futures and
shutdown. Groups of loads and groups of writes take turns in it; each takes all calls that have
come. The writes of a group share a commit and are acknowledged after it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ClassVar, NamedTuple

from kvserve.errors import KvserveError, StoreUnavailable
from kvserve.store.base import Key, Record, Store
from kvserve.store.sqlite import file
from kvserve.store.sqlite.group_commit import Group, StoreBusy
from kvserve.store.sqlite.rows import Row, to_key, to_record, to_row
from kvserve.store.sqlite.transactions import Transactions, Work

_log = logging.getLogger(__name__)
CHECK_SECONDS = 2.0  # how long the server's start waits for a locked file
LOCK_SHARE = 0.9  # of the timeout; the rest is time to report that nothing was changed
PURGE_ROWS = 500  # of a step: some milliseconds, for which other work in the thread waits
PURGE_SECONDS = 1.0  # between steps
PURGE_SECONDS_BEHIND = 0.05  # while more has expired than a step removes
PURGE_SECONDS_FAILED = 60.0  # so long, since every failure is a line in the log
_IS_LIVE = "(expires_at IS NULL OR expires_at > ?)"
_LOAD = f"""
SELECT is_text, codec, typeof(value), value, expires_at FROM items WHERE key = ? AND {_IS_LIVE}"""
_SAVE = """
INSERT OR REPLACE INTO items (key, is_text, codec, value, expires_at) VALUES (?, ?, ?, ?, ?)"""
_FIND = f"SELECT 1 FROM items WHERE key = ? AND {_IS_LIVE}"
_DELETE = "DELETE FROM items WHERE key = ?"
_PURGE = """
DELETE FROM items WHERE key IN
(SELECT key FROM items WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)"""


class _Opened(NamedTuple):
    thread: ThreadPoolExecutor
    file: Transactions
    loads: Group[Work]
    writes: Group[Work]
    purging: asyncio.Task[None]


class SqliteStore(Store):
    """The store of `sqlite:////ABSOLUTE/PATH` and `sqlite:///RELATIVE/PATH`.

    Args:
        url: see `kvserve.store.sqlite.file.path_of`.
        timeout_seconds: how long a call may take; most of it may be spent waiting for a lock.

    Raises:
        ConfigError: a bad URL.
    """

    is_shared: ClassVar[bool] = False

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._path = file.path_of(url)
        self._timeout_seconds = timeout_seconds
        self._opened: _Opened | None = None

    @staticmethod
    def check(url: str) -> None:
        """Opens the file and closes it; creates it if there is none.

        Raises:
            ConfigError, StoreUnavailable: see `kvserve.store.sqlite.file.connect`.
        """
        file.connect(file.path_of(url), CHECK_SECONDS).close()

    async def open(self) -> None:
        """See `Store.open`; raises ConfigError as `check` does. After a failure, call it again."""
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        try:
            file = await loop.run_in_executor(thread, Transactions, self._path, self._lock_seconds)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        self._opened = _Opened(
            thread,
            file,
            Group(loop, thread, file.read),
            Group(loop, thread, file.commit),
            loop.create_task(_purge(loop, thread, file)),
        )

    async def load_many(self, keys: Sequence[Key]) -> list[Record | None]:
        """See `Store.load_many`."""
        work = functools.partial(_load, keys, [to_key(key) for key in keys])
        found: list[Record | None] = await self._use().loads.call(work, self._lock_seconds)
        return found

    async def save_many(self, records: Sequence[Record]) -> None:
        """See `Store.save_many`. All of the records are saved or none is."""
        work = functools.partial(_save, [to_row(record) for record in records])
        await self._use().writes.call(work, self._lock_seconds)

    async def delete_many(self, keys: Sequence[Key]) -> list[bool]:
        """See `Store.delete_many`. All of the keys are removed or none is."""
        work = functools.partial(_delete, [to_key(key) for key in keys])
        found: list[bool] = await self._use().writes.call(work, self._lock_seconds)
        return found

    def tune(self, timeout_seconds: float, staleness_seconds: float) -> None:
        """See `Store.tune`."""
        del staleness_seconds  # no other host writes there
        self._timeout_seconds = timeout_seconds

    async def flush(self) -> None:
        """See `Store.flush`. There is nothing to do: what was acknowledged is on the disk."""

    async def close(self) -> None:
        """See `Store.close`. Calls that are under way get their answers."""
        if self._opened is None:
            return
        opened, self._opened = self._opened, None
        opened.purging.cancel()
        loop = asyncio.get_running_loop()
        # Gives up on a disk that hangs: no acknowledged write depends on the close.
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * self._timeout_seconds):
                last = [
                    group.call(_nothing, self._timeout_seconds)  # behind all earlier calls
                    for group in (opened.loads, opened.writes)
                ]
                await asyncio.gather(*last, return_exceptions=True)
                await loop.run_in_executor(opened.thread, opened.file.close)
        opened.thread.shutdown(wait=False)

    @property
    def _lock_seconds(self) -> float:
        return LOCK_SHARE * self._timeout_seconds

    def _use(self) -> _Opened:
        if self._opened is None:
            raise StoreUnavailable(f"the store's file {self._path} is not open")
        return self._opened


async def _purge(
    loop: asyncio.AbstractEventLoop, thread: ThreadPoolExecutor, file: Transactions
) -> None:
    """Removes expired rows step by step, until cancelled; the workers share this work.

    Each step is a transaction of its own, so that it fails no write.
    """
    step: list[Work] = [_remove_expired]
    pause_seconds = PURGE_SECONDS
    while True:
        await asyncio.sleep(pause_seconds)
        try:
            (rows,) = await loop.run_in_executor(thread, file.commit, step)
            pause_seconds = PURGE_SECONDS if rows < PURGE_ROWS else PURGE_SECONDS_BEHIND
        except StoreBusy:  # other workers write, and purge
            pause_seconds = PURGE_SECONDS
        except KvserveError as error:
            _log.warning("expired rows stay in the store for now: %s", error)
            pause_seconds = PURGE_SECONDS_FAILED


def _load(
    keys: Sequence[Key], columns: list[str | bytes], connection: sqlite3.Connection
) -> list[Record | None]:
    now_ms = _now_ms()
    found: list[Record | None] = []
    for key, column in zip(keys, columns, strict=True):
        row = connection.execute(_LOAD, (column, now_ms)).fetchone()
        found.append(None if row is None else to_record(key, row))
    return found


def _save(rows: list[Row], connection: sqlite3.Connection) -> None:
    connection.executemany(_SAVE, rows)


def _delete(columns: list[str | bytes], connection: sqlite3.Connection) -> list[bool]:
    now_ms = _now_ms()
    found = []
    for column in columns:
        found.append(connection.execute(_FIND, (column, now_ms)).fetchone() is not None)
        connection.execute(_DELETE, (column,))  # also an expired one: clocks can be set back
    return found


def _remove_expired(connection: sqlite3.Connection) -> int:
    return connection.execute(_PURGE, (_now_ms(), PURGE_ROWS)).rowcount


def _nothing(_connection: sqlite3.Connection) -> None:
    """Work that only takes its turn."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

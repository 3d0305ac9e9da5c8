"""Executes many calls in one transaction of an open SQLite file, in the one thread that uses it.

Knows neither records nor an event loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kvserve.errors import KvserveError, OutcomeUnknown, StoreUnavailable
from kvserve.store.sqlite.file import connect, translated

Work = Callable[[sqlite3.Connection], Any]


class Transactions:
    """Reads and commits. The same thread must make, use and close it.

    Args:
        path: the file's.
        lock_seconds: how long to wait at the start while other processes create or open it.

    Raises:
        ConfigError, StoreUnavailable: see `kvserve.store.sqlite.file.connect`.
    """

    def __init__(self, path: Path, lock_seconds: float) -> None:
        self._path = path
        self._connection = connect(path, lock_seconds)
        self._names = (path, Path(f"{path.resolve()}-wal"))
        self._files = self._present()

    def read(self, group: list[Work]) -> list[Any]:
        """The results of each work; all of them see the file at the same moment.

        Raises:
            StoreUnavailable: SQLite failed, or the file was removed or replaced.
        """
        self._refuse_replaced()
        return self._run("BEGIN", group, self._translated)

    def commit(self, group: list[Work]) -> list[Any]:
        """The results of each work, once the changes of all of them are on the disk.

        Raises:
            StoreUnavailable: nothing was changed.
            OutcomeUnknown: all changes were made, or none.
        """
        self._refuse_replaced()
        answers = self._run("BEGIN IMMEDIATE", group, self._translated_at_commit)
        if self._present() != self._files:
            raise OutcomeUnknown(f"the store's file {self._path} was taken away during a write")
        return answers

    def close(self) -> None:
        """Closes the file; the last process to close it moves the log into the database file."""
        self._connection.close()

    def _run(
        self, begin: str, group: list[Work], at_end: Callable[[sqlite3.Error], KvserveError]
    ) -> list[Any]:
        translate: Callable[[sqlite3.Error], KvserveError] = self._translated
        try:
            self._connection.execute(begin)
            answers = [work(self._connection) for work in group]
            translate = at_end
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:  # some errors end the transaction themselves
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise translate(error) from error
            raise
        return answers

    def _translated(self, error: sqlite3.Error) -> StoreUnavailable:
        return translated(self._path, error)

    def _translated_at_commit(self, error: sqlite3.Error) -> KvserveError:
        # A commit counts once its last frame is in the log. If that frame could not be written, the
        # commit was not made. If a later step failed, such as the wait for the disk, this process
        # goes on without the commit, but after a crash the frame in the log may count.
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_WRITE:
            return OutcomeUnknown(f"the disk of the store's file {self._path} failed: {error}")
        return translated(self._path, error)

    def _refuse_replaced(self) -> None:
        """Raises if the files were replaced; SQLite would go on with files no process can open."""
        if self._present() != self._files:
            raise StoreUnavailable(
                f"the store's file {self._path} was removed or replaced under the server; "
                "put it back with its -wal file, or restart the server"
            )

    def _present(self) -> list[tuple[int, int]]:
        """The device and inode of the files now under the names of the database and its log."""
        found = []
        for name in self._names:
            try:
                status = name.stat()
                found.append((status.st_dev, status.st_ino))
            except OSError:
                found.append((0, 0))
        return found

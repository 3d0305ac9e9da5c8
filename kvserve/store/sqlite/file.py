"""The SQLite file of a store: found by its URL, made, verified, and its errors in our words.

A file that is not ours is recognized by its first bytes, before SQLite opens it: to open it could
already change it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from pathlib import Path

from kvserve.errors import ConfigError, StoreUnavailable
from kvserve.store.sqlite.group_commit import StoreBusy

APPLICATION_ID = 0x6B767376  # "kvsv"; also in docs/stores.md
SCHEMA_VERSION = 1
LOCK_SLICE_SECONDS = 0.02  # that SQLite waits for a lock before the thread does something else
_SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
    # The comments stay in the file, where the shell's .schema shows them.
    """CREATE TABLE items (
  key TEXT NOT NULL PRIMARY KEY,  -- a BLOB where it is not UTF-8 or contains NUL
  is_text INTEGER NOT NULL DEFAULT 1,  -- 1: the key was given as text, 0: as bytes
  codec INTEGER CHECK (typeof(codec) IN ('integer', 'null')),  -- NULL: as the value's type says
  value,  -- TEXT; INTEGER: a counter; BLOB: bytes (codec 0) or msgpack (codec 3)
  expires_at INTEGER CHECK (typeof(expires_at) IN ('integer', 'null'))  -- Unix ms; NULL: never
) WITHOUT ROWID""",
    "CREATE INDEX items_expires_at ON items (expires_at) WHERE expires_at IS NOT NULL",
)
_HEADER_BYTES = 100  # sqlite.org/fileformat2.html#the_database_header
_MAGIC = b"SQLite format 3\0"
_APPLICATION_ID_AT = slice(68, 72)


def path_of(url: str) -> Path:
    """The path in a URL: `sqlite:///relative.db` or, with four slashes, `sqlite:////absolute.db`.

    As in SQLAlchemy: what follows the third slash is the path as it stands, nothing is decoded.

    Raises:
        ConfigError: there is no path, or something that is none.
    """
    path = url.removeprefix("sqlite:///")
    if path == url:
        rest = url.removeprefix("sqlite://")
        example = f"sqlite:////{rest or 'var/lib/cache.db'}"
        raise ConfigError(f"{url} has no path; write an absolute one with four slashes: {example}")
    if path in ("", ":memory:"):
        raise ConfigError(f"{url}: the workers can only share a file; give the path of one")
    if "?" in path or "\0" in path:
        raise ConfigError(f"{url!r}: the path of a store contains no ? and no NUL")
    return Path(path)


def connect(path: Path, lock_seconds: float) -> sqlite3.Connection:
    """Opens the file, for this thread alone, and makes it if there is none.

    Args:
        path: the file's.
        lock_seconds: how long to wait while others make or open it.

    Raises:
        ConfigError: it is a file of something else, or cannot be written here.
        StoreUnavailable: it is locked, or its disk is full or failing.
    """
    _make(path)
    _refuse_foreign(path)
    address = f"{path.absolute().as_uri()}?mode=rw"
    try:
        connection = sqlite3.connect(
            address, uri=True, timeout=LOCK_SLICE_SECONDS, isolation_level=None
        )
    except sqlite3.Error as error:
        raise _cannot_use(path, error) from None
    try:
        connection.text_factory = bytes  # TEXT written by hand may be no UTF-8
        deadline = time.monotonic() + lock_seconds
        while True:
            try:
                _prepare(path, connection)
                return connection
            except sqlite3.Error as error:
                refusal = _cannot_use(path, error)
                if not isinstance(refusal, StoreBusy) or time.monotonic() > deadline:
                    raise refusal from None
                time.sleep(LOCK_SLICE_SECONDS)  # not every lock is one that SQLite waits for
    except BaseException:
        connection.close()
        raise


def translated(path: Path, error: sqlite3.Error) -> StoreUnavailable:
    """What SQLite says, in our words; nothing was changed."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of it are details
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"another program keeps the store's file {path} locked")
    if code == sqlite3.SQLITE_FULL:
        return StoreUnavailable(f"the disk of the store's file {path} is full; make room there")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreUnavailable(f"the store's file {path} fails: {error} ({name})")


def _make(path: Path) -> None:
    """An empty file that its owner alone may read; SQLite would let everybody read it."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise ConfigError(
            f"the store's directory does not exist; run: mkdir -p {path.parent}"
        ) from None
    except OSError as error:
        raise ConfigError(f"the store's file {path} cannot be made: {error.strerror}") from None


def _refuse_foreign(path: Path) -> None:
    # To close a file drops all locks that this process has on it, so that this must not be done
    # beside an open connection: a process has one, and looks before it opens it.
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"the store's path {path} is not a plain file; use another")
        with path.open("r+b") as file:  # SQLite would be content with a file it can only read
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise ConfigError(
            f"the store's file {path} cannot be opened for writing: {error.strerror}"
        ) from None
    if not header:
        return
    application = int.from_bytes(header[_APPLICATION_ID_AT], "big")
    if not header.startswith(_MAGIC) or application != APPLICATION_ID:
        what = "another program's database" if header.startswith(_MAGIC) else "not a database"
        raise ConfigError(f"the store's file {path} is {what}; it was not touched: use another")


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Makes the schema, or verifies it, and sets up the connection."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA application_id").fetchone() == (0,):
            # In one transaction, and before the log is in use, so that the file's first bytes
            # tell from then on whose it is.
            for statement in _SCHEMA:
                connection.execute(statement)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"the store's file {path} has version {version} of its schema, and this kvserve "
                f"knows {SCHEMA_VERSION}; use the kvserve that wrote it, or another file"
            )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != (b"wal",):
        raise ConfigError(f"the file system of {path} cannot hold a store; use a local disk")
    # The log is on the disk before a write is acknowledged. NORMAL would leave out that wait, and
    # lose the last commits when the power fails; a killed process loses none either way.
    connection.execute("PRAGMA synchronous = FULL")
    try:
        connection.execute("SELECT key, is_text, codec, value, expires_at FROM items LIMIT 1")
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_ERROR:
            raise
        raise ConfigError(f"the schema of the store's file {path} was changed: {error}") from None


def _cannot_use(path: Path, error: sqlite3.Error) -> ConfigError | StoreUnavailable:
    """What SQLite says when it opens the file: some of it no waiting will fix."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return ConfigError(
            f"the directory of the store's file {path}, and its -wal and -shm files there, must be "
            f"writable: {error}"
        )
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return ConfigError(f"the store's file {path} is damaged: {error}; restore it from a backup")
    return translated(path, error)

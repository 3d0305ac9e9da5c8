"""Opens the SQLite file that a store's URL names, creates and verifies it, translates its errors.

A foreign file is recognized by its first bytes before SQLite opens it, because opening could
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
LOCK_SLICE_SECONDS = 0.02  # SQLite's wait for a lock; then the thread does something else
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

    As in SQLAlchemy, the text after the third slash is the path; nothing is decoded.

    Raises:
        ConfigError: there is no path, or it cannot be one.
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
    """Opens the file, for this thread alone, and creates it if there is none.

    Args:
        path: the file's.
        lock_seconds: how long to wait while other processes create or open it.

    Raises:
        ConfigError: it is another program's file, or this user cannot write it.
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
                time.sleep(LOCK_SLICE_SECONDS)  # SQLite itself does not wait for every lock
    except BaseException:
        connection.close()
        raise


def translated(path: Path, error: sqlite3.Error) -> StoreUnavailable:
    """SQLite's error as one of ours; nothing was changed."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the higher bits are details
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"another program keeps the store's file {path} locked")
    if code == sqlite3.SQLITE_FULL:
        return StoreUnavailable(f"the disk of the store's file {path} is full; make room there")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreUnavailable(f"the store's file {path} fails: {error} ({name})")


def _make(path: Path) -> None:
    """Creates an empty file that only its owner may read; SQLite would let all users read it."""
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
    # Closing a file drops all locks that this process has on it, so this must not happen beside an
    # open connection: a process has one, and looks before it opens it.
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"the store's path {path} is not a plain file; use another")
        with path.open("r+b") as file:  # SQLite would accept a read-only file
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
    """Creates or verifies the schema, and sets up the connection."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA application_id").fetchone() == (0,):
            # In one transaction, and before the log is in use, so that the file's first bytes
            # identify it as ours from then on.
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
    # FULL: the log is on the disk before a write is acknowledged. NORMAL would skip that wait and
    # lose the last commits in a power failure; a killed process loses none either way.
    connection.execute("PRAGMA synchronous = FULL")
    try:
        connection.execute("SELECT key, is_text, codec, value, expires_at FROM items LIMIT 1")
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_ERROR:
            raise
        raise ConfigError(f"the schema of the store's file {path} was changed: {error}") from None


def _cannot_use(path: Path, error: sqlite3.Error) -> ConfigError | StoreUnavailable:
    """SQLite's error when it opens the file: ConfigError if no waiting will fix it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return ConfigError(
            f"the directory of the store's file {path}, and its -wal and -shm files there, must be "
            f"writable: {error}"
        )
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return ConfigError(f"the store's file {path} is damaged: {error}; restore it from a backup")
    return translated(path, error)

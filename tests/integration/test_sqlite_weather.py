"""The SQLite store in bad weather: killed writers, a full disk, a locked file, one taken away."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from conftest import Eventually
from support.sqlite_writer import KEYS, TASKS, change
from support.stores import edit, opened, record

from kvserve.errors import ConfigError, OutcomeUnknown, StoreUnavailable
from kvserve.store.sqlite.group_commit import StoreBusy
from kvserve.store.sqlite.store import SqliteStore
from kvserve.store.sqlite.transactions import Transactions

WRITERS = 4
ROUNDS = 6
StartWriters = Callable[[], dict[str, subprocess.Popen[bytes]]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file of this test will be."""
    return tmp_path / "cache.db"


@pytest.fixture
def start_writers(path: Path) -> Iterator[StartWriters]:
    """Starts processes that write to the file until they are killed; each time with new names."""
    started: dict[str, subprocess.Popen[bytes]] = {}

    def start() -> dict[str, subprocess.Popen[bytes]]:
        url = f"sqlite:///{path}"
        new = {}
        for number in range(len(started), len(started) + WRITERS):
            name = f"writer{number}"
            arguments = ["-m", "support.sqlite_writer", url, str(path.with_name(name)), name]
            new[name] = subprocess.Popen([sys.executable, *arguments])
        started.update(new)
        return new

    yield start
    for writer in started.values():
        writer.kill()
        writer.wait()


def acknowledged(log: Path) -> list[int]:
    """The last step of each task that was acknowledged; -1: none."""
    last = [-1] * TASKS
    if log.exists():
        for line in log.read_text().splitlines():
            task, step = line.split()
            last[int(task)] = int(step)
    return last


def lost(path: Path, name: str) -> list[str]:
    """What of a killed writer's work is not in the file as its log promises."""
    if max(acknowledged(path.with_name(name))) < 0:
        return []  # there may be no table yet
    rows = dict(edit(path, f"SELECT key, value FROM items WHERE key LIKE '{name}.%'"))
    wrong = []
    for task, last in enumerate(acknowledged(path.with_name(name))):
        # The step after the last acknowledged one was perhaps under way, and any of the two is
        # right. Of each key, only the latest step counts.
        for step in range(max(0, last - KEYS + 1), last + 1):
            left, right = change(name, task, step).keys
            expected = {change(name, task, step).number}
            if step == last - KEYS + 1:
                expected.add(change(name, task, last + 1).number)
            if rows.get(left) not in expected or rows.get(left) != rows.get(right):
                found = rows.get(left), rows.get(right)
                wrong.append(f"{left}: {found} is there after step {step}: {expected}")
    return wrong


def test_no_acknowledged_write_is_lost_by_kill(
    path: Path, start_writers: StartWriters, eventually: Eventually, seed: int
) -> None:
    """Several writers that make the file together, then killed at random times, all or some."""
    draw = random.Random(seed)
    killed: list[str] = []

    def steps(name: str) -> int:
        return sum(last + 1 for last in acknowledged(path.with_name(name)))

    for attempt in range(ROUNDS):
        writers = start_writers()
        if attempt == 0:
            eventually(path.exists)  # the first are killed while they still make the file
        else:
            eventually(lambda now=writers: all(path.with_name(name).exists() for name in now))
        if attempt == ROUNDS - 1:
            eventually(lambda all_of_them=(*killed, *writers): sum(map(steps, all_of_them)) > 100)
        names = draw.sample(sorted(writers), len(writers))
        for name in names:
            time.sleep(draw.choice([0, draw.random() * 0.3]))
            assert writers[name].poll() is None, f"{name} ended by itself"
            writers[name].kill()
        for name in names:
            assert writers[name].wait() == -signal.SIGKILL
        killed += names
        assert [problem for name in killed for problem in lost(path, name)] == []
    assert edit(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_commit_waits_for_the_disk(path: Path) -> None:
    """No test cuts the power; what SQLite promises for it depends on these two alone."""

    def settings(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    with closing(Transactions(path, 1.0)) as transactions:
        assert transactions.read([settings]) == [[b"wal", 2]]  # 2: FULL


def test_writers_in_many_processes_all_get_on(
    path: Path, start_writers: StartWriters, eventually: Eventually
) -> None:
    """None of them starves, though SQLite lets one process write at a time."""
    writers = start_writers()
    for name in writers:
        log = path.with_name(name)
        eventually(lambda log=log: min(acknowledged(log)) >= 20)
    assert [name for name, writer in writers.items() if writer.poll() is not None] == []


@contextmanager
def write_lock(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program in the middle of a long transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


def test_a_lock_makes_writes_wait_but_no_load_and_no_loop(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as store:
            await store.save_many([record("k", 1)])
            with write_lock(path) as other:
                save = asyncio.ensure_future(store.save_many([record("k", 2)]))
                for _ in range(20):  # each comes between two attempts to get the lock
                    assert await store.load_many(["k"]) == [record("k", 1)]
                    assert not save.done()
                other.execute("ROLLBACK")
                await save
            assert await store.load_many(["k"]) == [record("k", 2)]

    asyncio.run(main())


def test_a_lock_that_stays_makes_the_store_unavailable(path: Path) -> None:
    async def main() -> None:
        async with opened(path, timeout_seconds=3600.0) as store:  # beyond the watchdog's patience
            store.tune(0.2, 0.0)
            with write_lock(path):
                calls = (store.save_many([record("k", 1)]), store.delete_many(["k"]))
                for failure in await asyncio.gather(*calls, return_exceptions=True):
                    assert isinstance(failure, StoreUnavailable)
                    assert str(failure) == f"another program keeps the store's file {path} locked"
            assert await store.load_many(["k"]) == [None]
            await store.save_many([record("k", 3)])

    asyncio.run(main())


def test_a_file_that_is_locked_at_the_start_is_waited_for_and_then_named(path: Path) -> None:
    SqliteStore.check(f"sqlite:///{path}")

    async def main() -> None:
        store = SqliteStore(f"sqlite:///{path}", 0.2)
        with write_lock(path), pytest.raises(StoreBusy, match="keeps the store's file"):
            await store.open()
        await store.open()  # the same store, tried again
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("taken", ["cache.db", "cache.db-wal"])
def test_a_file_that_is_taken_away_is_missed_until_it_is_back(path: Path, taken: str) -> None:
    file = path.with_name(taken)

    async def main() -> None:
        async with opened(path) as store:
            await store.save_many([record("k", 1)])
            file.rename(path.with_name("elsewhere"))
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="removed or replaced under the server"):
                    await store.load_many(["k"])
                with pytest.raises(StoreUnavailable, match="removed or replaced under the server"):
                    await store.save_many([record("k", 2)])
                file.touch()  # another file of the same name is no better
            path.with_name("elsewhere").replace(file)
            assert await store.load_many(["k"]) == [record("k", 1)]
            await store.save_many([record("k", 3)])

    asyncio.run(main())
    assert edit(path, "SELECT value FROM items") == [(3,)]


def test_a_file_taken_away_during_a_write_leaves_its_outcome_unknown(path: Path) -> None:
    transactions = Transactions(path, 1.0)

    def take_away(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO items (key, value) VALUES ('k', 1)")
        path.rename(path.with_name("elsewhere"))

    with closing(transactions), pytest.raises(OutcomeUnknown, match="taken away during a write"):
        transactions.commit([take_away])


class _FailingDisk(sqlite3.Connection):
    """Its commits fail, as when the disk does; the code tells at what."""

    code = 0

    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
        if sql == "COMMIT" and self.code:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self.code
            raise error
        return super().execute(sql, *parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_IOERR_WRITE, StoreUnavailable),
        (sqlite3.SQLITE_IOERR_FSYNC, OutcomeUnknown),
        (sqlite3.SQLITE_IOERR_SHMSIZE, OutcomeUnknown),
        (sqlite3.SQLITE_FULL, StoreUnavailable),
    ],
)
def test_a_commit_that_may_be_in_the_log_is_not_called_undone(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[Exception]
) -> None:
    """No disk of ours fails when it is told to, so that here the connection says it did."""
    connect = sqlite3.connect

    def connect_failing(*arguments: object, **options: object) -> sqlite3.Connection:
        return connect(*arguments, **options, factory=_FailingDisk)  # type: ignore[call-overload]

    monkeypatch.setattr(sqlite3, "connect", connect_failing)
    with closing(Transactions(path, 1.0)) as transactions:
        insert = "INSERT INTO items (key, value) VALUES ('k', 1)"
        monkeypatch.setattr(_FailingDisk, "code", code)
        with pytest.raises(expected) as caught:
            transactions.commit([lambda connection: connection.execute(insert)])
        assert caught.type is expected
        monkeypatch.setattr(_FailingDisk, "code", 0)
        assert transactions.read([lambda each: each.execute("SELECT 1 FROM items").fetchall()]) == [
            []
        ]
        transactions.commit([lambda connection: connection.execute(insert)])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "kvserve-test", str(disk)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this system does not let us mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    """Changes a mounted disk."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_full_disk_refuses_writes_and_nothing_else(small_disk: Path) -> None:
    async def main() -> None:
        async with opened(small_disk / "cache.db") as store:
            saved: list[str] = []

            async def fill() -> None:
                for number in range(100):
                    await store.save_many([record(f"k{number}", bytes(100_000))])
                    saved.append(f"k{number}")

            with pytest.raises(StoreUnavailable, match="is full; make room there"):
                await fill()
            assert saved
            assert None not in await store.load_many(saved)
            assert await store.load_many([f"k{len(saved)}"]) == [None]
            two = [record("small", 1), record("large", bytes(2_000_000))]
            with pytest.raises(StoreUnavailable, match="is full"):
                await store.save_many(two)
            assert await store.load_many(["small", "large"]) == [None, None]
            remount(small_disk, "size=16m")
            await store.save_many(two)
            assert await store.load_many(["small", "large"]) == two
        assert edit(small_disk / "cache.db", "PRAGMA integrity_check") == [("ok",)]

    asyncio.run(main())


def test_a_disk_that_is_full_at_the_start_is_named(small_disk: Path) -> None:
    free = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))
    with pytest.raises(StoreUnavailable) as caught:
        SqliteStore.check(f"sqlite:///{small_disk}/cache.db")
    assert "\n" not in str(caught.value)
    (small_disk / "filler").unlink()
    SqliteStore.check(f"sqlite:///{small_disk}/cache.db")


@pytest.mark.parametrize("exists", [True, False])
def test_a_disk_that_cannot_be_written_is_refused_at_the_start(
    small_disk: Path, exists: bool
) -> None:
    url = f"sqlite:///{small_disk}/cache.db"
    if exists:
        SqliteStore.check(url)
    remount(small_disk, "ro")
    says = "opened for writing: Read-only" if exists else "cannot be made: Read-only file system"
    with pytest.raises(ConfigError, match=says):
        SqliteStore.check(url)


def leave_log(path: Path) -> None:
    """Leaves what a killed server leaves beside its file."""
    program = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("INSERT INTO items (key, value) VALUES ('k', 1)")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize(
    ("mode", "directory_mode", "log_mode", "says"),
    [
        (0o600, 0o755, None, "cannot be opened for writing: Permission denied"),
        (0o644, 0o777, None, "cannot be opened for writing: Permission denied"),
        (0o666, 0o755, None, "its -wal and -shm files there, must be writable"),
        (0o666, 0o777, 0o600, "its -wal and -shm files there, must be writable"),
        (0o666, 0o777, 0o644, "its -wal and -shm files there, must be writable"),
        (None, 0o755, None, "cannot be made: Permission denied"),
        (0o666, 0o700, None, "Permission denied"),
    ],
)
def test_a_file_of_somebody_else_is_refused_at_the_start(
    mode: int | None, directory_mode: int, log_mode: int | None, says: str
) -> None:
    """Seen by a child process that is nobody, who may not walk down to pytest's directories."""
    program = """
import os, sys
import urllib.parse  # for pathlib of 3.13, which imports it when nobody may not read it any more
from kvserve.errors import ConfigError
from kvserve.store.sqlite.store import SqliteStore
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    SqliteStore.check(sys.argv[1])
except ConfigError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cache.db"
        url = f"sqlite:///{path}"
        if mode is not None:
            SqliteStore.check(url)
            path.chmod(mode)
        if log_mode is not None:
            leave_log(path)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).chmod(log_mode)
        Path(directory).chmod(directory_mode)
        command = [sys.executable, "-c", program, url]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert says in child.stdout
    assert child.stdout.count("\n") == 1

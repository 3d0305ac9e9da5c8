"""A store behind the cache, and everything killed: what was acknowledged is in the database."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from conftest import Eventually
from support.servers import StartServer

import kvserve
from kvserve.names import Names

ROUNDS = int(os.environ.get("KVSERVE_TEST_STORE_KILLS", "4"))
WRITERS = 3
KEYS = 20

# Counts each of its keys up; says what it begins before and what was acknowledged after.
WRITER = """
import sys, time
import kvserve
name, who, keys, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
cache = kvserve.connect(name, timeout=5.0)
n = first
while True:
    n += 1
    key = f"{who}-{n % keys}"
    print("begin", key, n, flush=True)
    if n % 7 == 0:
        cache.set_many({key: n, f"{who}-pair-{n % keys}": n})
    else:
        cache.set(key, n)
    print("done", key, n, flush=True)
"""


class Journal:
    """What writers outside of kvserve noted, by key."""

    def __init__(self) -> None:
        self.begun: dict[str, int] = {}
        self.done: dict[str, int] = {}

    def read(self, lines: list[str]) -> None:
        for line in lines:
            words = line.split()
            if len(words) == 3:  # the last line may be cut
                notes = self.begun if words[0] == "begin" else self.done
                notes[words[1]] = int(words[2])

    @property
    def last(self) -> int:
        return max(self.begun.values(), default=0)


def test_no_acknowledged_write_is_lost_with_a_store(
    make_server: StartServer, names: Names, tmp_path: Path, eventually: Eventually, seed: int
) -> None:
    dice = random.Random(seed)
    file = tmp_path / "cache.db"
    journals = [Journal() for _ in range(WRITERS)]
    for _ in range(ROUNDS):
        server = make_server("--store", f"sqlite:///{file}", names=names)
        writers = []
        for n, journal in enumerate(journals):
            with (tmp_path / f"journal-{n}").open("w") as notes:
                arguments = [names.name, str(n), str(KEYS), str(journal.last)]
                writers.append(
                    subprocess.Popen(
                        [sys.executable, "-c", WRITER, *arguments],
                        stdout=notes,
                        stderr=subprocess.DEVNULL,
                    )
                )
        for n in range(WRITERS):
            eventually(lambda n=n: "done" in (tmp_path / f"journal-{n}").read_text())
        time.sleep(dice.uniform(0, 0.5))
        server.kill_everything()
        for n, writer in enumerate(writers):
            writer.kill()
            writer.wait()
            journals[n].read((tmp_path / f"journal-{n}").read_text().splitlines())
        check(file, journals)
    assert all(journal.done for journal in journals)
    server = make_server("--store", f"sqlite:///{file}", names=names)
    with server.connect() as direct, server.connect(read="worker") as asking:
        for key, value in stored(file).items():
            assert direct.get(key) == asking.get(key) == value
        assert direct.verify() == []


def stored(file: Path) -> dict[str, int]:
    """All that the database holds, read without kvserve."""
    with closing(sqlite3.connect(file)) as database, database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return dict(database.execute("SELECT key, value FROM items"))


def check(file: Path, journals: list[Journal]) -> None:
    found = stored(file)
    for journal in journals:
        for key, done in journal.done.items():
            assert done <= found[key] <= journal.begun[key], key


def test_a_killed_worker_loses_nothing_and_leaves_nothing_stale(
    make_server: StartServer, tmp_path: Path, eventually: Eventually, seed: int
) -> None:
    """Every value that is read after a kill is the one in the database."""
    file = tmp_path / "cache.db"
    server = make_server("--store", f"sqlite:///{file}", "--workers", "1")
    dice = random.Random(seed)
    # Longer than the pause before the successor of one that died young.
    with server.connect(timeout=60.0) as cache:
        for n in range(6):
            for key in range(30):
                with contextlib.suppress(kvserve.OutcomeUnknown):
                    cache.set(f"key-{key}", n * 100 + key)
                if key == dice.randrange(30):
                    eventually(lambda: server.worker_pids)  # the one before may be dead yet
                    os.kill(server.worker_pids[0], signal.SIGKILL)
            truth = stored(file)
            assert {key: cache.get(key) for key in truth} == truth

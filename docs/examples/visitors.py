"""What the examples' scripts share: a shop's sales, gunicorn, and visitors whose waits are counted.

Everything is on Unix sockets in a temporary directory, ends by itself, and leaves nothing.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import kvserve
from kvserve import names
from kvserve.parent.cleanup import clean

SHELVES, ARTICLES, SALES, CLIENTS = 50, 500, 200_000, 4


class OverSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def make_sales(path: Path) -> None:
    """A table of many sales, whose best-selling articles take some milliseconds to find."""
    dice = random.Random(1)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE sales (shelf INTEGER, article INTEGER, pieces INTEGER)")
        database.executemany(
            "INSERT INTO sales VALUES (?, ?, ?)",
            (
                (dice.randrange(SHELVES), dice.randrange(ARTICLES), dice.randrange(1, 9))
                for _ in range(SALES)
            ),
        )
        database.execute("CREATE INDEX by_shelf ON sales (shelf)")
    database.close()


@contextmanager
def served(application: str, home: Path, workers: int, directory: Path) -> Iterator[Path]:
    """An application under gunicorn; yields its socket."""
    place, log = directory / "http", directory / "log"
    command = [sys.executable, "-m", "gunicorn", "--workers", str(workers), "--threads", "4"]
    command += ["--bind", f"unix:{place}", "--chdir", str(home), application]
    with log.open("ab") as output:
        # In a directory where no sources hide what is installed.
        environment = os.environ | {"HOME": str(directory)}
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=directory, env=environment
        )
    try:
        give_up = time.monotonic() + 20
        while not place.exists():
            if process.poll() is not None or time.monotonic() > give_up:
                sys.exit(f"gunicorn did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield place
    finally:
        process.terminate()
        process.wait()


@contextmanager
def own_instance() -> Iterator[None]:
    """A name for a kvserve instance that the application starts; it is stopped and removed."""
    with tempfile.TemporaryDirectory(prefix="shop-") as run:
        os.environ |= {"KVSERVE_NAME": f"shop-{os.getpid()}", "KVSERVE_RUNTIME_DIR": run}
        try:
            yield
        finally:
            with suppress(kvserve.ServerUnavailable):
                with kvserve.connect() as cache:
                    pid = cache.stats()["pid"]
                os.kill(pid, signal.SIGTERM)
                while Path(f"/proc/{pid}").exists():
                    time.sleep(0.02)
            clean(names.instance())


def visit(place: Path, seconds: float, milliseconds: list[float]) -> None:
    """One visitor with a cart of its own: mostly pages, sometimes an article more."""
    dice = random.Random(threading.get_ident())
    connection = OverSocket(place)
    cookies: dict[str, str] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        shelf = int(dice.paretovariate(1.0)) % SHELVES
        visits = [
            ("GET", f"/shelf/{shelf}"),
            ("GET", "/cart"),
            ("POST", f"/cart/{dice.randrange(ARTICLES)}"),
        ]
        method, path = dice.choices(visits, weights=[80, 15, 5])[0]
        began = time.perf_counter()
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        connection.request(method, path, headers={"Cookie": cookie})
        response = connection.getresponse()
        body = response.read()
        milliseconds.append((time.perf_counter() - began) * 1000)
        assert response.status == 200, body
        for header in response.headers.get_all("Set-Cookie") or ():
            name, _, rest = header.partition("=")
            cookies[name] = rest.partition(";")[0]
    connection.close()


def rate(place: Path, seconds: float) -> tuple[float, float, float]:
    """Requests a second, and the median and 99th percentile of their milliseconds."""
    visit(place, 1.0, [])  # warm
    found: list[list[float]] = [[] for _ in range(CLIENTS)]
    threads = [threading.Thread(target=visit, args=(place, seconds, each)) for each in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = sorted(value for each in found for value in each)
    return len(every) / seconds, statistics.median(every), every[len(every) * 99 // 100]


def compare(
    application: str, home: Path, prepare: Callable[[Path], object], arguments: Sequence[str]
) -> None:
    """Runs an application with SHOP=plain and with SHOP=cached, and prints what it gains."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0, help="of load, for each")
    parser.add_argument("--workers", type=int, default=3, help="gunicorn's processes")
    options = parser.parse_args(arguments)
    print(f"{'':8} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for mode in ("plain", "cached"):
        with tempfile.TemporaryDirectory(prefix="shop-") as directory, own_instance():
            os.environ |= {"SHOP": mode, "SHOP_DIRECTORY": directory}
            prepare(Path(directory))
            with served(application, home, options.workers, Path(directory)) as place:
                each, median, late = rate(place, options.seconds)
        print(f"{mode:8} {each:10.0f} {median:8.2f} {late:8.2f}", flush=True)

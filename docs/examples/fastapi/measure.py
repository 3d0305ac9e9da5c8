"""What the FastAPI shop gains by kvserve: `python docs/examples/fastapi/measure.py [--seconds 5]`.

uvicorn serves it with three processes, first with SHOP=plain, then cached, and four visitors ask:
98 of 100 requests are for a page, two are sales, each of which invalidates a page.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from visitors import (  # noqa: E402
    ARTICLES,
    CLIENTS,
    SHELVES,
    OverSocket,
    make_sales,
    own_instance,
)


@contextmanager
def served(workers: int, directory: Path) -> Iterator[Path]:
    """The shop under uvicorn; yields its socket."""
    place, log = directory / "http", directory / "log"
    command = [sys.executable, "-m", "uvicorn", "app:app", "--app-dir", str(HERE)]
    command += ["--uds", str(place), "--workers", str(workers), "--log-level", "warning"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=directory)
    try:
        give_up = time.monotonic() + 30
        while not answers(place):
            if process.poll() is not None or time.monotonic() > give_up:
                sys.exit(f"uvicorn did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield place
    finally:
        process.terminate()
        process.wait()


def answers(place: Path) -> bool:
    connection = OverSocket(place)
    try:
        connection.request("GET", "/openapi.json")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def visit(place: Path, seconds: float, milliseconds: list[float]) -> None:
    """One visitor."""
    dice = random.Random(threading.get_ident())
    connection = OverSocket(place)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        shelf = int(dice.paretovariate(1.0)) % SHELVES
        method, path = "GET", f"/shelf/{shelf}"
        if dice.random() < 0.02:
            method, path = "POST", f"/shelf/{shelf}/sales/{dice.randrange(ARTICLES)}"
        began = time.perf_counter()
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        milliseconds.append((time.perf_counter() - began) * 1000)
        assert response.status == 200, body
    connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of load, for each")
    parser.add_argument("--workers", type=int, default=3, help="uvicorn's processes")
    options = parser.parse_args()
    print(f"{'':8} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for mode in ("plain", "cached"):
        with tempfile.TemporaryDirectory(prefix="shop-") as directory, own_instance():
            os.environ |= {"SHOP": mode, "SHOP_DIRECTORY": directory}
            make_sales(Path(directory) / "sales.db")
            with served(options.workers, Path(directory)) as place:
                visit(place, 1.0, [])  # warm
                found: list[list[float]] = [[] for _ in range(CLIENTS)]
                threads = [
                    threading.Thread(target=visit, args=(place, options.seconds, each))
                    for each in found
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        every = sorted(value for each in found for value in each)
        rate, late = len(every) / options.seconds, every[len(every) * 99 // 100]
        print(f"{mode:8} {rate:10.0f} {statistics.median(every):8.2f} {late:8.2f}", flush=True)


if __name__ == "__main__":
    main()

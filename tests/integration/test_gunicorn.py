"""A web service under gunicorn, the real thing: preloaded and not, its workers killed, reloaded."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Eventually
from support.leftovers import children
from support.servers import Server

WORKERS = 3
REQUESTS = 60
SERVICE = """
import os
import threading
import kvserve

cache = kvserve.connect({name!r}, timeout=20)
cache.incr("imported")

def app(environ, start_response):
    me = f"{{os.getpid()}} {{threading.get_ident()}}"
    total = cache.incr("counter")
    cache.set(me, [total] * 3000)
    good = cache.get(me) == [total] * 3000
    start_response("200 OK" if good else "500 mixed up", [("Content-Type", "text/plain")])
    return [str(total).encode()]
"""
CONFIGURATION = """
def post_worker_init(worker):
    worker.log.info("worker %s has loaded the service", worker.pid)
"""


class OverUnixSocket(http.client.HTTPConnection):
    """HTTP through a Unix socket, whose path stands where a host would."""

    def connect(self) -> None:
        """Connects to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.host)


class Gunicorn:
    """A running gunicorn with three workers of two threads each."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self._path = str(directory / "http")
        self._log_file = directory / "gunicorn.log"
        command = [sys.executable, "-m", "gunicorn", f"--workers={WORKERS}", "--threads=2"]
        command += [f"--bind=unix:{self._path}", f"--chdir={directory}"]
        command += [f"--config={directory / 'configuration.py'}", *flags, "service:app"]
        environment = os.environ | {"HOME": str(directory)}  # there it puts its control socket
        with self._log_file.open("wb") as log:
            # It looks for modules in its working directory, which must not hold our sources.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=directory
            )

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log_file.read_text()

    @property
    def worker_pids(self) -> set[int]:
        """The pids of its living workers."""
        return set(children(self._process.pid))

    @property
    def is_ready(self) -> bool:
        """Whether as many workers as asked for have loaded the service."""
        assert self._process.poll() is None, self.log
        loaded = [pid for pid in self.worker_pids if f"worker {pid} has loaded" in self.log]
        return len(loaded) == WORKERS

    def ask(self) -> int:
        """One request; the counter in the answer."""
        connection = OverUnixSocket(self._path)
        try:
            connection.request("GET", "/", headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, f"{response.status} {response.reason}\n{self.log}"
            return int(body)
        finally:
            connection.close()

    def reload(self) -> None:
        """Has it replace its workers."""
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Ends it, and its workers with it. Twice does no harm."""
        if self._process.poll() is None:
            self._process.terminate()
        assert self._process.wait(60) == 0, self.log


def sessions_of(pid: int, server: Server) -> list[Path]:
    """The FIFOs of a worker's sessions."""
    opened = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            opened.append(descriptor.readlink())
    return [path for path in opened if path.parent == server.names.clients_directory]


@pytest.fixture(params=["preloaded", "not preloaded"])
def gunicorn(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest, eventually: Eventually
) -> Iterator[Gunicorn]:
    """A service that connects when it is imported: once in the arbiter, or in each worker."""
    (tmp_path / "configuration.py").write_text(CONFIGURATION)
    (tmp_path / "service.py").write_text(SERVICE.format(name=server.name))
    running = Gunicorn(tmp_path, *(["--preload"] if request.param == "preloaded" else []))
    try:
        eventually(lambda: running.is_ready)
        yield running
    finally:
        running.stop()


def test_every_request_counts_once_whatever_becomes_of_the_workers(
    server: Server, gunicorn: Gunicorn, eventually: Eventually, request: pytest.FixtureRequest
) -> None:
    total = 0

    def send_requests() -> None:
        nonlocal total
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: gunicorn.ask(), range(REQUESTS)))
        assert sorted(answers) == list(range(total + 1, total + REQUESTS + 1))
        total += REQUESTS

    with server.connect(timeout=20) as cache:

        def kill_worker(pid: int) -> None:
            left = sessions_of(pid, server)
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: not any(fifo.exists() for fifo in left))
            eventually(lambda: pid not in gunicorn.worker_pids and gunicorn.is_ready)

        send_requests()
        for pid in gunicorn.worker_pids:
            kill_worker(pid)
            send_requests()
        old = gunicorn.worker_pids
        gunicorn.reload()
        eventually(lambda: not gunicorn.worker_pids & old and gunicorn.is_ready)
        send_requests()
        assert cache.get("counter") == total == (2 + WORKERS) * REQUESTS
        preloaded = "[preloaded]" in request.node.name
        eventually(lambda: cache.get("imported") == (1 if preloaded else 3 * WORKERS))
        assert cache.verify() == []


def test_stopped_service_leaves_no_session(
    server: Server, gunicorn: Gunicorn, eventually: Eventually
) -> None:
    for _ in range(REQUESTS):
        gunicorn.ask()
    assert any(server.names.clients_directory.iterdir())
    gunicorn.stop()
    eventually(lambda: not any(server.names.clients_directory.iterdir()))

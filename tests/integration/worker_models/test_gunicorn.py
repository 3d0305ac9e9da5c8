"""A web service under gunicorn: its kinds of workers, preloaded and not, killed and reloaded."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Eventually
from support.leftovers import children
from support.servers import Server, StartServer
from support.services import WebService
from support.worker_models import (
    REQUESTS,
    boot_without_server,
    count_exactly,
    leave_nothing,
    try_everything,
    variables,
)

from kvserve.names import Names

WORKERS = 3
CONFIGURATION = """
def post_worker_init(worker):
    worker.log.info("worker %s has loaded the service", worker.pid)
"""
KINDS = {
    "sync": ["--worker-class=sync"],
    "gthread": ["--worker-class=gthread", "--threads=4"],
    "gevent": ["--worker-class=gevent"],
    "preloaded": ["--worker-class=gthread", "--threads=2", "--preload"],
    "preloaded gevent": ["--worker-class=gevent", "--preload"],
}


class Gunicorn(WebService):
    """A running gunicorn with three workers."""

    def __init__(self, directory: Path, names: Names, *flags: str, **options: Any) -> None:
        (directory / "configuration.py").write_text(CONFIGURATION)
        command = [sys.executable, "-m", "gunicorn", f"--workers={WORKERS}"]
        command += ["--bind=unix:{address}", "--config=configuration.py"]
        command += [*flags, "support.application:wsgi"]
        super().__init__(directory, command, variables(names, **options))

    @property
    def worker_pids(self) -> set[int]:
        """The pids of its living workers."""
        return set(children(self.process.pid))

    @property
    def is_ready(self) -> bool:
        """Whether as many workers as asked for have loaded the service."""
        assert self.process.poll() is None, self.log
        loaded = [pid for pid in self.worker_pids if f"worker {pid} has loaded" in self.log]
        return len(loaded) == WORKERS


def sessions_of(pid: int, server: Server) -> list[Path]:
    """The FIFOs of a worker's sessions."""
    opened = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            opened.append(descriptor.readlink())
    return [path for path in opened if path.parent == server.names.clients_directory]


@pytest.mark.parametrize("kind", KINDS)
def test_gunicorn(
    kind: str, server: Server, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    service = Gunicorn(tmp_path, server.names, *KINDS[kind])
    try_everything(service, server, make_server, eventually)


@pytest.mark.parametrize("kind", ["sync", "gthread", "preloaded", "preloaded gevent"])
def test_gunicorn_boots_without_server(
    kind: str, names: Names, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    service = Gunicorn(tmp_path, names, *KINDS[kind], lazy=True)
    boot_without_server(service, names, make_server, eventually)


@pytest.fixture(params=["preloaded", "not preloaded"])
def gunicorn(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest, eventually: Eventually
) -> Iterator[Gunicorn]:
    """A service that connects when it is imported: once in the arbiter, or in each worker."""
    preload = ["--preload"] if request.param == "preloaded" else []
    running = Gunicorn(tmp_path, server.names, "--threads=2", *preload)
    try:
        eventually(lambda: running.is_ready)
        yield running
    finally:
        running.end()


def test_every_request_counts_once_whatever_becomes_of_the_workers(
    server: Server, gunicorn: Gunicorn, eventually: Eventually, request: pytest.FixtureRequest
) -> None:
    def kill_worker(pid: int) -> None:
        left = sessions_of(pid, server)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(fifo.exists() for fifo in left))
        eventually(lambda: pid not in gunicorn.worker_pids and gunicorn.is_ready)

    with server.connect(timeout=20) as cache:
        total = count_exactly(gunicorn)
        for pid in gunicorn.worker_pids:
            kill_worker(pid)
            total = count_exactly(gunicorn, total)
        old = gunicorn.worker_pids
        gunicorn.process.send_signal(signal.SIGHUP)  # replaces the workers
        eventually(lambda: not gunicorn.worker_pids & old and gunicorn.is_ready)
        total = count_exactly(gunicorn, total)
        assert cache["counter"] == total == (2 + WORKERS) * REQUESTS
        preloaded = "[preloaded]" in request.node.name
        eventually(lambda: cache.get("imported") == (1 if preloaded else 3 * WORKERS))
        assert cache.verify() == []


def test_preloaded_worker_begins_without_server(
    server: Server, tmp_path: Path, eventually: Eventually
) -> None:
    service = Gunicorn(tmp_path, server.names, "--preload")
    try:
        eventually(lambda: service.is_ready)
        page = service.ask("/read")
        server.stop()
        for pid in service.worker_pids:
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: pid not in service.worker_pids and service.is_ready)
            assert service.ask("/read") == page
            assert service.ask("/count") == (503, "ServerUnavailable")
    finally:
        service.end()


def test_stopped_service_leaves_no_session(
    server: Server, gunicorn: Gunicorn, eventually: Eventually
) -> None:
    count_exactly(gunicorn)
    leave_nothing(gunicorn, server, eventually)

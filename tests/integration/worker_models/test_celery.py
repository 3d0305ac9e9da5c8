"""Tasks under Celery's prefork workers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Eventually
from support.servers import Server, StartServer
from support.services import Answer, PipedService, Service
from support.valkeys import Valkey, serve
from support.worker_models import boot_without_server, try_everything, variables

from kvserve.names import Names

WORKER = [sys.executable, "-m", "celery", "--app=support.celery_application", "worker"]
CALLER = [sys.executable, "-m", "support.celery_application"]


@pytest.fixture
def broker() -> Iterator[Valkey]:
    """What carries Celery's messages."""
    with serve() as valkey:
        yield valkey


class Celery(Service):
    """A worker with three processes, and a program that has it execute tasks."""

    expected_complaint = "SecurityWarning"  # for root

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        command = [*WORKER, "--pool=prefork", "--concurrency=3", "--loglevel=WARNING"]
        super().__init__(directory, command, environment)
        (directory / "caller").mkdir()
        self._caller = PipedService(directory / "caller", CALLER, environment)

    def ask(self, path: str) -> Answer:
        """Has one task executed."""
        return self._caller.ask(path)

    def stop(self) -> None:
        """Both."""
        self._caller.stop()
        super().stop()

    def end(self) -> None:
        """Both."""
        self._caller.end()
        super().end()


@pytest.fixture
def leads(broker: Valkey) -> dict[str, str]:
    """What leads the worker and its caller to the broker."""
    return {"VALKEY_SOCKET": str(broker.socket), "C_FORCE_ROOT": "1"}


def test_celery(
    leads: dict[str, str],
    server: Server,
    make_server: StartServer,
    tmp_path: Path,
    eventually: Eventually,
) -> None:
    service = Celery(tmp_path, variables(server.names) | leads)
    try_everything(service, server, make_server, eventually)


def test_celery_boots_without_server(
    leads: dict[str, str],
    names: Names,
    make_server: StartServer,
    tmp_path: Path,
    eventually: Eventually,
) -> None:
    service = Celery(tmp_path, variables(names, lazy=True) | leads)
    boot_without_server(service, names, make_server, eventually)

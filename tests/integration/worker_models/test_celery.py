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
from support.worker_models import try_everything, variables

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


def test_celery(
    broker: Valkey,
    server: Server,
    make_server: StartServer,
    tmp_path: Path,
    eventually: Eventually,
) -> None:
    leads = {"VALKEY_SOCKET": str(broker.socket), "C_FORCE_ROOT": "1"}
    service = Celery(tmp_path, variables(server) | leads)
    try_everything(service, server, make_server, eventually)

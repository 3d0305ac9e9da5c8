"""Tasks under Celery's prefork workers, with a broker and results in a directory."""

from __future__ import annotations

import sys
from pathlib import Path

from conftest import Eventually
from support.servers import Server, StartServer
from support.services import Answer, PipedService, Service
from support.worker_models import try_everything, variables

WORKER = [sys.executable, "-m", "celery", "--app=support.celery_application", "worker"]
CALLER = [sys.executable, "-m", "support.celery_application"]


class Celery(Service):
    """A worker with three processes, and a program that has it execute tasks."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        command = [*WORKER, "--pool=prefork", "--concurrency=3", "--loglevel=WARNING"]
        super().__init__(directory, command, environment | {"C_FORCE_ROOT": "1"})
        (directory / "caller").mkdir()
        (directory / "broker").mkdir(exist_ok=True)
        (directory / "caller" / "broker").symlink_to(directory / "broker")
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
    server: Server, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    service = Celery(tmp_path, variables(server))
    try_everything(service, server, make_server, eventually)

"""Programs of threads, or of processes that multiprocessing forks, spawns or has forked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import Eventually
from support.servers import Server, StartServer
from support.services import PipedService
from support.worker_models import TRUSTING, try_everything, variables


@pytest.mark.parametrize("kind", ["threads", "fork", "forkserver", "spawn"])
def test_pool(
    kind: str, server: Server, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    command = [sys.executable, "-m", "support.pool_application", kind]
    service = PipedService(tmp_path, command, variables(server.names))
    try_everything(service, server, make_server, eventually)


@pytest.mark.parametrize("kind", ["threads", "fork", "spawn"])
def test_pool_of_trusted_writers(
    kind: str, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    server = make_server(*TRUSTING)
    command = [sys.executable, "-m", "support.pool_application", kind]
    service = PipedService(tmp_path, command, variables(server.names, write="direct"))
    try_everything(service, server, make_server, eventually, trusted=True)

"""Web services under uvicorn and Granian: several workers, the asyncio client, the reloader."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import Eventually
from support.servers import Server, StartServer
from support.services import WebService
from support.worker_models import (
    boot_without_server,
    count_exactly,
    leave_nothing,
    try_everything,
    variables,
)

from kvserve.names import Names

UVICORN = [sys.executable, "-m", "uvicorn", "--uds={address}", "--no-access-log"]
GRANIAN = [sys.executable, "-m", "granian", "--port={address}", "--workers=2"]
SERVICES = {
    "uvicorn": [*UVICORN, "--workers=2", "support.async_application:asgi"],
    "granian asgi": [*GRANIAN, "--interface=asgi", "support.async_application:asgi"],
    "granian wsgi": [*GRANIAN, "--interface=wsgi", "support.application:wsgi"],
}


@pytest.mark.parametrize("kind", SERVICES)
def test_service(
    kind: str, server: Server, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    service = WebService(
        tmp_path, SERVICES[kind], variables(server.names), over_unix_socket="uvicorn" in kind
    )
    try_everything(service, server, make_server, eventually, importing=2)


@pytest.mark.parametrize("kind", SERVICES)
def test_service_boots_without_server(
    kind: str, names: Names, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    service = WebService(
        tmp_path, SERVICES[kind], variables(names, lazy=True), over_unix_socket="uvicorn" in kind
    )
    boot_without_server(service, names, make_server, eventually)


def test_uvicorn_reloads(server: Server, tmp_path: Path, eventually: Eventually) -> None:
    module = tmp_path / "service.py"
    module.write_text("from support.async_application import asgi\n")
    command = [*UVICORN, "--reload", "--app-dir=.", "service:asgi"]
    service = WebService(tmp_path, command, variables(server.names), signal.SIGINT)
    try:
        eventually(lambda: service.is_ready)
        total = count_exactly(service)
        started = service.log.count("Application startup complete")
        while service.log.count("Application startup complete") == started:
            # Again: uvicorn may have looked for the first time after the first change.
            module.write_text(f"from support.async_application import asgi  # {time.time()}\n")
            time.sleep(2)
        eventually(lambda: service.is_ready)
        count_exactly(service, total)
        leave_nothing(service, server, eventually)
    finally:
        service.end()

"""A web service under Django's runserver, with its autoreloader."""

from __future__ import annotations

import sys
from pathlib import Path

from conftest import Eventually
from support.servers import Server, StartServer
from support.services import WebService
from support.worker_models import (
    boot_without_server,
    count_exactly,
    leave_nothing,
    outlive_servers,
    variables,
)

from kvserve.names import Names

RUNSERVER = [sys.executable, "-m", "support.django_application", "runserver", "{address}"]


def test_runserver(
    server: Server, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    module = tmp_path / "service.py"
    module.write_text("# changed below\n")
    service = WebService(tmp_path, RUNSERVER, variables(server.names), over_unix_socket=False)
    try:
        eventually(lambda: service.is_ready)
        server = outlive_servers(service, server, make_server, eventually)
        with server.connect() as cache:
            imported, total = cache["imported"], cache["counter"]
            module.write_text("# changed\n")
            eventually(lambda: cache["imported"] > imported)
        eventually(lambda: service.is_ready)
        count_exactly(service, total)
        leave_nothing(service, server, eventually)
    finally:
        service.end()


def test_runserver_boots_without_server(
    names: Names, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    (tmp_path / "service.py").write_text("")
    service = WebService(tmp_path, RUNSERVER, variables(names, lazy=True), over_unix_socket=False)
    boot_without_server(service, names, make_server, eventually)

"""A web service under uWSGI, which forks in C and by default calls none of Python's hooks."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Eventually
from support.servers import StartServer
from support.services import WebService
from support.worker_models import TRUSTING, boot_without_server, try_everything, variables

from kvserve.names import Names

BESIDE_PYTHON = Path(sys.executable).parent / "uwsgi"
# With the other one, uWSGI 2.0's workers abort on Python 3.13: unbit/uwsgi, issue 2710.
HOOKS = "--py-call-uwsgi-fork-hooks" if sys.version_info >= (3, 13) else "--py-call-osafterfork"
KINDS = {
    "defaults": [],
    "hooks": [HOOKS],
    "lazy": ["--lazy-apps"],
    "threads": ["--threads=3"],
}


@pytest.fixture(autouse=True)
def uwsgi() -> None:
    """Tests of uWSGI need it."""
    if not BESIDE_PYTHON.exists() and shutil.which("cc") is None:
        pytest.skip("uWSGI is built when it is installed, and there is no C compiler")


def start(directory: Path, names: Names, kind: str, **options: Any) -> WebService:
    """The service under uWSGI, with these options of its `connect`."""
    command = [str(BESIDE_PYTHON), "--http-socket={address}", "--master", "--processes=3"]
    command += [f"--home={sys.prefix}", "--module=support.application:wsgi", *KINDS[kind]]
    return WebService(directory, command, variables(names, **options), signal.SIGINT)


@pytest.mark.parametrize(
    ("kind", "write"), [*((kind, "worker") for kind in KINDS), ("defaults", "direct")]
)
def test_uwsgi(
    kind: str, write: str, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    trusted = write == "direct"
    server = make_server(*(TRUSTING if trusted else ()))
    service = start(tmp_path, server.names, kind, write=write)
    importing = 3 if kind == "lazy" else 1
    try_everything(service, server, make_server, eventually, trusted=trusted, importing=importing)


def test_uwsgi_boots_without_server(
    names: Names, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    service = start(tmp_path, names, "defaults", lazy=True)
    boot_without_server(service, names, make_server, eventually)

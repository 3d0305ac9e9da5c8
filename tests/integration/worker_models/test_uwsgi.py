"""A web service under uWSGI, which forks in C and by default calls none of Python's hooks."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import pytest
from conftest import Eventually
from support.servers import StartServer
from support.services import WebService
from support.worker_models import TRUSTING, try_everything, variables

BESIDE_PYTHON = Path(sys.executable).parent / "uwsgi"
KINDS = {
    "defaults": [],
    "hooks": ["--py-call-osafterfork"],
    "lazy": ["--lazy-apps"],
    "threads": ["--threads=3"],
}


@pytest.mark.parametrize(
    ("kind", "write"), [*((kind, "worker") for kind in KINDS), ("defaults", "direct")]
)
def test_uwsgi(
    kind: str, write: str, make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    if not BESIDE_PYTHON.exists() and shutil.which("cc") is None:
        pytest.skip("uWSGI is built when it is installed, and there is no C compiler")
    command = [str(BESIDE_PYTHON), "--http-socket={address}", "--master", "--processes=3"]
    command += [f"--home={sys.prefix}", "--module=support.application:wsgi", *KINDS[kind]]
    trusted = write == "direct"
    server = make_server(*(TRUSTING if trusted else ()))
    service = WebService(tmp_path, command, variables(server, write=write), signal.SIGINT)
    importing = 3 if kind == "lazy" else 1
    try_everything(service, server, make_server, eventually, trusted=trusted, importing=importing)

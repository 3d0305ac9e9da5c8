"""A kvserve server of a benchmark's own: random name, temporary directory, gone at the end."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kvserve
from kvserve.names import Names
from kvserve.parent.cleanup import clean

READY_SECONDS = 30.0


@contextmanager
def running(*flags: str) -> Iterator[str]:
    """Serves an instance; gives its name.

    Args:
        flags: of `kvserve serve`.
    """
    name = f"bench-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as directory:
        os.environ["KVSERVE_RUNTIME_DIR"] = directory
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "kvserve", "serve", "--name", name, "--no-keep", *flags],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_ready(name, server)
            yield name
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
            clean(Names(name, Path(directory) / name))


def _wait_ready(name: str, server: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + READY_SECONDS
    while True:
        try:
            with kvserve.connect(name) as cache:
                cache.ping()
            return
        except kvserve.ServerError:
            if server.poll() is not None or time.monotonic() > give_up:
                raise
            time.sleep(0.01)

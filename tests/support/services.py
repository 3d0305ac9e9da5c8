"""Running applications of several processes, to be asked by the tests of worker models."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from pathlib import Path

ASK_SECONDS = 60.0  # far beyond any answer; only a hang lasts as long
STOP_SECONDS = 60.0
# PR_SET_PDEATHSIG, so that a service ends with the tests even where these are killed.
_DIE_WITH_US = """import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {number})
os.execv(sys.argv[1], sys.argv[1:])
"""
Answer = tuple[int, str]  # a status as in HTTP, and a text


class Service:
    """A command that runs in an empty directory, with its output in a file.

    Args:
        directory: where it runs.
        command: what runs; Python's own is `sys.executable`.
        environment: variables beside ours, such as those that lead to the server.
        stop_signal: what its operator sends to end it.
    """

    expected_complaint = "\0"  # what it prints at its start and is not about us

    def __init__(
        self,
        directory: Path,
        command: list[str],
        environment: dict[str, str],
        stop_signal: signal.Signals = signal.SIGTERM,
        **pipes: int,
    ) -> None:
        self._log_file = directory / "log"
        self._stop_signal = stop_signal
        die_with_us = _DIE_WITH_US.format(number=int(stop_signal))
        with self._log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", die_with_us, *command],
                cwd=directory,
                env=os.environ | {"HOME": str(directory), "PYTHONUNBUFFERED": "1"} | environment,
                start_new_session=True,  # so that `end` reaches all of its processes
                **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | pipes,
            )

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log_file.read_text(errors="replace")

    @property
    def is_ready(self) -> bool:
        """Whether it answers; fails with its output if it has ended."""
        assert self.process.poll() is None, self.log
        try:
            return self.ask("/read")[0] == 200
        except OSError:
            return False

    def ask(self, path: str) -> Answer:
        """Sends one request; returns the answer. Raises OSError if there is none."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ends it as its operator does; it must end well, and without complaints."""
        self._tell_to_stop()
        assert self.process.wait(STOP_SECONDS) == 0, self.log
        printed = self.log.replace(self.expected_complaint, "")
        complaints = ("Traceback", "Exception", "Error", "Warning")
        assert not any(complaint in printed for complaint in complaints), self.log

    def _tell_to_stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(self._stop_signal)

    def end(self) -> None:
        """Ends it by force, with all of its processes, if a test failed before it was stopped."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class WebService(Service):
    """One that speaks HTTP.

    Args:
        directory, command, environment, stop_signal: see `Service`. In the command, `{address}`
            stands for where it is to listen.
        over_unix_socket: whether the address is a path, else a port of localhost.
    """

    def __init__(
        self,
        directory: Path,
        command: list[str],
        environment: dict[str, str],
        stop_signal: signal.Signals = signal.SIGTERM,
        *,
        over_unix_socket: bool = True,
    ) -> None:
        self._path = str(directory / "http") if over_unix_socket else ""
        self._port = 0 if over_unix_socket else free_port()
        address = self._path or str(self._port)
        command = [part.format(address=address) for part in command]
        super().__init__(directory, command, environment, stop_signal)

    def ask(self, path: str) -> Answer:
        """One request over a connection of its own."""
        connection: http.client.HTTPConnection
        if self._path:
            connection = _OverUnixSocket(self._path, timeout=ASK_SECONDS)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ASK_SECONDS)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()


class _OverUnixSocket(http.client.HTTPConnection):
    """HTTP through a Unix socket, whose path stands where a host would."""

    def connect(self) -> None:
        """Connects to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ASK_SECONDS)
        self.sock.connect(self.host)


def free_port() -> int:
    """A port of localhost that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PipedService(Service):
    """One that reads a number and a path from each line of its input, and writes the answers.

    It ends at the end of its input.
    """

    def __init__(self, directory: Path, command: list[str], environment: dict[str, str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        super().__init__(directory, command, environment, **pipes)
        self._numbers = count()
        self._writing = threading.Lock()
        self._asked: dict[int, Future[Answer]] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def ask(self, path: str) -> Answer:
        """One request; any number may be on their way."""
        future: Future[Answer] = Future()
        with self._writing:
            number = next(self._numbers)
            self._asked[number] = future
            self.process.stdin.write(f"{number} {path}\n".encode())
            self.process.stdin.flush()
        return future.result(ASK_SECONDS)

    def _tell_to_stop(self) -> None:
        self.process.stdin.close()

    def end(self) -> None:
        """See `Service.end`."""
        super().end()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self._reader.join()

    def _read(self) -> None:
        with self.process.stdout as answers:
            for line in answers:
                number, status, text = line.decode().rstrip("\n").split(" ", 2)
                self._asked.pop(int(number)).set_result((int(status), text))
        for future in self._asked.values():
            future.set_exception(ConnectionError("the application has ended"))


def answer_lines(submit: Callable[[str], Future[Answer]]) -> None:
    """The other end of a `PipedService`: has each path that comes answered, until the input ends.

    Args:
        submit: begins with the answer for a path.
    """
    writing = threading.Lock()

    def report(number: str, future: Future[Answer]) -> None:
        try:
            status, text = future.result()
        except Exception as error:
            status, text = 500, repr(error)
        with writing:
            sys.stdout.write(f"{number} {status} {text}\n")
            sys.stdout.flush()

    for line in sys.stdin:
        number, path = line.split()
        submit(path).add_done_callback(lambda future, number=number: report(number, future))

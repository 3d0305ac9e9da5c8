"""A server that belongs to a test run: `server` as a context manager, and what it gives."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvserve import config as configuration
from kvserve.errors import ConfigError, ServerError, from_wire

if TYPE_CHECKING:
    from kvserve.client.aio.client import AsyncClient
    from kvserve.client.blocking.client import Client

# Small: the test runs of all users of a machine share its shared memory, and each user's message
# queues share 800 KiB. A value may still have 1 MiB, as in a server with the defaults.
DEFAULTS = {"memory": "16MiB", "workers": 1, "queue_depth": 4, "feed_size": "256KiB"}
START_SECONDS = 60.0  # a machine may be busy; the server itself needs a quarter of a second
_RETRY_SECONDS = 0.002
# It imports what this process would, whatever has changed this process's path.
_SUPERVISE = """import sys
sys.path[:] = {path!r}
from kvserve.testing.supervisor import main
main({owner}, {settings!r}, {log_file!r})
"""


class Server:
    """A server for tests, with a name, a runtime directory and a process of its own.

    Made by `kvserve.testing.server` and by the fixture `kvserve_server`. It ends with the process
    that started it, however that ends, and leaves nothing.

    Example:
        >>> with kvserve.testing.server() as server:
        ...     client = server.connect()
        ...     _ = client.set("greeting", "hello")
        ...     server.stop()
        ...     client.get("greeting")  # hits need no server
        'hello'
    """

    def __init__(self, **settings: Any) -> None:
        """Chooses the names, and starts nothing yet. Arguments and errors: see `server`."""
        if "name" in settings:
            raise ConfigError(
                "name: a server for tests has a random name, so that it is never one in use; have "
                "the program take it from $KVSERVE_NAME, as kvserve.connect() without a name does"
            )
        self.name = f"testing-{secrets.token_hex(6)}"
        self._settings = {**DEFAULTS, **settings, "name": self.name}
        configuration.load(flags=self._settings, environment={})  # raises what is wrong, here
        self.runtime_directory = Path(tempfile.mkdtemp(prefix="kvserve-testing-")).resolve()
        self._log_file = self.runtime_directory / "server.log"
        self._owner_pid = os.getpid()
        try:
            self._supervisor = self._supervise()
        except BaseException:
            shutil.rmtree(self.runtime_directory)
            raise
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        self._commands, self._answers = self._supervisor.stdin, self._supervisor.stdout

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a program finds the server."""
        return {"KVSERVE_NAME": self.name, "KVSERVE_RUNTIME_DIR": str(self.runtime_directory)}

    @property
    def pid(self) -> int | None:
        """The server's pid; None if it does not run."""
        pid: int | None = self._ask("status")["pid"]
        return pid

    @property
    def log(self) -> str:
        """All that it has printed so far."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def connect(self, **options: Any) -> Client:
        """A client of it, whatever the environment says; `options` are those of `kvserve.connect`.

        Example:
            >>> with kvserve.testing.server() as server, server.connect(timeout=10) as client:
            ...     client.incr("visits")
            1
        """
        from kvserve.client.connect import connect

        with _variables(self.environment):
            return connect(self.name, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """An asyncio client of it, as `connect` makes a blocking one.

        Example:
            >>> async def count(server):
            ...     async with server.async_client() as client:
            ...         return await client.incr("visits")
            >>> with kvserve.testing.server() as server:
            ...     asyncio.run(count(server))
            1
        """
        from kvserve.client.connect import async_client

        with _variables(self.environment):
            return async_client(self.name, **options)

    def start(self) -> None:
        """Starts it, and waits until it serves; after `stop`, with the data that it had.

        Raises:
            KvserveError: what `kvserve serve` says; for example LimitError.
        """
        self._ask("start")
        give_up = time.monotonic() + START_SECONDS
        while (pid := self._running()) and time.monotonic() < give_up:
            try:
                with self.connect(timeout=START_SECONDS) as client:
                    client.ping()
                    if client.stats()["pid"] == pid:
                        return
            except ServerError:
                time.sleep(_RETRY_SECONDS)
        raise ServerError(f"the server for tests was not ready; it said:\n{self.log}")

    def stop(self) -> None:
        """Stops it, as an operator does, so that a test can see how a program goes on without.

        Hits are still answered, by clients that are connected; writes raise `ServerUnavailable`.
        """
        self._ask("stop")

    def close(self) -> None:
        """Stops it and removes all that it had. Twice does no harm, nor does a forked child."""
        if os.getpid() != self._owner_pid or self._commands.closed:
            return
        with suppress(BrokenPipeError):  # it was killed, and the server has cleaned up
            self._commands.write(b"end\n")
        self._commands.close()
        self._answers.close()
        self._supervisor.wait()

    def _supervise(self) -> subprocess.Popen[bytes]:
        source = _SUPERVISE.format(
            path=sys.path,
            owner=self._owner_pid,
            settings=json.dumps(self._settings, default=str),
            log_file=str(self._log_file),
        )
        inherited = {name: text for name, text in os.environ.items() if name[:8] != "KVSERVE_"}
        with self._log_file.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", source],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=inherited | self.environment,
                start_new_session=True,
            )

    def _running(self) -> int | None:
        """The pid, or None after it was stopped; raises what made it end."""
        answer = self._ask("status")
        if answer["failure"]:
            code, _, text = answer["failure"].partition(" ")
            raise from_wire(int(code), text)
        pid: int | None = answer["pid"]
        return pid

    def _ask(self, command: str) -> dict[str, Any]:
        if self._commands.closed:
            raise ServerError("this server for tests was closed")
        try:
            self._commands.write(f"{command}\n".encode())
            line = self._answers.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise ServerError(f"the supervisor of the server for tests has ended:\n{self.log}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def server(**settings: Any) -> Iterator[Server]:
    """A server for a block of code, which finds it by the environment, and finds it empty.

    `$KVSERVE_NAME` and `$KVSERVE_RUNTIME_DIR` lead to it, so that `kvserve.connect()` does, in this
    process and in those that it starts. Afterwards they are what they were. The server ends with
    the block, with this process if that is killed, and leaves nothing.

    Args:
        settings: of `kvserve serve`, such as `memory="64MiB"` or `max_value="4MiB"`; all but the
            name, which is chosen. By default it is small: one worker, 16 MiB.

    Raises:
        ConfigError: a setting is wrong.
        KvserveError: what `kvserve serve` says; for example LimitError.

    Example:
        >>> with kvserve.testing.server(memory="8MiB"):
        ...     kvserve.connect().incr("visits")
        1
    """
    made = Server(**settings)
    try:
        made.start()
        with _variables(made.environment):
            yield made
    finally:
        made.close()


@contextmanager
def _variables(wanted: dict[str, str]) -> Iterator[None]:
    """Sets variables of the environment for a block of code."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text

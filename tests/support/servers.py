"""Real `kvserve serve` processes for tests: start, wait until ready, stop, read the log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kvserve.names import Names
from support.leftovers import children

if TYPE_CHECKING:
    import kvserve

READY_SECONDS = 60.0
PATIENCE_SECONDS = 20.0  # of clients: a busy machine is no failure
STOP_SECONDS = 30.0  # three times what the server itself takes before it kills
# Small, so that many servers fit into one user's limits of queues beside each other.
SMALL = ["--workers", "2", "--memory", "16MiB", "--max-value", "256KiB", "--queue-depth", "4"]
# PR_SET_PDEATHSIG, so that a server ends with the tests even where these are killed.
_DIE_WITH_US = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.executable, sys.argv[1:])"
)


class Server:
    """One `kvserve serve`, started at once.

    Args:
        names: whose instance; the same names again mean a restart.
        flags: of `kvserve serve`; they win over those of a small server.
        log_file: where its output goes.
    """

    def __init__(self, names: Names, flags: tuple[str, ...], log_file: Path) -> None:
        self.names = names
        self.name = names.name
        self._log_file = log_file
        serve = [sys.executable, "-m", "kvserve", "serve", "--name", names.name, *SMALL, *flags]
        environment = os.environ | {"KVSERVE_RUNTIME_DIR": str(names.runtime_directory.parent)}
        with log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _DIE_WITH_US, *serve],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def pid(self) -> int:
        """The parent's pid."""
        return self.process.pid

    @property
    def log(self) -> str:
        """All that it has printed so far."""
        return self._log_file.read_text(errors="replace")

    @property
    def worker_pids(self) -> list[int]:
        """The pids of its living workers, in no order."""
        return list(children(self.pid))

    @property
    def alive(self) -> bool:
        """Whether the parent still runs."""
        return self.process.poll() is None

    def connect(self, **options: Any) -> kvserve.Client:
        """A client of this server, with the options of `kvserve.connect`, and patient."""
        import kvserve

        return kvserve.connect(self.name, **{"timeout": PATIENCE_SECONDS} | options)

    def wait_ready(self) -> None:
        """Waits until every worker answers a ping; fails with the log when that does not come."""
        from kvserve.errors import ServerError

        give_up = time.monotonic() + READY_SECONDS
        while time.monotonic() < give_up:
            assert self.alive, f"the server ended with {self.process.returncode}:\n{self.log}"
            try:
                with self.connect() as cache:
                    cache.ping()
                    # Not the workers of a killed server of this name, which live a moment longer.
                    if cache.stats()["pid"] == self.pid:
                        return
            except ServerError:
                time.sleep(0.005)
        raise AssertionError(f"the server was never ready:\n{self.log}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends it a signal, unless it ended already, and waits for its end.

        Returns:
            Its exit code, as subprocess gives it.
        """
        if self.alive:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not stop at {number!r}:\n{self.log}") from None

    def kill_everything(self) -> None:
        """Parent and workers at once, as the kernel does when memory runs out."""
        for pid in [self.pid, *self.worker_pids]:
            with suppress(ProcessLookupError):  # a worker leaves when its parent is gone
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class StartServer(Protocol):
    """What the fixture `make_server` gives."""

    def __call__(self, *flags: str, names: Names | None = None, wait: bool = True) -> Server:
        """Starts `kvserve serve` with these flags; `wait`: until it is ready."""


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that lives and does not go on: it has stopped before the block begins."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.0005)
        yield
    finally:
        with suppress(ProcessLookupError):  # it was killed in the block, and its parent knows
            os.kill(pid, signal.SIGCONT)


@contextmanager
def impatient(cache: Any, seconds: float = 0.2) -> Iterator[None]:
    """A client that soon gives up, for a block in which nobody answers.

    Around the block it is as patient as it was made: there somebody answers, if slowly.
    """
    own_timeout = getattr(cache, "_timeout", None)  # a trusted writer's
    patience_seconds = cache._workers.timeout
    cache._workers.timeout = seconds
    if own_timeout is not None:
        cache._timeout = seconds
    try:
        yield
    finally:
        cache._workers.timeout = patience_seconds
        if own_timeout is not None:
            cache._timeout = own_timeout


def clean_up(names: Names) -> None:
    """Removes all that a stopped instance left, as `kvserve clean` does."""
    from kvserve.parent.cleanup import clean

    if names.runtime_directory.is_dir():
        clean(names)


def count_once(name: str) -> None:
    """What a spawned process does; here, because it must be able to import it."""
    import kvserve

    with kvserve.connect(name, timeout=20) as cache:
        cache.incr("counter")

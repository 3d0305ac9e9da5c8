"""SIGHUP while something odd lies where the log or the configuration file was: it goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.commands import answers, kvserve
from support.leftovers import processes
from support.oddities import ODDITIES, uproot
from support.servers import clean_up

from kvserve.runtime import PidFile, holder, prepare_directory

if TYPE_CHECKING:
    from conftest import Eventually
    from support.servers import Server, StartServer

    from kvserve.names import Names

NOTHING = "reload: nothing changed: "


def full(path: Path) -> None:
    """A file that is far too long, without its bytes."""
    with path.open("wb") as file:
        file.truncate(2**30)


CONTENTS = {
    "nested 5,000 deep": lambda path: path.write_text("a = " + "[" * 5000 + "]" * 5000),
    "4,301 digits": lambda path: path.write_text("spin = " + "1" * 4301),
    "a value that Python makes no text of": lambda path: path.write_text("spin = 0x" + "f" * 9000),
    "no UTF-8": lambda path: path.write_bytes(b"name = '\xff'"),
    "1 GiB": full,
    "nothing": lambda _: None,
}


def test_a_configuration_file_that_is_none_any_more(
    make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_text('log_level = "info"\n')
    server = make_server("--config", str(file))
    for count, plant in enumerate((*ODDITIES.values(), *CONTENTS.values()), 1):
        uproot(file)
        plant(file)
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda count=count: server.log.count(NOTHING) == count or not server.alive)
        assert server.alive, server.log
    uproot(file)
    file.write_text('log_level = "warning"\n')
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "log_level: info -> warning" in server.log)
    assert "Traceback" not in server.log


def test_a_thousand_reloads_and_then_an_end(server: Server) -> None:
    for _ in range(1000):
        server.process.send_signal(signal.SIGHUP)
    assert server.stop() == 0


def test_a_reload_before_the_start_is_over(
    make_server: StartServer, names: Names, eventually: Eventually
) -> None:
    """As `systemctl reload` right after a start, which still waits for a dead server's workers."""
    prepare_directory(names, None)
    held = PidFile.acquire(names)
    names.pid_file.write_text("999999999\n")
    server = make_server(names=names, wait=False)
    eventually(lambda: ignores_hangup(server.pid) or not server.alive)
    server.process.send_signal(signal.SIGHUP)
    held.release()
    server.wait_ready()


def ignores_hangup(pid: int) -> bool:
    """Whether SIGHUP would do nothing to a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigIgn:")[1].split()[0], 16) & 1 << signal.SIGHUP - 1)


@pytest.fixture
def daemon(names: Names, eventually: Eventually) -> Iterator[int]:
    """The pid of a server in the background."""
    flags = ("--name", names.name, "--workers", "1", "--memory", "16MiB", "--queue-depth", "4")
    assert answers(kvserve("serve", "--daemon", *flags), 0, b"")
    pid = holder(names)
    assert pid is not None
    yield pid
    if pid in processes(names):
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: pid not in processes(names))
    clean_up(names)


def test_a_log_that_is_no_file_any_more(names: Names, daemon: int, eventually: Eventually) -> None:
    old = names.log_file.with_suffix(".1")
    names.log_file.rename(old)
    for count, plant in enumerate(ODDITIES.values(), 1):
        plant(names.log_file)
        os.kill(daemon, signal.SIGHUP)
        eventually(
            lambda count=count: (
                old.read_text().count(NOTHING + "the log ") == count
                or daemon not in processes(names)
            )
        )
        assert daemon in processes(names), old.read_text()
        uproot(names.log_file)
    os.kill(daemon, signal.SIGHUP)
    eventually(names.log_file.exists)
    assert kvserve("ping", "--name", names.name).returncode == 0
    old.unlink()


@pytest.mark.parametrize("oddity", ODDITIES)
def test_a_daemon_whose_log_is_no_file_says_so(names: Names, oddity: str) -> None:
    names.runtime_directory.mkdir(mode=0o700)
    ODDITIES[oddity](names.log_file)
    try:
        failed = kvserve("serve", "--daemon", "--name", names.name, "--memory", "16MiB")
        assert failed.returncode == 3
        assert failed.stderr.decode() == (
            f"kvserve: the log {names.log_file} is not a plain file; remove it\n"
        )
    finally:
        uproot(names.log_file)

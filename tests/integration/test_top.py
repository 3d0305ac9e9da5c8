"""`kvserve stats` and `kvserve top` against real servers: what they show, and how they end."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Eventually
from support.commands import COMMAND, environment, kvserve, on_terminal
from support.servers import Server, StartServer

from kvserve.stats.catalog import INSTANCE, STORE, WORKER

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][0-9A-Z])")


@pytest.fixture
def traffic(shared: Server) -> Iterator[None]:
    """Somebody who uses it all the while."""
    is_over, has_begun = threading.Event(), threading.Event()

    def use() -> None:
        with shared.connect() as cache:
            while not is_over.is_set():
                cache["k"] = 1
                cache.get("k")
                has_begun.set()

    thread = threading.Thread(target=use)
    thread.start()
    has_begun.wait()
    yield
    is_over.set()
    thread.join()


class Terminal:
    """`kvserve` at a terminal of its own, with somebody who looks at it and presses keys."""

    def __init__(self, *arguments: str) -> None:
        self._ours, self._theirs = pty.openpty()
        self.modes = termios.tcgetattr(self._theirs)
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=environment() | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
            start_new_session=True,
        )
        self._seen = b""

    def shows(self, *texts: str) -> Callable[[], bool]:
        """Whether all of these have been on the screen."""

        def look() -> bool:
            while select.select([self._ours], [], [], 0)[0]:
                self._seen += os.read(self._ours, 65536)
            seen = self._seen.decode(errors="replace")  # it may begin or end within a character
            assert self.process.poll() is None, seen
            screen = ESCAPES.sub("", seen)
            return all(text in screen for text in texts)

        return look

    def forget(self) -> None:
        """Clears what was seen."""
        self._seen = b""

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def end(self) -> tuple[int, bool]:
        """Its status, and whether it left the terminal in the mode in which it found it."""
        while self.process.poll() is None:
            if select.select([self._ours], [], [], 0.1)[0]:
                os.read(self._ours, 65536)
        return self.process.returncode, termios.tcgetattr(self._theirs) == self.modes

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def lines_of(stdout: bytes) -> dict[str, str]:
    """The figures that `kvserve stats` printed."""
    return dict(line.split(" ", 1) for line in stdout.decode().splitlines())


def test_every_figure_of_a_server_is_explained_and_no_other(
    make_server: StartServer, tmp_path: Path
) -> None:
    server = make_server("--store", f"sqlite:///{tmp_path / 'store.db'}")
    with server.connect() as cache:
        stats = cache.stats()
    assert set(stats) == set(INSTANCE)
    for worker in stats["workers"]:
        assert set(worker) == set(WORKER)
        assert set(worker["store"]) == set(STORE)


def test_explain_tells_each_figure_that_is_printed(shared: Server) -> None:
    explained = {
        line.split(": ")[0] for line in kvserve("stats", "--explain").stdout.decode().splitlines()
    }
    printed = lines_of(kvserve("stats", "--name", shared.name).stdout)
    for name in printed:
        plain = re.sub(r"^worker\.\d+\.", "worker.N.", name)
        plain = re.sub(r"(operations|request_times)\..*", r"\1", plain)
        assert plain in explained


def test_stats_lines_and_json_have_the_same_figures(shared: Server) -> None:
    printed = lines_of(kvserve("stats", "--name", shared.name).stdout)
    stats = json.loads(kvserve("stats", "--json", "--name", shared.name).stdout)
    names = {name for name in stats if not isinstance(stats[name], dict)}
    names |= {f"operations.{command}" for command in stats["operations"]}
    for worker in stats["workers"]:
        prefix = f"worker.{worker['index']}"
        names |= {f"{prefix}.{name}" for name in worker if not isinstance(worker[name], dict)}
        names |= {f"{prefix}.operations.{command}" for command in worker["operations"]}
    histograms = {name for name in printed if ".request_times." in name}
    assert set(printed) - histograms == names


def test_requests_are_counted_by_command_and_timed(server: Server) -> None:
    with server.connect(read="worker") as cache:
        for _ in range(50):
            cache.get("k")
        cache.set_many({f"k{number}": number for number in range(20)})
        cache.get_many([f"k{number}" for number in range(20)])
        stats = cache.stats()
    counts = {name: count for name, count in stats["operations"].items() if count}
    assert (counts.pop("get"), counts.pop("set")) == (70, 20)
    assert 2 <= counts.pop("set_many") + counts.pop("get_many") <= 4  # one or two workers
    assert set(counts) <= {"ping", "stats"}
    timed = sum(sum(worker["request_times"].values()) for worker in stats["workers"])
    assert 52 <= timed <= 54
    assert 0 < stats["request_p50_us"] <= stats["request_p99_us"]


def test_options_that_exclude_each_other(shared: Server) -> None:
    done = kvserve("stats", "--json", "--prometheus", "--name", shared.name)
    assert done.returncode == 2


def test_prometheus(shared: Server) -> None:
    text = kvserve("stats", "--prometheus", "--name", shared.name).stdout.decode()
    sample = re.compile(r'kvserve_[a-z0-9_]+\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\} -?[0-9.e+-]+')
    for line in text.splitlines():
        assert line.startswith(("# HELP kvserve_", "# TYPE kvserve_")) or sample.fullmatch(line)
    assert f'\nkvserve_worker_sessions{{instance_name="{shared.name}",worker="1"}} ' in text


@pytest.mark.usefixtures("traffic")
def test_top_once_is_one_interval(shared: Server) -> None:
    done = kvserve("top", "--once", "--json", "--interval", "0.3", "--name", shared.name)
    assert (done.returncode, done.stderr) == (0, b"")
    rates = json.loads(done.stdout)
    assert rates["seconds"] >= 0.3
    assert rates["operations_per_second"]["set"] > 0
    assert rates["reads_per_second"] > 0
    assert rates["hit_ratio"] == 1
    assert rates["request_p99_us"] >= rates["request_p50_us"] > 0
    assert sum(worker["requests_per_second"] for worker in rates["workers"]) > 0
    assert len(rates["workers"]) == 2


def test_top_without_a_terminal_shows_one_picture(shared: Server) -> None:
    done = kvserve("top", "--interval", "0.1", "--name", shared.name)
    assert (done.returncode, done.stderr) == (0, b"")
    screen = done.stdout.decode()
    assert f"kvserve top  {shared.name}" in screen
    assert "\x1b" not in screen
    assert len(re.findall(r"^ +[01] +\d+ ", screen, re.MULTILINE)) == 2


def test_top_json_is_an_object_a_line_until_interrupted(shared: Server) -> None:
    process = subprocess.Popen(
        [*COMMAND, "top", "--json", "--interval", "0.1", "--name", shared.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    found: list[dict[str, Any]] = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert {each["name"] for each in found} == {shared.name}
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, b"")


@pytest.mark.usefixtures("traffic")
@pytest.mark.parametrize("ending", ["q", "interrupt"])
def test_top_on_a_terminal_changes_until_it_is_ended(
    shared: Server, terminal: Callable[..., Terminal], eventually: Eventually, ending: str
) -> None:
    top = terminal("top", "--interval", "0.1", "--name", shared.name)
    eventually(top.shows(shared.name, "reads", "set /s", "memory", "requests/s", "q quits"))
    top.forget()
    eventually(top.shows("set /s"))  # drawn anew
    top.press(b"x")  # no key of ours
    top.forget()
    eventually(top.shows("set /s"))
    if ending == "q":
        top.press(b"q")
    else:
        top.process.send_signal(signal.SIGINT)
    assert top.end() == (0, True)


def test_top_waits_for_a_server_that_is_gone(
    make_server: StartServer, terminal: Callable[..., Terminal], eventually: Eventually
) -> None:
    server = make_server()
    top = terminal("top", "--interval", "0.1", "--name", server.name)
    eventually(top.shows(f"pid {server.pid}"))
    server.stop()
    top.forget()
    eventually(top.shows("waiting for the server", "kvserve serve"))
    again = make_server(names=server.names)
    top.forget()
    eventually(top.shows(f"pid {again.pid}", "memory"))
    top.press(b"q")
    assert top.end() == (0, True)


def test_top_once_without_a_server_says_so() -> None:
    done = kvserve("top", "--once", "--name", "nobody-serves-this")
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"no kvserve server named" in done.stderr


def test_stats_tables_leave_the_histogram_out(shared: Server) -> None:
    status, screen = on_terminal("stats", "--name", shared.name)
    assert status == 0
    assert "request_p99_us" in screen
    assert "request_times" not in screen
    assert "operations.limit" not in screen  # there were none

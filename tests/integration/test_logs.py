"""The workers' words on their way into the one log: last words, floods, crashes, full disks."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import Eventually, NewNames
from support.servers import Server, StartServer, clean_up

from kvserve.names import Names
from kvserve.parent import child
from kvserve.parent.logs import PENDING_BYTES_MAX, Log
from kvserve.parent.workers import Workers
from kvserve.protocol import commands
from kvserve.table.table import Table
from kvserve.transport.mqueue import SendingQueue
from kvserve.worker import exit_codes
from kvserve.worker.log_pipe import LINE_BYTES_MAX, PipeHandler

Life = Callable[[], int]
Ends = list[tuple[int, str]]


class NoLocks:
    """Stands for the table, of which a burial frees the dead worker's locks."""

    def recover(self, _slot: int) -> int:
        return 0


class Nursery:
    """Forks workers that live as they are told, under the parent's own `Workers`."""

    def __init__(
        self,
        names: Names,
        monkeypatch: pytest.MonkeyPatch,
        log: Path,
        eventually: Eventually,
    ) -> None:
        self._names = names
        self._eventually = eventually
        self._monkeypatch = monkeypatch
        self._file = log.open("w+b", buffering=0)
        self.log = Log(self._file.fileno(), "debug", "text")
        self.selector = selectors.DefaultSelector()
        self.ends: Ends = []
        self.workers = Workers(
            self._names,
            "none",
            cast("Table", NoLocks()),
            self.log,
            self.selector,
            in_child=lambda: None,
            on_serving=lambda _: None,
            on_end=lambda _, code, phrase: self.ends.append((code, phrase)),
        )

    def spawn(self, life: Life) -> None:
        """Forks a worker whose whole life is this."""
        self._monkeypatch.setattr(child, "run", lambda *_: life())
        self.workers.spawn(0)

    def wait_dead(self) -> None:
        """Waits until it is dead. It is not buried then, nor was anything of it read."""
        (worker,) = self.workers
        look = os.WEXITED | os.WNOWAIT | os.WNOHANG
        self._eventually(lambda: os.waitid(os.P_PID, worker.pid, look))

    def texts(self) -> list[str]:
        """What the log says, without times and sources."""
        self._file.seek(0)
        lines = self._file.read().decode().splitlines()
        return [line.split(": ", 1)[1] for line in lines]

    def close(self) -> None:
        self.workers.kill()
        self.selector.close()
        self._file.close()


@pytest.fixture
def nursery(
    names: Names, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, eventually: Eventually
) -> Iterator[Nursery]:
    nursery = Nursery(names, monkeypatch, tmp_path / "log", eventually)
    yield nursery
    nursery.close()


def test_last_words_are_read_when_a_worker_is_buried(nursery: Nursery) -> None:
    def life() -> int:
        for number in range(2000):
            print(f"line {number:04d} of some thirty bytes")
        print("a last line without an end", end="")
        print("<3>and words on the other pipe", end="", file=sys.stderr)
        return exit_codes.DONE

    nursery.spawn(life)
    nursery.wait_dead()
    nursery.workers.reap()  # nothing was read before
    assert nursery.ends == [(0, "left with exit code 0 (done)")]
    *lines, last, other = nursery.texts()
    assert lines == [f"line {number:04d} of some thirty bytes" for number in range(2000)]
    assert (last, other) == ("a last line without an end", "and words on the other pipe")


def test_a_worker_that_is_killed_has_nothing_held_back(nursery: Nursery) -> None:
    def life() -> int:
        print("half a line", end="")
        os.kill(os.getpid(), signal.SIGKILL)
        return exit_codes.DONE

    nursery.spawn(life)
    nursery.wait_dead()
    nursery.workers.reap()
    assert nursery.ends == [(-9, "was killed by SIGKILL")]
    assert nursery.texts() == ["half a line"]


def test_a_crash_of_native_code_says_where(nursery: Nursery) -> None:
    def life() -> int:
        ctypes.string_at(0)
        return exit_codes.DONE

    nursery.spawn(life)
    nursery.wait_dead()
    nursery.workers.reap()
    assert nursery.ends == [(-11, "was killed by SIGSEGV")]
    texts = nursery.texts()
    assert texts[0] == "Fatal Python error: Segmentation fault"
    assert any(" in life" in text for text in texts)


def test_what_nobody_caught_is_in_the_log(nursery: Nursery) -> None:
    def life() -> int:
        raise LookupError("nobody expects this")

    nursery.spawn(life)
    nursery.wait_dead()
    nursery.workers.reap()
    assert nursery.ends == [(exit_codes.CRASHED, "left with exit code 5 (crashed)")]
    texts = nursery.texts()
    assert texts[0] == "Traceback (most recent call last):"
    assert texts[-1] == "LookupError: nobody expects this"


def test_a_traceback_is_one_line(nursery: Nursery) -> None:
    def life() -> int:
        logging.basicConfig(handlers=[PipeHandler(2)], force=True)
        try:
            deep(300)
        except RecursionError:
            logging.exception("too deep")
        logging.warning("%d", "no number")  # tells where, and does no harm
        return exit_codes.DONE

    nursery.spawn(life)
    nursery.wait_dead()
    nursery.workers.reap()
    traceback, *rest = nursery.texts()
    assert traceback.startswith("too deep | Traceback (most recent call last): | ")
    assert " [cut] " in traceback
    assert traceback.endswith(" | RecursionError: at the bottom")
    assert len(traceback) <= LINE_BYTES_MAX
    assert any("no number" in text for text in rest)


def deep(levels: int) -> None:
    """Raises from so far down, by two functions in turn, as Python shortens a simple recursion."""
    if not levels:
        raise RecursionError("at the bottom")
    (deep if levels % 2 else lambda rest: deep(rest))(levels - 1)


def test_a_flood_of_lines_does_not_stop_a_worker_whose_parent_does_not_read(
    nursery: Nursery,
) -> None:
    def life() -> int:
        handler = PipeHandler(2)
        for number in range(20_000):  # each of a kind of its own
            record = {"msg": f"line {number:05d}", "levelname": "WARNING", "lineno": number}
            handler.emit(logging.makeLogRecord(record))
        return exit_codes.DONE

    nursery.spawn(life)
    nursery.wait_dead()  # which it would never be if it waited
    nursery.workers.reap()
    texts = nursery.texts()
    assert 1000 < len(texts) < 20_000
    assert texts == [f"line {number:05d}" for number in range(len(texts))]


def test_lost_lines_are_counted_when_the_pipe_is_read_again() -> None:
    reader, writer = os.pipe()
    handler = PipeHandler(writer)
    records = [
        logging.makeLogRecord({"msg": "x" * 1000, "levelname": "INFO", "lineno": number})
        for number in range(100)
    ]
    for record in records:
        handler.emit(record)
    whole = os.read(reader, 1 << 20).count(b"\n")
    handler.emit(logging.makeLogRecord({"msg": "again", "levelname": "ERROR"}))
    assert os.read(reader, 1 << 20).decode().splitlines() == [
        f"<4>{100 - whole} lines were lost here, because the parent did not read them",
        "<3>again",
    ]
    os.close(reader)
    handler.emit(records[0])  # the parent is gone
    os.close(writer)


def test_a_flood_of_prints_costs_the_parent_no_memory(nursery: Nursery) -> None:
    def life() -> int:
        for _ in range(20_000):
            print("y" * 999)
        return exit_codes.DONE

    reader, writer = os.pipe()  # a log whose reader stands still
    nursery.log._descriptor = writer
    nursery.spawn(life)
    while not nursery.ends:
        for key, _ in nursery.selector.select(1.0):
            key.data()
        assert len(nursery.log._pending) <= PENDING_BYTES_MAX
        nursery.workers.reap()
    assert nursery.ends == [(0, "left with exit code 0 (done)")]
    assert nursery.log._lost_lines > 19_000
    os.close(reader)
    os.close(writer)


def worker_of(server: Server) -> int:
    """The pid of worker 0."""
    with server.connect() as cache:
        return int(cache.stats()["workers"][0]["pid"])


def test_a_servers_log_is_json_line_by_line(
    make_server: StartServer, eventually: Eventually
) -> None:
    server = make_server("--log-format", "json", "--log-level", "debug")
    victim = worker_of(server)
    os.kill(victim, signal.SIGSEGV)
    eventually(lambda: worker_of(server) != victim)
    server.stop()
    events: list[dict[str, Any]] = [json.loads(line) for line in server.log.splitlines()]
    assert {frozenset(event) for event in events} == {
        frozenset({"time", "level", "source", "pid", "text"})
    }
    crash = [event for event in events if event["pid"] == victim]
    assert {event["source"] for event in crash} == {"worker 0"}
    assert {event["level"] for event in crash} == {"warning"}
    assert crash[0]["text"] == "Fatal Python error: Segmentation fault"
    texts = [event["text"] for event in events if event["source"] == "parent"]
    assert f"worker 0 (pid {victim}) was killed by SIGSEGV" in texts


def test_a_server_whose_parent_is_stopped_serves_on_whatever_it_logs(
    make_server: StartServer, eventually: Eventually
) -> None:
    server = make_server("--log-level", "debug", "--workers", "1")
    with server.connect() as cache:
        queue = SendingQueue(server.names.worker_queue(0), os.geteuid())
        os.kill(server.pid, signal.SIGSTOP)
        try:
            sent = 0
            while sent < 5000:  # for each the worker logs a line
                sent += queue.offer(b"no frame", commands.Priority.BULK)
            cache.set("k", 1)
            cache.flush()  # of the priority of those before it
            assert cache.stats()["workers"][0]["bad_requests"] == 5000
        finally:
            os.kill(server.pid, signal.SIGCONT)
        eventually(lambda: "lines such as: a bad frame" in server.log)
        assert server.log.count("a bad frame") < 1000
        queue.close()


def test_a_full_disk_under_the_log_stops_nobody(new_names: NewNames) -> None:
    server = Server(new_names(), ("--log-level", "debug"), Path("/dev/full"))
    try:
        server.wait_ready()
        os.kill(worker_of(server), signal.SIGKILL)
        with server.connect() as cache:
            cache.ping()
            cache["k"] = "v"
    finally:
        assert server.stop() == 0
        clean_up(server.names)


def test_a_server_without_standard_streams_serves(new_names: NewNames) -> None:
    names = new_names()
    serve = [sys.executable, "-m", "kvserve", "serve", "--name", names.name, "--memory", "16MiB"]
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *serve, "--workers", "1"],
        env=os.environ | {"KVSERVE_RUNTIME_DIR": str(names.runtime_directory.parent)},
    )
    try:
        while process.poll() is None:
            if (
                subprocess.run(
                    [sys.executable, "-m", "kvserve", "ping", "--name", names.name],
                    capture_output=True,
                    check=False,
                ).returncode
                == 0
            ):
                break
            time.sleep(0.05)
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait() == 0
        clean_up(names)

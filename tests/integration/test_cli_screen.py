"""The command line for people: at a terminal, and while it measures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.commands import COMMAND, kvserve, on_terminal
from support.leftovers import children, processes
from support.servers import Server

from kvserve.cli.bench_report import PERCENTILES

BENCH = ("--seconds", "0.3", "--keys", "50", "--write-share", "0.5")


def test_on_a_terminal_a_value_ends_its_line(shared: Server) -> None:
    kvserve("set", "screen", "v", "--name", shared.name)
    assert on_terminal("get", "screen", "--name", shared.name) == (0, "v\n")


def test_on_a_terminal_a_miss_is_told(shared: Server) -> None:
    status, screen = on_terminal("get", "nobody", "--name", shared.name)
    assert (status, screen) == (1, "kvserve: no such key\n")


def test_on_a_terminal_flush_asks(own: tuple[Server, Any]) -> None:
    server, cache = own
    cache["k"] = 1
    status, screen = on_terminal("flush", "--name", server.name, typed=b"n\n")
    assert status == 1
    assert f"Delete every key of instance {server.name!r}?" in screen
    assert "k" in cache
    assert on_terminal("flush", "--name", server.name, typed=b"y\n")[0] == 0
    assert "k" not in cache


def test_on_a_terminal_stats_are_tables(shared: Server) -> None:
    status, screen = on_terminal("stats", "--name", shared.name)
    assert status == 0
    assert f"instance {shared.name!r}" in screen
    assert "16 MiB" in screen


def test_on_a_terminal_doctor_draws_a_table() -> None:
    _, screen = on_terminal("doctor", "--memory", "16MiB")
    assert " ok " in screen


@pytest.mark.parametrize("mode", ["direct", "worker"])
def test_bench_measures_and_cleans_up(own: tuple[Server, Any], mode: str) -> None:
    server, cache = own
    flags = ("--name", server.name, "--mode", mode, "--processes", "2", *BENCH)
    done = kvserve("bench", *flags, "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    report = json.loads(done.stdout)
    assert (report["mode"], report["processes"], report["interrupted"]) == (mode, 2, False)
    for kind in ("get", "set"):
        latencies = [report[kind][name] for name in (*PERCENTILES, "max_us")]
        assert latencies == sorted(latencies)
        assert latencies[0] > 0
        assert report[kind]["operations"] > 0
    assert (report["failures"], report["miss"]["operations"]) == (0, 0)
    assert list(cache.scan()) == []


def test_bench_prints_lines_and_tables(shared: Server) -> None:
    done = kvserve("bench", "--name", shared.name, *BENCH)
    assert b"\nget.p50_us " in done.stdout
    status, screen = on_terminal("bench", "--name", shared.name, *BENCH)
    assert status == 0
    assert "p99.9" in screen


def test_ctrl_c_ends_bench_with_what_it_has(
    own: tuple[Server, Any], eventually: Callable[[Callable[[], object]], None]
) -> None:
    server, cache = own
    long = ("--seconds", "600", "--keys", "10", "--processes", "2")
    sets_before = cache.stats()["sets"]
    process = subprocess.Popen(
        [*COMMAND, "bench", "--name", server.name, *long, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    eventually(lambda: cache.stats()["sets"] > sets_before + 100)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (130, b"")
    report = json.loads(stdout)
    assert report["interrupted"]
    assert report["get"]["operations"] > 0
    assert list(cache.scan()) == []


def test_ctrl_c_loses_nothing_that_is_just_arriving(shared: Server) -> None:
    program = (
        "import os, signal\n"
        "from kvserve.cli.main import main\n"
        "from kvserve.bench import processes\n"
        "receive = processes._receive\n"
        "def interrupted(pipe, patience):\n"
        "    if patience == 0:  # a result is there\n"
        "        processes._receive = receive\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return receive(pipe, patience)\n"
        "processes._receive = interrupted\n"
        "main()\n"
    )
    words = ("bench", "--name", shared.name, "--json", *BENCH)
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")
    assert json.loads(done.stdout)["get"]["operations"] > 0


def test_where_interrupts_are_ignored_bench_goes_on(
    own: tuple[Server, Any], eventually: Callable[[Callable[[], object]], None]
) -> None:
    server, cache = own
    words = ("bench", "--name", server.name, "--seconds", "2", "--keys", "10", "--json")
    process = subprocess.Popen(
        [*COMMAND, *words],
        stdout=subprocess.PIPE,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as sh does for `&`
    )
    eventually(lambda: cache.stats()["sets"] > 100)
    os.killpg(process.pid, signal.SIGINT)
    stdout, _ = process.communicate()
    assert process.returncode == 0
    report = json.loads(stdout)
    assert (report["interrupted"], report["seconds"] >= 2) == (False, True)


def test_a_process_that_is_stopped_does_not_hold_up_the_end(
    own: tuple[Server, Any], eventually: Callable[[Callable[[], object]], None]
) -> None:
    server, cache = own
    words = ("bench", "--name", server.name, "--seconds", "600", "--keys", "10")
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL)
    eventually(lambda: cache.stats()["sets"] > 100)
    (child,) = children(process.pid)
    os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)  # whose report never comes
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(20) == 130
    finally:
        process.kill()
    assert list(cache.scan()) == []


def test_a_killed_bench_leaves_no_process(
    own: tuple[Server, Any], eventually: Callable[[Callable[[], object]], None]
) -> None:
    server, cache = own
    flags = ("--seconds", "600", "--processes", "2", "--keys", "10")
    process = subprocess.Popen([*COMMAND, "bench", "--name", server.name, *flags])
    eventually(lambda: cache.stats()["sets"] > 1000)
    process.kill()
    process.wait()
    eventually(
        lambda: not any("kvserve bench" in command for command in processes(server.names).values())
    )

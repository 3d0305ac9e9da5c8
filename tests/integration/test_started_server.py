"""`connect(start=...)`: the first write starts the server, which owes nothing to who started it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import NewNames
from support.leftovers import processes
from support.servers import StartServer, clean_up

import kvserve
from kvserve.names import Names
from kvserve.runtime import holder

SMALL: dict[str, Any] = {
    "memory": "16MiB", "workers": 1, "max_value": "64KiB", "queue_depth": 4
}  # fmt: skip


@pytest.fixture
def names(new_names: NewNames) -> Iterator[Names]:
    """An instance whose server, which a client started, ends with the test."""
    found = new_names()
    yield found
    end(found)
    clean_up(found)


def end(names: Names) -> None:
    """Ends the server of an instance, if there is one, and waits for that."""
    if not names.runtime_directory.exists():
        return
    if pid := holder(names):
        os.kill(pid, signal.SIGTERM)
    while holder(names) is not None or processes(names):
        time.sleep(0.01)


def test_reads_miss_until_the_first_write(names: Names) -> None:
    with kvserve.connect(names.name, start=SMALL, timeout=20) as cache:
        assert cache.get("key", "-") == "-"
        assert cache.gets("key") == (None, None)
        assert cache.ttl("key") is None
        assert cache.get_many(["key"]) == {}
        assert "key" not in cache
        assert list(cache) == []
        assert cache.pipeline().get("key", "-").execute() == ["-"]
        with pytest.raises(kvserve.ServerUnavailable):
            cache.ping()
        assert not names.runtime_directory.exists()
        assert cache.set("key", 1) > 0
        assert cache.get("key") == 1
        assert cache.stats()["memory_bytes"] < 17 * 2**20
        first = cache.stats()["pid"]
        end(names)
        assert cache.get("key") == 1  # from the kept table
        assert cache.incr("key") == 2
        assert cache.stats()["pid"] != first


STARTER = """
import json, os, signal, socket, sys, threading
import kvserve
listening = socket.create_server(("127.0.0.1", 0))
listening.set_inheritable(True)
reader, writer = os.pipe()
for descriptor in (reader, writer):
    os.set_inheritable(descriptor, True)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1,
               signal.SIGQUIT, signal.SIGALRM, signal.SIGRTMIN + 3):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2, signal.SIGWINCH})
os.umask(0o077)
cache = kvserve.connect(sys.argv[1], start=json.loads(sys.argv[2]), timeout=20)
thread = threading.Thread(target=cache.set, args=("key", "from the starter"))
thread.start()
thread.join()
print(json.dumps({"sid": os.getsid(0), "socket": os.readlink(f"/proc/self/fd/{listening.fileno()}"),
                  "pipe": os.readlink(f"/proc/self/fd/{reader}")}))
"""


def test_the_server_owes_nothing_to_its_starter(
    names: Names, make_server: StartServer, tmp_path: Path
) -> None:
    """It outlives it, in a session of its own, without its descriptors, signals, umask and
    directory; it is in all this as a server that was started in the usual way."""
    done = subprocess.run(
        [sys.executable, "-c", STARTER, names.name, json.dumps(SMALL | {"workers": 2})],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        check=True,
    )  # and it returns: no process keeps its standard output
    starter = json.loads(done.stdout)
    with kvserve.connect(names.name, timeout=20) as cache:
        assert cache.get("key") == "from the starter"
    usual = make_server()
    pids = list(processes(names))
    assert len(pids) >= 2
    for pid in pids:
        proc = Path(f"/proc/{pid}")
        open_here = {str(link.readlink()) for link in (proc / "fd").iterdir()}
        assert not open_here & {starter["socket"], starter["pipe"]}
        assert str((proc / "cwd").readlink()) == "/"
        assert os.getsid(pid) not in (starter["sid"], os.getsid(0))
        assert field(pid, "Umask") == "0022"
        assert int(field(pid, "SigBlk"), 16) == 0
    parent = holder(names)
    assert parent is not None
    assert signals(parent, "SigIgn") == signals(usual.pid, "SigIgn")
    assert signals(parent, "SigCgt") == signals(usual.pid, "SigCgt")
    os.kill(parent, signal.SIGTERM)
    while holder(names) is not None:
        time.sleep(0.01)


def signals(pid: int, name: str) -> int:
    """A set of signals, without 32 and 33: the C library handles these when it needs them."""
    return int(field(pid, name), 16) & ~(0b11 << 31)


def field(pid: int, name: str) -> str:
    """A line of what the kernel says about a process."""
    found = re.search(rf"^{name}:\s*(\S+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("executable", ["", "/usr/bin/uwsgi", "/nowhere/python3"])
def test_a_program_that_embeds_python(
    names: Names, executable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with kvserve.connect(names.name, start=SMALL, timeout=20) as cache:
        assert cache.set("key", 1) > 0


def test_many_processes_at_once_start_one(names: Names) -> None:
    cache = kvserve.connect(names.name, start=SMALL, timeout=30)
    go, went = os.pipe()
    pids = []
    for number in range(64):
        pid = os.fork()
        if pid == 0:
            try:
                os.close(went)
                os.read(go, 1)
                cache.set(f"key-{number}", number)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    os.close(go)
    os.close(went)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 64
    assert len(cache.get_many([f"key-{number}" for number in range(64)])) == 64
    log = names.log_file.read_text()
    assert log.count(" serving ") + log.count(" ready") == 1, log
    cache.close()


def test_what_serve_says_is_the_errors_text(names: Names) -> None:
    with kvserve.connect(names.name, start={"memory": "900GiB"}) as cache:
        assert cache.get("key") is None
        with pytest.raises(kvserve.ServerUnavailable, match=r"did not start: .*/dev/shm has"):
            cache.set("key", 1)


def test_wrong_settings_are_refused_at_once(names: Names, tmp_path: Path) -> None:
    for start, error in (
        ({"memroy": "1GiB"}, kvserve.ConfigError),
        ({"memory": "much"}, kvserve.ConfigError),
        ({"name": "another"}, kvserve.InvalidArgument),
        (tmp_path / "missing.toml", kvserve.ConfigError),
        (7, kvserve.InvalidArgument),
    ):
        with pytest.raises(error):
            kvserve.connect(names.name, start=start)


def test_settings_of_a_file_and_of_variables(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_text('memory = "17MiB"\nworkers = 1\nmax_value = "64KiB"\nqueue_depth = 4\n')
    monkeypatch.setenv("KVSERVE_DEFAULT_TTL", "33")
    monkeypatch.chdir(tmp_path)
    with kvserve.connect(names.name, start="kvserve.toml", timeout=20) as cache:
        cache.set("key", 1)
        left = cache.ttl("key")
        assert left is not None
        assert 0 < left <= 33
        assert cache.stats()["memory_bytes"] > 16 * 2**20


def test_a_server_with_other_settings_is_used(
    make_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server("--default-ttl", "50")
    with caplog.at_level(logging.WARNING, "kvserve"):
        with server.connect(start={"default_ttl": 60, "workers": 2}) as cache:
            assert cache.get("key") is None
            assert cache.set("key", 1) > 0
            assert cache.stats()["pid"] == server.pid
        with server.connect(start={"default_ttl": 50}) as cache:
            cache.set("key", 1)
    (record,) = caplog.records
    assert "default_ttl = 50" in record.getMessage()
    assert "not 60" in record.getMessage()
    assert "workers" not in record.getMessage()


def test_the_event_loop_goes_on(names: Names) -> None:
    cache = kvserve.async_client(names.name, start=SMALL, timeout=20)
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async def main() -> None:
        assert await cache.get("key") is None
        assert await cache.get_many(["key"]) == {}
        assert [key async for key in cache.scan()] == []
        ticking = asyncio.create_task(tick())
        assert await cache.set("key", 1) > 0
        ticking.cancel()
        assert await cache.get("key") == 1
        await cache.close()

    asyncio.run(main())
    assert turns > 10


@pytest.mark.parametrize("is_async", [False, True])
def test_a_trusted_writer_starts_it(names: Names, is_async: bool) -> None:
    start = SMALL | {"writers": 2}

    async def main() -> None:
        cache = kvserve.async_client(names.name, start=start, write="direct")
        assert await cache.get("key") is None
        assert await cache.set("key", 1) > 0
        assert await cache.get("key") == 1
        await cache.close()

    if is_async:
        asyncio.run(main())
        return
    with kvserve.connect(names.name, start=start, write="direct") as cache:
        assert cache.get("key") is None
        assert cache.set("key", 1) > 0
        assert cache.get("key") == 1


def test_with_errors_as_misses(names: Names) -> None:
    """Its reads do not open the breaker, so that the first write starts the server."""
    with kvserve.connect(names.name, start=SMALL, on_error="miss", timeout=20) as cache:
        assert cache.get("key") is None
        assert cache.namespace("n").get("key") is None
        assert cache.set("key", 1) > 0
        assert cache.get("key") == 1
        assert cache.lost.writes == 0

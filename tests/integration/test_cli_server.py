"""The commands of who runs the server, on real ones: verify, clean, serve, doctor."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import answers, kvserve
from support.servers import Server, StartServer

from kvserve.names import Names
from kvserve.parent.stopping import stop
from kvserve.runtime import holder

# Imports what it needs while it still may: the interpreter may be in root's home directory.
AS_NOBODY = """
import os
import kvserve.client.blocking.client
import kvserve.parent.cleanup, kvserve.parent.doctor, kvserve.parent.inspection
import kvserve.parent.stopping
import kvserve.parent.parent
from kvserve.cli import commands, inspecting, main, serving
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
main.main()
"""


def test_verify_of_what_a_stopped_server_and_a_killed_one_left(make_server: StartServer) -> None:
    server = make_server()
    with server.connect() as cache:
        cache.set_many({f"key {number}": number for number in range(1000)})
    server.stop()
    sound = b"the kept table keeps its invariants\n"
    assert answers(kvserve("verify", "--name", server.name), 0, sound)
    again = make_server(names=server.names)
    again.kill_everything()
    unharmed = b'{"violations": [], "kept": true, "unrecovered_shards": 0}\n'
    assert answers(kvserve("verify", "--name", server.name, "--json"), 0, unharmed)
    with make_server(names=server.names).connect() as cache:
        assert cache.get("key 999") == 999


def test_verify_without_server_and_table(names: Names) -> None:
    done = kvserve("verify", "--name", names.name)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"is running, and no table of it is kept; start one: kvserve serve" in done.stderr


def test_clean_refuses_while_served_and_then_removes(make_server: StartServer) -> None:
    server = make_server()
    done = kvserve("clean", "--name", server.name)
    assert (done.returncode, done.stdout) == (3, b"")
    assert str(server.pid).encode() in done.stderr
    server.stop()
    removed = kvserve("clean", "--name", server.name, "--json")
    assert removed.returncode == 0
    assert any(
        server.names.table.strip("/") in line for line in json.loads(removed.stdout)["removed"]
    )
    assert answers(kvserve("clean", "--name", server.name), 0, b"")
    assert not server.names.runtime_directory.exists()


def test_stop_returns_when_the_server_has_ended(make_server: StartServer) -> None:
    server = make_server()
    with server.connect() as cache:
        cache.set("kept", 1)
    assert answers(kvserve("stop", "--name", server.name), 0, b"")
    assert server.process.wait(timeout=30) == 0
    done = kvserve("stop", "--name", server.name)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"no kvserve server named" in done.stderr
    again = make_server(names=server.names)
    with again.connect() as cache:
        assert cache.get("kept") == 1
    stop(again.names)  # here, since an interpreter that ends would take longer than the server
    assert holder(again.names) is None


def test_nobody_stops_the_server_of_somebody_else(server: Server) -> None:
    environment = os.environ | {"KVSERVE_NAME": server.name}
    command = [sys.executable, "-c", AS_NOBODY, "stop"]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert server.alive


def test_serve_refuses_a_second_time(server: Server) -> None:
    done = kvserve("serve", "--name", server.name)
    assert done.returncode == 3
    assert str(server.pid).encode() in done.stderr


def test_a_refused_serve_leaves_no_directory(names: Names) -> None:
    limit = "import resource, runpy; resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0)); "
    limit += "runpy.run_module('kvserve', run_name='__main__')"
    flags = ["serve", "--name", names.name, "--memory", "16MiB"]
    for existed in (False, True):
        if existed:
            names.runtime_directory.mkdir(0o700)
        done = subprocess.run(
            [sys.executable, "-c", limit, *flags], capture_output=True, check=False
        )
        assert done.returncode == 3
        assert b"RLIMIT_MSGQUEUE" in done.stderr
        assert names.runtime_directory.exists() is existed


def test_doctor() -> None:
    done = kvserve("doctor", "--memory", "16MiB", "--json")
    findings = json.loads(done.stdout)
    assert all({"check", "ok", "fatal", "text", "fix"} <= set(finding) for finding in findings)
    assert done.returncode == (0 if all(finding["ok"] for finding in findings) else 1)
    lines = kvserve("doctor", "--memory", "16MiB").stdout.decode().splitlines()
    assert len(lines) == len(findings)
    assert {line.split("\t")[0] for line in lines} <= {"ok", "warn", "fail"}


def test_doctor_finds_too_little_memory() -> None:
    done = kvserve("doctor", "--memory", "1000GiB")
    assert done.returncode == 1
    assert b"fail\t" in done.stdout


def test_doctor_knows_the_running_servers_queues(server: Server) -> None:
    flags = ["--name", server.name, "--memory", "16MiB", "--json"]

    def queues(depth: str) -> dict[str, object]:
        findings = json.loads(kvserve("doctor", *flags, "--queue-depth", depth).stdout)
        found: dict[str, object] = next(f for f in findings if f["check"] == "message queues")
        return found

    assert queues("4")["fix"] == ""
    deeper = queues("128")
    assert deeper["ok"]
    assert "128 of 8 KiB, as configured" in str(deeper["text"])
    assert "128" in str(deeper["fix"]) or "ulimit -q" in str(deeper["fix"])


def test_a_queue_that_was_lowered_leads_to_the_command_that_raises_it(
    make_server: StartServer, names: Names
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (min(soft, 819_200), hard))
    try:
        server = make_server("--queue-depth", "4096", names=names)
        assert f"kvserve doctor --name {names.name} prints the command" in server.log
        done = kvserve("doctor", "--name", names.name, "--queue-depth", "4096")
    finally:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft, hard))
    row = next(row for row in done.stdout.decode().splitlines() if "\tmessage queues\t" in row)
    assert "; fix: " in row
    assert "ulimit -q " in row


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_told_whose_it_is(server: Server) -> None:
    own = Path(f"/tmp/nobody-{server.name}")

    def as_nobody(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", AS_NOBODY, *words, "--name", server.name]
        elsewhere = {"KVSERVE_RUNTIME_DIR": str(own)}
        return subprocess.run(command, capture_output=True, env=os.environ | elsewhere, check=False)

    for words in (["clean"], ["verify"], ["serve"]):
        done = as_nobody(*words)
        assert (done.returncode, done.stdout) == (3, b""), done.stderr
        assert done.stderr.count(b"\n") == 1
        assert b"belongs to root" in done.stderr
        assert not own.exists()
    rows = as_nobody("doctor").stdout.decode().splitlines()
    assert [row for row in rows if "no server runs" in row or "takes it over" in row] == []
    assert rows[-1].startswith(
        "warn\tserver\twhether a server runs under this name cannot be seen by"
    )
    assert rows[-1].endswith(f"fix: sudo -u root kvserve doctor --name {server.name}")

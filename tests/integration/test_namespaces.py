"""Clients in other namespaces than the server's, as containers have them (T22)."""

from __future__ import annotations

import os
import subprocess

import pytest
from support.commands import COMMAND, Run, environment
from support.servers import Server

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces")
PID = ("--pid", "--fork", "--mount-proc")
IPC = ("--ipc",)
MOUNT = ("--mount", "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh")


def apart(namespaces: tuple[str, ...], server: Server, *arguments: str) -> Run:
    """Runs the command of a client in new namespaces."""
    return subprocess.run(
        ["unshare", *namespaces, *COMMAND, *arguments],
        capture_output=True,
        env=environment() | {"KVSERVE_NAME": server.name},
        check=False,
    )


def test_own_pids_hinder_nothing(server: Server) -> None:
    """Owners of locks are lease slots and incarnations, sessions are FIFOs: no pid is compared."""
    assert apart(PID, server, "set", "there", "1").returncode == 0
    with server.connect() as cache:
        assert cache.get("there") == "1"
        cache.set("here", b"2")
    assert apart(PID, server, "get", "here").stdout == b"2"
    assert apart(PID, server, "incr", "count").stdout == b"1\n"


def test_without_the_servers_queues_reading_works_and_writing_tells_why(server: Server) -> None:
    with server.connect() as cache:
        cache.set("here", b"2")
    assert apart(IPC, server, "get", "here").stdout == b"2"
    done = apart(IPC, server, "set", "there", "1")
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"another ipc namespace" in done.stderr


def test_without_the_servers_memory_it_tells_why(server: Server) -> None:
    done = apart(MOUNT, server, "get", "here")
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"another /dev/shm" in done.stderr
    assert apart((*IPC, *MOUNT), server, "ping").returncode == 3

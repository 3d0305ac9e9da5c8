"""A hit costs no system call: a process that may make none but read and write goes on reading."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

import pytest
from support.ways import own_table, reading

from kvserve.names import Names
from kvserve.protocol import codec
from kvserve.table import segment
from kvserve.table._core import LAYOUT, Reader
from kvserve.table.geometry import plan

PR_SET_SECCOMP, SECCOMP_MODE_STRICT = 22, 1
HITS = 4000


def outlives(work: Callable[[], object]) -> bool:
    """Whether work comes to its end in a child that any other system call kills."""
    prctl = ctypes.CDLL(None).prctl
    theirs, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        work()  # what is made at the first time
        if prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0:
            work()
            os.write(ours, b"done")
        os.kill(os.getpid(), signal.SIGKILL)  # which is refused, and kills in its way
    os.close(ours)
    with os.fdopen(theirs, "rb") as pipe:
        done = pipe.read() == b"done"
    os.waitpid(pid, 0)
    return done


@pytest.mark.parametrize("is_ours", [True, False], ids=["own user", "other user"])
def test_a_hit_costs_no_system_call(names: Names, is_ours: bool) -> None:
    geometry = plan(2**20, 128, 2**14, shards=1, workers=1)
    with own_table(names, geometry) as table, reading(table) as own:
        table.set("text", codec.TEXT, b"value", 0)
        table.set("with a ttl", codec.TEXT, b"value", 10**9)
        reader = own
        if not is_ours:
            reader = Reader()
            maps = [segment.attach(each, os.geteuid(), writable=False)
                    for each in (names.table, names.hints)]  # fmt: skip
            reader._attach(*maps, segment.boot_id(), True, bytearray(LAYOUT["notes_bytes"]))

        def hit() -> None:
            for _ in range(HITS):
                reader.get("text")
                reader.get("with a ttl")
            reader.get_many(["text", "with a ttl", "nobody"])

        assert outlives(hit)
        assert reader.get("text") == "value"


def test_the_test_notices_one() -> None:
    assert outlives(lambda: None)
    assert not outlives(os.getppid)

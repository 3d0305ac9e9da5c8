"""A program closes all descriptors, as who makes a daemon does, and opens files of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Eventually
from support.servers import Server, StartServer
from support.trusted import writers

BEFORE = """
import asyncio, os, sys
import kvserve

name, path = sys.argv[1:]

def take_descriptors():
    "Closes all; files of ours get their numbers, of which none may be read, written or closed."
    global files
    os.closerange(3, 100)
    files = [os.open(path, os.O_RDWR) for _ in range(60)]

def look_after_files():
    for file in files:
        assert os.path.samestat(os.fstat(file), os.stat(path))
        assert os.lseek(file, 0, os.SEEK_CUR) == 0
    assert open(path, "rb").read() == b"ours"
"""
CLOSING = """
cache = kvserve.connect(name, timeout=30, {options})
cache.set("key", 1)
events = cache.watch()
take_descriptors()
cache.close()
assert list(events) == []
"""
DROPPING = """
import gc
cache = kvserve.connect(name, timeout=30, {options})
cache.set("key", b"x" * 20_000)
take_descriptors()
del cache
gc.collect()
"""
GOING_ON = """
cache = kvserve.connect(name, timeout=30, {options})
cache.set("key", b"x" * 20_000)
events = cache.watch("again")
take_descriptors()
cache.set("again", b"y" * 20_000)
assert next(events).key == "again"
assert cache.get("again") == b"y" * 20_000
cache.delete("number")
assert cache.incr("number") == 1
assert cache.get_many(["number", "again"]) == {{"number": 1, "again": b"y" * 20_000}}
cache.close()
"""
ASYNCIO = """
async def main():
    cache = await kvserve.connect_async(name, timeout=30, {options})
    await cache.set("key", 1)
    return cache

loop = asyncio.new_event_loop()
cache = loop.run_until_complete(main())
take_descriptors()
cache._workers.close()
cache._reader.close()
if hasattr(cache, "_table"):
    cache._table.leave()
"""
WRITING = """
cache = kvserve.connect(name, timeout=30, write="direct")
cache.set("key", 1)
slot = cache._table._slot
take_descriptors()
while cache._table._slot is slot:  # until it looks, in the middle of a write
    cache.set("key", 2)
cache.set("key", 3)
assert cache.get("key") == 3
assert cache.stats()["writers"] == 1
assert cache.verify() == []
cache.close()
"""
AFTER = """
look_after_files()
os._exit(0)
"""
OPTIONS = ("", "read='worker'", "queue_bytes=0", "write='direct'")


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """The server of all tests here."""
    return make_module_server("--writers", "1")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    "program", [CLOSING, DROPPING, GOING_ON, ASYNCIO], ids=["close", "drop", "go on", "asyncio"]
)
def test_foreign_descriptors_are_left_alone(
    served: Server, tmp_path: Path, program: str, options: str
) -> None:
    run(served, tmp_path, program.format(options=options))


def test_a_writer_takes_another_place(
    served: Server, tmp_path: Path, eventually: Eventually
) -> None:
    """With the lease file's descriptor the record lock went that says that it lives."""
    run(served, tmp_path, WRITING)
    eventually(lambda: writers(served) == 0)


def run(server: Server, directory: Path, program: str) -> None:
    """Runs a program that has to leave its own files as they are."""
    path = directory / "file"
    path.write_bytes(b"ours")
    command = [sys.executable, "-c", BEFORE + program + AFTER, server.name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

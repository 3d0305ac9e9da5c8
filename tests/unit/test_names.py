"""The names of an instance's objects: what they are, and what they can never be made to be."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kvserve import names as naming
from kvserve.errors import InvalidName
from kvserve.limits import SHARDS_MAX, WORKERS_MAX
from kvserve.names import Names, instance, parse_client_file

HERE = {"KVSERVE_RUNTIME_DIR": "/srv/kv"}
NAMES = Names("cache", Path("/srv/kv/cache"))


def test_kernel_objects() -> None:
    assert NAMES.table == "/kvserve.cache.table"
    assert NAMES.hints == "/kvserve.cache.hints"
    assert NAMES.feed == "/kvserve.cache.feed"
    assert NAMES.settings == "/kvserve.cache.settings"
    assert NAMES.lease_file == Path("/dev/shm/kvserve.cache.lease")  # a part of the table
    assert NAMES.shard_semaphore(3) == "/kvserve.cache.lock.3"
    assert NAMES.worker_queue(0) == "/kvserve.cache.worker.0"


def test_files_are_all_in_the_runtime_directory() -> None:
    files = [
        NAMES.pid_file,
        NAMES.manifest,
        NAMES.settings_lock,
        NAMES.log_file,
        NAMES.clients_directory,
    ]
    assert all(file.parent == NAMES.runtime_directory for file in files)
    assert len(set(files)) == len(files)
    assert NAMES.request_fifo(255) == NAMES.clients_directory / "00000000000000ff.request"
    assert NAMES.reply_fifo(2**64 - 1) == NAMES.clients_directory / "ffffffffffffffff.reply"


def test_names_of_two_instances_never_meet() -> None:
    """`a` with its shard 1 must not be `a.lock` or the like, hence no dot in a name."""

    def every_name(names: Names) -> set[str]:
        shards = {names.shard_semaphore(shard) for shard in range(SHARDS_MAX)}
        queues = {names.worker_queue(worker) for worker in range(WORKERS_MAX)}
        segments = {names.table, names.hints, names.feed, names.settings}
        segments.add(f"/{names.lease_file.name}")
        return segments | shards | queues

    first, second, third = (every_name(instance(name, HERE)) for name in ("a", "a-lock", "a1"))
    assert not first & second
    assert not first & third
    assert len(first) == 5 + SHARDS_MAX + WORKERS_MAX


def test_longest_name_fits_the_kernel() -> None:
    longest = instance("n" * 64, HERE)
    for name in (longest.shard_semaphore(SHARDS_MAX - 1), longest.worker_queue(WORKERS_MAX - 1)):
        assert len(name) <= 251  # NAME_MAX, less what glibc puts before a semaphore's name


@pytest.mark.parametrize("name", ["a", "7", "A-b_9", "x" * 64, "default"])
def test_good_name(name: str) -> None:
    assert instance(name, HERE) == Names(name, Path("/srv/kv") / name)


@pytest.mark.parametrize(
    "name",
    ["", "x" * 65, "a.b", "a/b", "..", ".", "/", "-a", "_a", "a b", "a\n", "\u00e9", "a\0", "*"],
)
def test_bad_name(name: str) -> None:
    with pytest.raises(InvalidName, match="letters"):
        instance(name, HERE)


@pytest.mark.parametrize("name", [5, b"bytes", ["a"]])
def test_a_name_that_is_no_text(name: Any) -> None:
    with pytest.raises(InvalidName, match="letters"):
        instance(name, HERE)


def test_name_comes_from_the_argument_then_the_environment_then_the_default() -> None:
    assert instance("given", HERE | {"KVSERVE_NAME": "set"}).name == "given"
    assert instance(None, HERE | {"KVSERVE_NAME": "set"}).name == "set"
    assert instance(None, HERE | {"KVSERVE_NAME": ""}).name == "default"
    assert instance(None, HERE).name == naming.DEFAULT_NAME == "default"
    with pytest.raises(InvalidName):
        instance(None, HERE | {"KVSERVE_NAME": "../etc"})


def test_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVSERVE_RUNTIME_DIR", "/elsewhere")
    monkeypatch.setenv("KVSERVE_NAME", "mine")
    assert instance() == Names("mine", Path("/elsewhere/mine"))


def test_runtime_directory_by_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    def directory(**environment: str) -> Path:
        return instance("a", environment).runtime_directory

    assert directory(KVSERVE_RUNTIME_DIR="/x", XDG_RUNTIME_DIR="/y") == Path("/x/a")
    assert directory(XDG_RUNTIME_DIR="/y") == Path("/y/kvserve/a")
    assert directory(KVSERVE_RUNTIME_DIR="", XDG_RUNTIME_DIR="/y") == Path("/y/kvserve/a")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert directory() == Path("/run/kvserve/a")
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    assert directory(TMPDIR="/t") == Path("/t/kvserve-1001/a")
    assert directory() == Path(tempfile.gettempdir()) / "kvserve-1001" / "a"


@pytest.mark.parametrize("client_id", [0, 1, 0xDEADBEEF, 2**64 - 1])
def test_client_files_parse_back(client_id: int) -> None:
    assert parse_client_file(NAMES.request_fifo(client_id).name) == client_id
    assert parse_client_file(NAMES.reply_fifo(client_id).name) == client_id


@pytest.mark.parametrize(
    "file_name",
    [
        "",
        "reply",
        "1.reply",
        "00000000000000FF.reply",
        "00000000000000ff.other",
        "00000000000000ff.reply.new",
        "00000000000000ff.reply\n",
        " 00000000000000ff.reply",
        "000000000000000ff.reply",
        "../00000000000000ff.reply",
    ],
)
def test_other_files_are_not_ours(file_name: str) -> None:
    assert parse_client_file(file_name) is None


def test_only_this_module_knows_how_names_are_built() -> None:
    """A name that is put together elsewhere would escape `kvserve clean`."""
    package = Path(__file__).parents[2] / "kvserve"
    for path in package.rglob("*.py"):
        if path.name != "names.py":
            assert not re.search(r"f\"/kvserve\.|\"/dev/shm/.*kvserve", path.read_text()), path

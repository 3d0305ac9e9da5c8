"""The runtime directory: made safe, refused when it is not, its pid file's lock, its manifest."""

from __future__ import annotations

import fcntl
import grp
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserve import runtime
from kvserve.errors import AlreadyServed, ForeignObject, ServerUnavailable
from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.runtime import PidFile, holder, prepare_directory, prepared_directory, verify_directory

OTHER_UID = 12_345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

MANIFEST = Manifest(
    instance_id="0" * 32,
    pid=4711,
    protocol_version=1,
    layout_version=1,
    writers=0,
    workers=2,
    shards=4,
    queue_message_bytes=8192,
    queue_depth=10,
    value_bytes_max=2**20,
    group_id=None,
    memory_objects={"/kvserve.a.table": 4096},
    semaphores=["/kvserve.a.lock.0"],
    queues=["/kvserve.a.worker.0"],
)


@pytest.fixture
def made(names: Names) -> Names:
    """An instance whose runtime directory exists."""
    prepare_directory(names, None)
    return names


def mode(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.lstat().st_mode)


def test_directories_are_for_their_owner_alone(made: Names) -> None:
    assert mode(made.runtime_directory) == 0o700
    assert mode(made.clients_directory) == 0o700
    assert verify_directory(made) == os.geteuid()


def test_directories_for_a_group(names: Names) -> None:
    prepare_directory(names, os.getegid())
    assert mode(names.runtime_directory) == 0o750
    assert mode(names.clients_directory) == 0o3770
    assert names.clients_directory.lstat().st_gid == os.getegid()


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
def test_umask_changes_nothing(names: Names, mask: int) -> None:
    before = os.umask(mask)
    try:
        names.runtime_directory.parent.mkdir(parents=True, exist_ok=True)
        prepare_directory(names, None)
    finally:
        os.umask(before)
    assert mode(names.runtime_directory) == mode(names.clients_directory) == 0o700


def test_existing_directories_are_kept_and_closed(made: Names) -> None:
    (made.runtime_directory / "log").write_text("kept")
    made.runtime_directory.chmod(0o750)
    prepare_directory(made, None)
    assert mode(made.runtime_directory) == 0o700
    assert (made.runtime_directory / "log").read_text() == "kept"


def as_file(path: Path) -> None:
    """A file in the directory's place."""
    path.touch()


def as_link(path: Path) -> None:
    """A link to a good directory, as somebody plants it who wants us to write there."""
    target = path.with_name(path.name + ".target")
    target.mkdir(0o700)
    path.symlink_to(target)


def as_open_directory(path: Path) -> None:
    """A directory that everybody may write to."""
    path.mkdir()
    path.chmod(0o777)


def as_foreign_directory(path: Path) -> None:
    """A directory of another user."""
    path.mkdir(0o700)
    os.chown(path, OTHER_UID, OTHER_UID)


@pytest.mark.parametrize(
    "plant",
    [
        as_file,
        as_link,
        as_open_directory,
        pytest.param(as_foreign_directory, marks=needs_root),
    ],
)
@pytest.mark.parametrize("place", ["runtime_directory", "clients_directory"])
def test_hostile_directory_is_refused(
    names: Names, plant: Callable[[Path], None], place: str
) -> None:
    path: Path = getattr(names, place)
    if place == "clients_directory":
        names.runtime_directory.mkdir(0o700, parents=True)
    plant(path)
    before = path.lstat()
    with pytest.raises(ForeignObject, match=str(names.runtime_directory)):
        prepare_directory(names, None)
    assert path.lstat().st_mode == before.st_mode
    if place == "runtime_directory":
        with pytest.raises(ForeignObject):
            verify_directory(names)


def test_client_of_nobody(names: Names) -> None:
    with pytest.raises(ServerUnavailable, match=f"kvserve serve --name {names.name}"):
        verify_directory(names)
    with pytest.raises(ServerUnavailable):
        Manifest.read(names)
    assert "serve --name" not in str(runtime.not_served(Names("default", Path("/x"))))


@needs_root
def test_client_of_another_user_needs_the_group(made: Names) -> None:
    os.chown(made.runtime_directory, OTHER_UID, OTHER_UID)
    with pytest.raises(ForeignObject, match=str(OTHER_UID)):
        verify_directory(made)
    os.chown(made.runtime_directory, OTHER_UID, os.getegid())
    with pytest.raises(ForeignObject, match=str(OTHER_UID)):
        verify_directory(made)  # the owner gave the group nothing
    made.runtime_directory.chmod(0o750)
    assert verify_directory(made) == OTHER_UID


def test_a_group_of_others_cannot_be_let_in(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ForeignObject, match=f"usermod -aG {grp.getgrgid(os.getegid()).gr_name} "):
        prepare_directory(names, os.getegid())


def test_directory_that_cannot_be_made_says_what_to_do(names: Names, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = names._replace(runtime_directory=tmp_path / "file" / names.name)
    with pytest.raises(ForeignObject, match="KVSERVE_RUNTIME_DIR"):
        prepare_directory(below, None)


def test_a_directory_that_was_made_for_nothing_is_removed(names: Names) -> None:
    with pytest.raises(ZeroDivisionError), prepared_directory(names, None):
        raise ZeroDivisionError
    assert not names.runtime_directory.exists()
    with prepared_directory(names, None):
        pass
    assert names.clients_directory.is_dir()
    with pytest.raises(ZeroDivisionError), prepared_directory(names, None):
        raise ZeroDivisionError
    assert names.clients_directory.is_dir()  # it was there


def test_directories_above_are_removed_with_it(names: Names, tmp_path: Path) -> None:
    deep = names._replace(runtime_directory=tmp_path / "a" / "b" / names.name)
    with prepared_directory(deep, None, lasting=False):
        assert deep.clients_directory.is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with prepared_directory(deep, None, lasting=False):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


def test_a_directory_with_something_in_it_is_kept(names: Names) -> None:
    def fail_with_a_log() -> None:
        with prepared_directory(names, None):
            names.log_file.write_text("why")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_a_log()
    assert names.log_file.read_text() == "why"


def test_a_file_above_the_directory_is_told(names: Names, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = names._replace(runtime_directory=tmp_path / "file" / names.name)
    for look in (holder, verify_directory):
        with pytest.raises(ForeignObject, match="file is not a directory; set KVSERVE_RUNTIME_DIR"):
            look(below)


def test_holder_is_who_has_the_lock(made: Names) -> None:
    assert holder(made) is None
    lock = PidFile.acquire(made)
    assert holder(made) == os.getpid()
    with pytest.raises(AlreadyServed, match=str(os.getpid())):
        PidFile.acquire(made)
    assert holder(made) == os.getpid()  # the refused one left the pid in place
    lock.release()
    assert holder(made) is None
    PidFile.acquire(made).release()


def test_pid_file_without_a_lock_is_a_dead_server(made: Names) -> None:
    made.pid_file.write_text("4711\n")
    assert holder(made) is None
    lock = PidFile.acquire(made)
    assert made.pid_file.read_text() == f"{os.getpid()}\n"
    lock.release()


@pytest.mark.parametrize("content", ["", "not a pid", "9" * 100, "\0"])
def test_lock_without_a_readable_pid(made: Names, content: str) -> None:
    lock = PidFile.acquire(made)
    made.pid_file.write_text(content)
    assert holder(made) in (0, int("9" * 32))
    with pytest.raises(AlreadyServed):
        PidFile.acquire(made)
    lock.release()


def test_lock_lives_as_long_as_a_process_that_inherited_it(made: Names) -> None:
    """A worker that outlives its parent still uses the objects."""
    may_end, end = os.pipe()
    lock = PidFile.acquire(made)
    child = os.fork()
    if child == 0:
        os.close(end)
        os.read(may_end, 1)
        os._exit(0)
    try:
        lock.release()
        assert holder(made) is not None
        with pytest.raises(AlreadyServed):
            PidFile.acquire(made)
    finally:
        os.close(may_end)
        os.close(end)
        os.waitpid(child, 0)
    assert holder(made) is None


def test_client_that_looks_does_not_keep_a_server_out_for_long(made: Names) -> None:
    for _ in range(100):
        assert holder(made) is None
    PidFile.acquire(made).release()


def test_another_client_that_looks_is_not_a_server(made: Names) -> None:
    made.pid_file.touch()
    with made.pid_file.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert holder(made) is None


def test_lock_is_not_inherited_over_exec(made: Names) -> None:
    lock = PidFile.acquire(made)
    inode = made.pid_file.stat().st_ino
    ours = [
        int(entry.name)
        for entry in Path("/proc/self/fd").iterdir()
        if entry.exists() and entry.stat().st_ino == inode
    ]
    assert ours
    assert not any(map(os.get_inheritable, ours))
    lock.release()


def test_manifest_round_trip(made: Names) -> None:
    MANIFEST.write(made)
    assert Manifest.read(made) == MANIFEST
    assert mode(made.manifest) & 0o007 == 0
    changed = MANIFEST._replace(pid=1, group_id=os.getegid())
    changed.write(made)
    assert Manifest.read(made) == changed
    assert [path.name for path in made.runtime_directory.glob("manifest*")] == ["manifest.json"]


def test_manifest_of_a_writer_that_died_is_overwritten(made: Names) -> None:
    made.manifest.with_suffix(".new").write_text("half")
    MANIFEST.write(made)
    assert Manifest.read(made) == MANIFEST


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b'"text"',
        b"{}",
        b"\xff\xfe",
        json.dumps(MANIFEST._asdict() | {"more": 1}).encode(),
        json.dumps({"pid": 1}).encode(),
        json.dumps(MANIFEST._asdict()).encode()[:-2],
    ],
    ids=lambda content: repr(content[:12]),
)
def test_manifest_that_is_not_ours_is_refused(made: Names, content: bytes) -> None:
    made.manifest.write_bytes(content)
    with pytest.raises(ForeignObject, match="manifest"):
        Manifest.read(made)


def test_fifo_in_the_manifests_place_blocks_nobody(made: Names) -> None:
    os.mkfifo(made.manifest)
    with pytest.raises(ForeignObject):
        Manifest.read(made)
    made.manifest.unlink()

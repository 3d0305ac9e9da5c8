"""The two locks of a server, and what may be pulled away from under whoever takes them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.oddities import ODDITIES, uproot

from kvserve.errors import AlreadyServed, ForeignObject, ServerError
from kvserve.names import Names
from kvserve.parent.cleanup import clean
from kvserve.parent.housekeeping import memory_path
from kvserve.parent.instance_lock import MakingLock, SegmentLock, claim
from kvserve.runtime import prepare_directory


@pytest.fixture
def segment(names: Names) -> Iterator[Path]:
    """A segment that has the table's name."""
    path = memory_path(names.table)
    path.write_bytes(b"old")
    yield path
    path.unlink(missing_ok=True)


def test_a_directory_that_somebody_removes_meanwhile(names: Names) -> None:
    with pytest.raises(ServerError, match=r"another process has just removed .*; try again"):
        claim(names)


def test_a_segment_that_is_replaced_meanwhile(
    names: Names, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the open and the lock, as `serve --fresh` does it."""
    locked: list[int] = []

    def replace_and_lock(descriptor: int, operation: int) -> None:
        if not locked:
            segment.unlink()
            segment.write_bytes(b"new")
        locked.append(os.fstat(descriptor).st_ino)
        flock(descriptor, operation)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    ours = SegmentLock(names)
    assert ours.take()
    assert locked[1:] == [segment.stat().st_ino]
    assert not ours.is_superseded
    ours.release()


def test_a_segment_that_is_removed_meanwhile(
    names: Names, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: segment.unlink())
    assert SegmentLock(names).take() is False


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_is_no_segment_is_to_be_removed(names: Names, kind: str) -> None:
    path = memory_path(names.table)
    if kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/etc/passwd")
    try:
        with pytest.raises(ForeignObject, match="is not plain memory; remove it"):
            clean(names)
    finally:
        path.rmdir() if kind == "directory" else path.unlink()


@pytest.mark.parametrize("plant", [Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_what_is_no_pid_file_is_to_be_removed(names: Names, plant: Callable[[Path], None]) -> None:
    prepare_directory(names, None)
    plant(names.pid_file)
    with pytest.raises(ForeignObject, match="pid is not a plain file; remove it"):
        claim(names)


def test_who_only_looks_at_a_segment_keeps_nobody_out(
    names: Names, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = SegmentLock(names)
    with segment.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(AlreadyServed, match="another runtime directory"):
            ours.take()
        # As `kvserve doctor` does: it is gone at the next attempt.
        monkeypatch.setattr("time.sleep", lambda _: fcntl.flock(file, fcntl.LOCK_UN))
        assert ours.take()
    ours.release()


def test_the_lock_of_who_makes_and_removes_is_one(names: Names) -> None:
    first, second = MakingLock(names), MakingLock(names)
    assert first.take()
    assert not second.take(0.0)
    first.release()
    assert not names.making_lock.exists()
    assert second.take()
    second.release()


def test_a_lock_that_its_holder_removes_between_open_and_lock(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = MakingLock(names), MakingLock(names)
    assert first.take()
    flock = fcntl.flock

    def release_and_lock(descriptor: int, operation: int) -> None:
        first.release()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", release_and_lock)
    assert second.take()
    assert names.making_lock.exists()
    second.release()


@pytest.mark.parametrize("oddity", ODDITIES)
def test_what_is_no_lock_is_to_be_removed(names: Names, oddity: str) -> None:
    ODDITIES[oddity](names.making_lock)
    try:
        with pytest.raises(ForeignObject, match="making is not plain memory; remove it"):
            MakingLock(names).take()
    finally:
        uproot(names.making_lock)

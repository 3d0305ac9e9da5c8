"""The settings page: torn by nobody, killed writers, two writers, strangers, garbage."""

from __future__ import annotations

import os
import random
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from types import FrameType
from typing import Any

import posix_ipc
import pytest

from kvserve.errors import ForeignObject, ServerBusy, ServerUnavailable
from kvserve.live import settings
from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path
from kvserve.runtime import prepare_directory, remove_directory

STRANGER = 65_534
FIRST: dict[str, settings.Value] = {"number": 0, "text": "a" * 50}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def even(number: int) -> dict[str, settings.Value]:
    """Settings that show whether they were read in one piece, and are long now and then."""
    return {"number": number, "text": chr(97 + number % 26) * (50 + number % 1700)}


@pytest.fixture
def names(names: Names) -> Iterator[Names]:
    """An instance that consists of its directory and its page."""
    prepare_directory(names, None)
    settings.create(names, FIRST, None)
    yield names
    settings.remove(names)
    remove_directory(names)


@pytest.fixture
def page(names: Names) -> Iterator[settings.SettingsPage]:
    with closing(settings.attach(names, os.geteuid())) as page:
        yield page


def publish(names: Names, values: dict[str, settings.Value]) -> int:
    with settings.writing(names) as writer:
        return writer.publish(values)


def in_child(work: Callable[[], None]) -> int:
    """Runs something in a fork; its exit code, 0 if it succeeded, negative if it was killed."""
    pid = start_child(work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def test_who_is_attached_sees_every_change(names: Names, page: settings.SettingsPage) -> None:
    assert page.read() == (1, FIRST)
    for number in range(2, 100):
        assert publish(names, even(number)) == number
        assert (page.version, page.read()) == (number, (number, even(number)))
    with closing(settings.attach(names, os.geteuid())) as late:
        assert late.read() == page.read()


def test_the_name_must_be_free_and_is_given_back(names: Names) -> None:
    with pytest.raises(ForeignObject, match="somebody else's"):
        settings.create(names, FIRST, None)
    publish(names, FIRST)
    assert settings.remove(names) == [names.settings, str(names.settings_lock)]
    assert settings.remove(names) == []
    with pytest.raises(FileNotFoundError):
        settings.attach(names, os.geteuid())
    with pytest.raises(FileNotFoundError), settings.writing(names):
        pass


@pytest.mark.parametrize(
    "content",
    [
        bytes(settings.PAGE_BYTES),
        b"\xff" * settings.PAGE_BYTES,
        b"kvset\0\0\2" + bytes(settings.PAGE_BYTES - 8),
        b"kvset\0\0\1" + bytes(settings.PAGE_BYTES),
        b"kvset\0\0\1",
    ],
    ids=["zeros", "ones", "another layout", "two pages", "eight bytes"],
)
def test_another_layout_is_refused(names: Names, content: bytes) -> None:
    memory_path(names.settings).write_bytes(content)
    with pytest.raises(ForeignObject, match="another version of kvserve; restart the server"):
        settings.attach(names, os.geteuid())
    with pytest.raises(ForeignObject, match="another version"), settings.writing(names):
        pass


def test_every_byte_in_force_is_checked(names: Names, page: settings.SettingsPage) -> None:
    path = memory_path(names.settings)
    whole = path.read_bytes()
    first = settings._slot_at(1)
    used = len(whole[first:].rstrip(b"\0"))
    for offset in [*range(8, 16), *range(first, first + used)]:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([whole[offset] ^ 0x10]))
        with pytest.raises(ForeignObject, match="damaged"):
            page.read()
        with path.open("r+b") as file:
            file.write(whole)
    assert page.read() == (1, FIRST)


def test_a_checked_slot_may_still_hold_no_map(names: Names, page: settings.SettingsPage) -> None:
    for other in (b"\xc1", b"\x01", b"\x81\xa1k", b""):
        with settings.writing(names) as writer, pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "kvserve.live.settings.msgpack.packb", lambda *_, other=other, **__: other
            )
            writer.publish({})
        with pytest.raises(ForeignObject, match="damaged"):
            page.read()


def test_the_slot_that_is_not_in_force_may_hold_anything(
    names: Names, page: settings.SettingsPage, seed: int
) -> None:
    for version in range(1, 20):
        with memory_path(names.settings).open("r+b") as file:  # what a killed writer left
            file.seek(settings._slot_at(version + 1))
            file.write(random.Random(seed + version).randbytes(settings._SLOT_BYTES))
        assert page.read().version == version
        assert publish(names, even(version)) == version + 1
        assert page.read() == (version + 1, even(version))


def test_a_writer_killed_at_any_line_changes_nothing(
    names: Names, page: settings.SettingsPage
) -> None:
    """In this file's `publish` each line of settings.py is once the last that is executed."""
    published_by_the_killed = 0
    line = 0
    while True:
        line += 1
        before = page.read()
        code = in_child(partial(publish_and_die, names, even(line), line))
        after = page.read()
        assert after in (before, (before.version + 1, even(line))), f"killed at line {line}"
        if code == 0:
            break
        assert code == -signal.SIGKILL
        published_by_the_killed += after != before
        with settings.writing(names, wait_seconds=0) as writer:  # nobody has the lock
            writer.publish(even(1000 + line))
        assert page.read() == (after.version + 1, even(1000 + line))
    assert line > 30
    assert published_by_the_killed > 0  # those killed between the store and the return


def publish_and_die(names: Names, values: dict[str, settings.Value], last_line: int) -> None:
    """Publishes, but is killed when it comes to the nth line of settings.py, if it does."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != settings.__file__:
            return None
        lines += event == "line"
        if lines == last_line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    publish(names, values)
    sys.settrace(None)


def test_writers_killed_at_random_times(
    names: Names, page: settings.SettingsPage, seed: int
) -> None:
    chance = random.Random(seed)

    def publish_for_ever() -> None:
        while True:
            publish(names, even(page.version + 1))

    for _ in range(30):
        began = page.version
        writer = start_child(publish_for_ever)
        while page.version == began:
            time.sleep(0)
        time.sleep(chance.uniform(0, 0.005))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        version, values = page.read()
        assert values == even(version)
        assert publish(names, even(version + 1)) == version + 1


def test_a_reader_never_sees_halves(names: Names, page: settings.SettingsPage) -> None:
    def publish_for_ever() -> None:
        with settings.writing(names) as writer:  # without the lock in between, to be quicker
            while True:
                writer.publish(even(writer.version + 1))

    writer = start_child(publish_for_ever)
    try:
        last = 0
        while page.version < 100:
            time.sleep(0)
        for _ in range(20_000):
            version, values = page.read()
            assert version >= last
            assert values == even(version)
            last = version
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert last >= 100


def test_no_change_of_two_writers_is_lost(names: Names, page: settings.SettingsPage) -> None:
    def count(times: int = 300) -> None:
        for _ in range(times):
            with settings.writing(names, wait_seconds=60) as writer:
                number = writer.read().values["number"]
                assert isinstance(number, int)
                writer.publish({"number": number + 1})

    children = [start_child(count) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert page.read() == (601, {"number": 600})


def test_a_page_whose_server_has_ended_is_not_damaged(
    names: Names, page: settings.SettingsPage
) -> None:
    settings.remove(names)
    assert page.is_retired
    with pytest.raises(ServerUnavailable, match="ended"):
        page.read()


def test_a_writer_that_stands_still_is_named(names: Names, page: settings.SettingsPage) -> None:
    with settings.writing(names) as writer:
        busy = f"another process is changing the settings; see which: fuser {names.settings_lock}"
        with pytest.raises(ServerBusy, match=busy), settings.writing(names, wait_seconds=0.05):
            pass
        assert page.read().version == 1
        writer.publish(FIRST)
    assert publish(names, FIRST) == 3


@needs_root
def test_a_stranger_can_neither_read_nor_write(names: Names) -> None:
    publish(names, FIRST)
    path = memory_path(names.settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(names.settings_lock.stat().st_mode) == 0o600
    assert in_child(lambda: as_stranger(names, [], can_read=False)) == 0
    with pytest.raises(ForeignObject, match="belongs to uid 0, not 65534"):
        settings.attach(names, STRANGER)
    path.chmod(0o644)
    with pytest.raises(ForeignObject, match="open to all users"):
        settings.attach(names, 0)


@needs_root
def test_a_member_of_the_group_can_read_and_not_write(new_names: Callable[[], Names]) -> None:
    names = new_names()
    settings.create(names, FIRST, group_id=1)
    try:
        assert stat.S_IMODE(memory_path(names.settings).stat().st_mode) == 0o640
        assert in_child(lambda: as_stranger(names, [1], can_read=True)) == 0
        with closing(settings.attach(names, 0)) as page:
            assert page.read() == (1, FIRST)
    finally:
        settings.remove(names)


def as_stranger(names: Names, groups: list[int], *, can_read: bool) -> None:
    """Tries all that another user could, to be called in a process of its own."""
    os.setgroups(groups)
    os.setgid(STRANGER)
    os.setuid(STRANGER)
    if can_read:
        with closing(settings.attach(names, 0)) as page:
            assert page.read() == (1, FIRST)
            with pytest.raises(TypeError, match=r"read-only|readonly"):
                page._memory[100] = 1
            with pytest.raises(TypeError, match="read-only"):
                page._version[0] = 9
    else:
        with pytest.raises(ForeignObject, match="cannot be opened"):
            settings.attach(names, 0)
    with pytest.raises(ForeignObject, match="cannot be opened"), settings.writing(names):
        pass
    with pytest.raises(posix_ipc.PermissionsError):
        posix_ipc.SharedMemory(names.settings)
    with pytest.raises(PermissionError):
        os.open(memory_path(names.settings), os.O_RDWR)
    with pytest.raises(ForeignObject, match="somebody else's"):
        settings.remove(names)

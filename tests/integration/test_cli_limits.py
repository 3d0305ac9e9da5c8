"""Limits of the system that stand in the way: each is named, with the command that fixes it."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import posix_ipc
import pytest
from support.commands import COMMAND, environment, kvserve
from support.servers import Server

from kvserve.errors import LimitError
from kvserve.limits import MIB
from kvserve.names import Names
from kvserve.table import segment

GROUPS = Path("/sys/fs/cgroup")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")
SERVE = ("serve", "--memory", "64MiB", "--workers", "1")


def limited(which: int, limit: int) -> Callable[[], None]:
    """What a child does before it becomes the command."""
    return lambda: resource.setrlimit(which, (limit, limit))


def run(*words: str, first: Callable[[], None], **variables: str) -> tuple[int, str]:
    """The status and the one sentence on standard error of a command that is refused."""
    done = subprocess.run(
        [*COMMAND, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment() | variables,
        preexec_fn=first,
        check=False,
    )
    text = done.stderr.decode()
    assert "Traceback" not in text, text
    if done.returncode == 0:
        return 0, text
    told = [line for line in text.splitlines() if line.startswith("kvserve: ")]
    assert len(told) == 1, text
    return done.returncode, told[0]


@pytest.mark.parametrize("form", [(), ("--daemon",)])
def test_the_limits_of_a_process_are_not_taken_for_a_full_dev_shm(
    names: Names, form: tuple[str, ...]
) -> None:
    words = (*SERVE, "--name", names.name, *form)
    for which, limit, command in (
        (resource.RLIMIT_FSIZE, MIB, "ulimit -f unlimited"),
        (resource.RLIMIT_AS, 90 * MIB, "ulimit -v unlimited"),
    ):
        status, text = run(*words, first=limited(which, limit))
        assert status == 3
        assert command in text
        assert "/dev/shm" not in text
    assert not names.runtime_directory.exists()


def test_doctor_tells_the_limits_of_a_process() -> None:
    for which, limit, command in (
        (resource.RLIMIT_FSIZE, MIB, "ulimit -f unlimited"),
        (resource.RLIMIT_AS, 90 * MIB, "ulimit -v unlimited"),
    ):
        done = subprocess.run(
            [*COMMAND, "doctor", "--memory", "64MiB"],
            capture_output=True,
            preexec_fn=limited(which, limit),
            check=False,
        )
        assert done.returncode == 1, done
        assert command in done.stdout.decode()


@pytest.mark.parametrize(
    ("number", "limit", "told"),
    [
        (errno.ENOSPC, None, "/dev/shm has no room for 1 MiB"),
        (errno.ENOMEM, None, "not enough memory"),
        (errno.ENOMEM, resource.RLIMIT_AS, "ulimit -v unlimited"),
        (errno.EFBIG, resource.RLIMIT_FSIZE, "ulimit -f unlimited"),
        (errno.EMFILE, None, "ulimit -n"),
        (errno.ENFILE, None, "fs.file-max"),
        (errno.EDQUOT, None, "quota"),
    ],
)
@pytest.mark.parametrize("step", ["make", "fill", "map"])
def test_a_segment_that_is_not_to_be_had_names_its_cause(
    monkeypatch: pytest.MonkeyPatch, number: int, limit: int | None, told: str, step: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    owner, name = {
        "make": (posix_ipc, "SharedMemory"),
        "fill": (os, "posix_fallocate"),
        "map": (mmap, "mmap"),
    }[step]
    monkeypatch.setattr(owner, name, refuse)
    getrlimit = resource.getrlimit
    monkeypatch.setattr(
        resource, "getrlimit", lambda which: (4096, 4096) if which == limit else getrlimit(which)
    )
    segment_name = f"/kvserve-test-{secrets.token_hex(4)}"
    with pytest.raises(LimitError, match=told):
        segment.create(segment_name, 4096, 0o600, None)
    assert not (Path("/dev/shm") / segment_name[1:]).exists()


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of this test's own that may use 100 MiB."""
    name = f"kvserve-test-{secrets.token_hex(4)}"
    for path, file in (
        (GROUPS / "memory" / name, "memory.limit_in_bytes"),
        (GROUPS / name, "memory.max"),
    ):
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            (path / file).write_text(str(100 * MIB))
            yield path
            return
        except OSError:
            continue
        finally:
            path.rmdir()
    pytest.skip("no control group can be made here")


@needs_root
@pytest.mark.parametrize(
    ("memory", "told"), [("256MiB", "may use 100 MiB, less than"), ("98MiB", "of which ")]
)
def test_more_than_the_control_group_may_use_is_refused(
    group: Path, names: Names, memory: str, told: str
) -> None:
    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    for form in ((), ("--daemon",)):
        status, text = run("serve", "--name", names.name, "--memory", memory, *form, first=enter)
        assert status == 3
        assert told in text
        assert "MemoryMax=" in text
        assert "--memory=" in text
    done = subprocess.run(
        [*COMMAND, "doctor", "--memory", memory], capture_output=True, preexec_fn=enter, check=False
    )
    assert done.returncode == 1
    assert "fail\tmemory limit\t" in done.stdout.decode()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A runtime directory on a file system that is full but for a few files' names."""
    directory = tmp_path / "full"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k,mode=755", "tmpfs", str(directory)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (directory / "ballast").write_bytes(bytes(16 * 1024))
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@needs_root
def test_a_full_disk_at_each_step_of_a_start(full: Path, names: Names) -> None:
    variables = {"KVSERVE_RUNTIME_DIR": str(full)}
    for form in ((), ("--daemon",)):
        for free_pages in range(2):
            (full / "ballast").write_bytes(bytes(16 * 1024 - free_pages * 4096))
            words = (*SERVE, "--name", names.name, *form)
            status, text = run(*words, first=lambda: None, **variables)
            assert status == 3
            assert "full" in text
            assert str(full) in text
            (full / "ballast").unlink()
            assert kvserve("clean", "--name", names.name, **variables).returncode == 0


def test_few_descriptors(shared: Server, names: Names, tmp_path: Path) -> None:
    name = ("--name", shared.name)
    for words in (
        ("set", "k", "v", *name),
        ("stats", *name),
        ("dump", str(tmp_path / "dump"), *name),
        ("bench", "--seconds", "0.1", *name),
        (*SERVE, "--name", names.name),
        (*SERVE, "--name", names.name, "--daemon"),
    ):
        refused = 0
        for limit in (5, 6, 7, 8, 10):  # some may be just enough
            status, text = run(*words, first=limited(resource.RLIMIT_NOFILE, limit))
            assert status in (0, 3), (words, limit, text)
            assert status == 0 or "ulimit -n" in text or "ulimit -Hn" in text, (words, limit, text)
            refused += status == 3
        assert refused > 0, words


def test_under_an_ascii_locale_clean_prints_a_directory_beyond_ascii(
    names: Names, tmp_path: Path
) -> None:
    root = tmp_path / "каталог-é"
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for form in ((), ("--json",)):
        directory = root / names.name
        directory.mkdir(parents=True, mode=0o700)
        (directory / "manifest.json").write_text("left")
        words = ("clean", "--name", names.name, *form)
        done = kvserve(*words, KVSERVE_RUNTIME_DIR=str(root), **variables)
        assert (done.returncode, done.stderr) == (0, b"")
        assert str(directory / "manifest.json") in done.stdout.decode()


def test_a_soft_limit_of_descriptors_stops_no_server(names: Names) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = subprocess.run(
        [*COMMAND, *SERVE, "--name", names.name, "--queue-depth", "2", "--daemon"],
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (16, hard)),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    pid = int(names.pid_file.read_text())
    assert kvserve("ping", "--name", names.name).returncode == 0
    os.kill(pid, signal.SIGTERM)
    while kvserve("clean", "--name", names.name).returncode:
        pass  # it has not stopped yet

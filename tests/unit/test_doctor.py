"""The doctor's checks, each on a system that is well and on one that is not."""

from __future__ import annotations

import os
import resource
import secrets
from pathlib import Path

import pytest

from kvserve import limits
from kvserve.config import Config
from kvserve.errors import ForeignObject, LimitError
from kvserve.names import Names
from kvserve.parent import doctor as rooms
from kvserve.parent.doctor import Finding, doctor, start_checks
from kvserve.runtime import PidFile, prepare_directory

HUGE = Config(memory=limits.MEMORY_BYTES_MAX)


def sound(finding: Finding) -> bool:
    """Whether it reads well: one sentence, and a mending command exactly if it failed."""
    return bool(finding.text) and not finding.text.endswith(".") and "\n" not in finding.text


def test_every_check_says_one_sentence(names: Names) -> None:
    findings = doctor(names, Config(name=names.name))
    assert all(sound(finding) for finding in findings)
    assert all(finding.mend for finding in findings if not finding.ok)
    assert len({finding.check for finding in findings}) == len(findings) == 9


def test_the_doctor_leaves_nothing(names: Names) -> None:
    doctor(names, Config(name=names.name))
    assert not names.runtime_directory.exists()


def test_too_little_shared_memory_is_fatal_and_names_the_mending(names: Names) -> None:
    finding = rooms.check_shared_memory(names, HUGE)
    assert not finding.ok
    assert finding.fatal
    assert "/dev/shm has" in finding.text
    assert "mount -o remount,size=" in finding.mend
    with pytest.raises(LimitError, match=r"free, but the table needs 1 TiB; mend: mount"):
        start_checks(names, HUGE)


def test_no_shared_memory_at_all(names: Names, tmp_path: Path) -> None:
    finding = rooms.check_shared_memory(names, Config(), tmp_path / "absent")
    assert not finding.ok
    assert "mount -t tmpfs" in finding.mend


def test_a_kept_table_counts_as_free(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.statvfs("/dev/shm")
    free = status.f_bavail * status.f_frsize
    config = Config(memory=min(free + limits.MIB, limits.MEMORY_BYTES_MAX))
    assert not rooms.check_shared_memory(names, config).ok
    monkeypatch.setattr(rooms, "_allocated", lambda _path: free + limits.MIB)
    assert rooms.check_shared_memory(names, config).ok


@pytest.mark.parametrize(
    ("content", "ok"), [("max\n", True), ("1048576\n", False), (str(2**40), True), (None, True)]
)
def test_the_control_groups_memory(
    names: Names, tmp_path: Path, content: str | None, ok: bool
) -> None:
    file = tmp_path / "memory.max"
    if content is not None:
        file.write_text(content)
    finding = rooms.check_memory_limit(names, Config(), file)
    assert finding.ok is ok
    assert not finding.fatal


def test_queues_that_do_not_fit_are_fatal(names: Names) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, hard))
    try:
        if os.geteuid() == 0:
            # One with CAP_SYS_RESOURCE passes over the limit.
            capabilities = Path("/proc/self/status").read_text()
            effective = next(row for row in capabilities.splitlines() if row.startswith("CapEff"))
            if int(effective.split()[1], 16) >> 24 & 1:
                pytest.skip("this process may pass over RLIMIT_MSGQUEUE")
        finding = rooms.check_queues(names, Config(name=names.name))
    finally:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft, hard))
    assert not finding.ok
    assert finding.fatal
    assert "RLIMIT_MSGQUEUE" in finding.text
    assert "ulimit -q" in finding.mend


def test_a_kernel_without_queues(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> tuple[int, int]:
        raise LimitError("this kernel has no POSIX message queues; use another")

    monkeypatch.setattr(rooms, "create_queues", refuse)
    finding = rooms.check_queues(names, Config(name=names.name))
    assert (finding.ok, finding.fatal) == (False, True)
    assert finding.text == "this kernel has no POSIX message queues"
    assert finding.mend == "use another"


def test_few_file_descriptors_are_a_warning(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    finding = rooms.check_descriptors(names, Config())
    assert (finding.ok, finding.fatal) == (False, False)
    assert "480 clients" in finding.text
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    assert rooms.check_descriptors(names, Config()).ok


class TestLogout:
    """systemd's RemoveIPC unlinks all of a user's objects when he logs out."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "run/systemd/system").mkdir(parents=True)
        (tmp_path / "etc/systemd/logind.conf.d").mkdir(parents=True)
        (tmp_path / "usr/lib/systemd/logind.conf.d").mkdir(parents=True)
        return tmp_path

    def check(self, names: Names, root: Path, uid: int = 1000) -> Finding:
        return rooms.check_logout(names, Config(), root, uid)

    def test_it_is_on_by_default(self, names: Names, root: Path) -> None:
        finding = self.check(names, root)
        assert (finding.ok, finding.fatal) == (False, False)
        assert "RemoveIPC=no" in finding.mend

    def test_no_systemd(self, names: Names, tmp_path: Path) -> None:
        assert self.check(names, tmp_path).ok

    @pytest.mark.parametrize("uid", [0, 33, 999])
    def test_root_and_system_users_are_spared(self, names: Names, root: Path, uid: int) -> None:
        assert self.check(names, root, uid).ok

    @pytest.mark.parametrize(
        ("files", "ok"),
        [
            ({"etc/systemd/logind.conf": "[Login]\nRemoveIPC=no\n"}, True),
            ({"etc/systemd/logind.conf": "[Login]\n#RemoveIPC=no\n"}, False),
            ({"etc/systemd/logind.conf": "[Login]\nRemoveIPC = off\n"}, True),
            (
                {
                    "etc/systemd/logind.conf": "RemoveIPC=no\n",
                    "usr/lib/systemd/logind.conf.d/50.conf": "RemoveIPC=yes\n",
                },
                False,
            ),
            (
                {
                    "etc/systemd/logind.conf.d/20.conf": "RemoveIPC=yes\n",
                    "usr/lib/systemd/logind.conf.d/50.conf": "RemoveIPC=no\n",
                },
                True,
            ),
        ],
    )
    def test_the_last_word_wins(
        self, names: Names, root: Path, files: dict[str, str], ok: bool
    ) -> None:
        for path, content in files.items():
            (root / path).write_text(content)
        assert self.check(names, root).ok is ok


def test_namespaces_are_told_apart(names: Names, tmp_path: Path) -> None:
    for kind in ("ipc", "pid"):
        (tmp_path / kind).touch()
    finding = rooms.check_namespaces(names, Config(), tmp_path)
    assert finding.ok
    assert "own ipc and pid namespace" in finding.text


def test_a_directory_open_to_everybody_is_fatal(names: Names) -> None:
    names.runtime_directory.mkdir()
    names.runtime_directory.chmod(0o777)
    finding = rooms.check_permissions(names, Config())
    assert (finding.ok, finding.fatal) == (False, True)
    assert "chmod o-rwx" in finding.mend
    with pytest.raises(ForeignObject, match="open to everybody"):
        start_checks(names, Config(name=names.name))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_object_is_fatal(names: Names) -> None:
    path = rooms.memory_path(names.table)
    path.write_bytes(secrets.token_bytes(10))
    try:
        os.chown(path, 12345, -1)
        finding = rooms.check_permissions(names, Config())
        with pytest.raises(ForeignObject, match="belongs to uid 12345"):
            start_checks(names, Config(name=names.name))
    finally:
        path.unlink()
    assert (finding.ok, finding.fatal) == (False, True)
    assert "another --name" in finding.mend


def test_who_serves(names: Names) -> None:
    prepare_directory(names, None)
    assert rooms.check_served(names, Config()).text == "nobody serves this name"
    pid_file = PidFile.acquire(names)
    assert rooms.check_served(names, Config()).text == f"served by pid {os.getpid()}"
    assert rooms.check_leftovers(names, Config()).text == "none: the server runs"
    pid_file.release()


def test_leftovers_of_a_killed_server_are_no_failure(names: Names) -> None:
    prepare_directory(names, None)
    names.manifest.touch()
    finding = rooms.check_leftovers(names, Config())
    assert finding.ok
    assert "was killed" in finding.text
    assert f"kvserve clean --name {names.name}" in finding.text

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
from kvserve.parent import instance_checks, system_checks
from kvserve.parent.doctor import doctor, start_checks
from kvserve.parent.finding import Finding
from kvserve.parent.group_checks import check_memory_limit
from kvserve.parent.housekeeping import memory_path

HUGE = Config(memory=limits.MEMORY_BYTES_MAX)


def sound(finding: Finding) -> bool:
    """Whether it reads well: one sentence without a full stop, and a command if it failed."""
    is_sentence = bool(finding.text) and finding.text[-1] != "." and "\n" not in finding.text
    return is_sentence and (finding.ok or bool(finding.fix))


def test_every_check_says_one_sentence(names: Names) -> None:
    findings = doctor(names, Config(name=names.name))
    assert all(sound(finding) for finding in findings)
    assert len({finding.check for finding in findings}) == len(findings) == 9


def test_the_doctor_leaves_nothing(names: Names) -> None:
    doctor(names, Config(name=names.name))
    assert not names.runtime_directory.exists()


def test_too_little_shared_memory_is_fatal_and_names_the_mending(names: Names) -> None:
    finding = system_checks.check_shared_memory(names, HUGE)
    assert not finding.ok
    assert finding.fatal
    assert "/dev/shm has" in finding.text
    assert "mount -o remount,size=" in finding.fix
    with pytest.raises(LimitError, match=r"free, but the table needs 1 TiB; fix: mount"):
        start_checks(names, HUGE)


def test_no_shared_memory_at_all(names: Names, tmp_path: Path) -> None:
    finding = system_checks.check_shared_memory(names, Config(), tmp_path / "absent")
    assert not finding.ok
    assert "mount -t tmpfs" in finding.fix


def test_a_kept_table_counts_as_free(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.statvfs("/dev/shm")
    free = status.f_bavail * status.f_frsize
    config = Config(memory=min(free + limits.MIB, limits.MEMORY_BYTES_MAX))
    assert not system_checks.check_shared_memory(names, config).ok
    monkeypatch.setattr(system_checks, "_allocated_bytes", lambda _path: free + limits.MIB)
    assert system_checks.check_shared_memory(names, config).ok


def test_shared_memory_that_cannot_be_written(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    finding = system_checks.check_shared_memory(names, Config())
    assert (finding.ok, finding.fatal) == (False, True)
    assert "remount,rw" in finding.fix


@pytest.mark.parametrize(
    ("own", "limits_by_file", "ok"),
    [
        ("0::/a/b\n", {}, True),
        ("0::/a/b\n", {"a/b/memory.max": "max\n"}, True),
        ("0::/a/b\n", {"a/b/memory.max": "1048576\n"}, False),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "1048576\n"}, False),
        ("0::/a/b\n", {"a/b/memory.max": str(2**40)}, True),
        ("0::/not/there\n", {"memory.max": "1048576\n"}, False),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "1048576\n"}, False),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, True),
        ("", {"memory.max": "1048576\n"}, True),
        ("0::/../../a\n", {"a/memory.max": "1048576\n"}, False),
        ("0::/a\n", {"a/memory.max": str(2**26), "a/memory.stat": "anon 1\nfile 99999999"}, True),
    ],
)
def test_the_control_groups_memory(
    names: Names, tmp_path: Path, own: str, limits_by_file: dict[str, str], ok: bool
) -> None:
    (tmp_path / "own").write_text(own)
    for file, content in limits_by_file.items():
        (tmp_path / "groups" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / file).write_text(content)
    finding = check_memory_limit(names, Config(), tmp_path / "groups", tmp_path / "own")
    assert (finding.ok, finding.fatal) == (ok, not ok)
    assert ok or "MemoryMax=96M" in finding.fix


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
        finding = system_checks.check_queues(names, Config(name=names.name, workers=2))
    finally:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft, hard))
    assert not finding.ok
    assert finding.fatal
    assert "RLIMIT_MSGQUEUE" in finding.text
    needed = 2 * limits.QUEUE_DEPTH * (limits.QUEUE_MESSAGE_BYTES + 96)
    assert f"ulimit -q {needed}, as root" in finding.fix
    assert f"LimitMSGQUEUE={needed}" in finding.fix


def test_queues_that_were_lowered_name_each_limit_that_is_in_the_way(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_checks, "create_queues", lambda *_: (10, 4096))
    monkeypatch.setattr(system_checks, "_passes_over_sysctls", lambda: False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (819_200, 819_200))
    finding = system_checks.check_queues(names, Config(name=names.name, workers=2))
    assert finding.ok
    assert finding.text.startswith(
        "for 2 workers, queues of 10 messages of 4 KiB each; 64 of 8 KiB"
    )
    assert finding.fix

    def fix(depth_max: int, bytes_max: int, workers: int = 1) -> str:
        (tmp_path / "msg_max").write_text(f"{depth_max}\n")
        (tmp_path / "msgsize_max").write_text(f"{bytes_max}\n")
        return system_checks.queue_fix(workers, 64, 8192, tmp_path)

    assert "sysctl fs.mqueue.msg_max=64 (" in fix(10, 8192)
    assert "sysctl fs.mqueue.msgsize_max=8192 (" in fix(64, 4096)
    assert "sysctl fs.mqueue.msg_max=64 fs.mqueue.msgsize_max=8192 (" in fix(10, 4096)
    assert "ulimit" not in fix(10, 8192)  # one such queue takes 530,432 bytes
    both = fix(10, 8192, workers=2)
    assert "sysctl" in both
    assert f"ulimit -q {819_200 + 2 * 530_432}," in both
    assert fix(64, 8192).startswith("ulimit -q ")  # others take what is missing
    monkeypatch.setattr(system_checks, "_passes_over_sysctls", lambda: True)
    assert fix(10, 8192).startswith("ulimit -q ")


def test_a_kernel_without_queues(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> tuple[int, int]:
        raise LimitError("this kernel has no POSIX message queues; use another")

    monkeypatch.setattr(system_checks, "create_queues", refuse)
    finding = system_checks.check_queues(names, Config(name=names.name))
    assert (finding.ok, finding.fatal) == (False, True)
    assert finding.text == "this kernel has no POSIX message queues"
    assert finding.fix == "use another"


def test_few_file_descriptors_are_a_warning(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    finding = system_checks.check_descriptors(names, Config())
    assert (finding.ok, finding.fatal) == (False, False)
    assert "480 clients" in finding.text
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    assert system_checks.check_descriptors(names, Config()).ok


class TestLogout:
    """systemd's RemoveIPC unlinks all of a user's objects when he logs out."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "run/systemd/system").mkdir(parents=True)
        (tmp_path / "etc/systemd/logind.conf.d").mkdir(parents=True)
        (tmp_path / "usr/lib/systemd/logind.conf.d").mkdir(parents=True)
        return tmp_path

    def check(self, names: Names, root: Path, uid: int = 1000) -> Finding:
        return system_checks.check_logout(names, Config(), root, uid)

    def test_it_is_on_by_default(self, names: Names, root: Path) -> None:
        finding = self.check(names, root)
        assert (finding.ok, finding.fatal) == (False, False)
        assert "RemoveIPC=no" in finding.fix

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
    finding = system_checks.check_namespaces(names, Config(), tmp_path)
    assert finding.ok
    assert "own ipc and pid namespace" in finding.text


def test_a_directory_open_to_everybody_is_fatal(names: Names) -> None:
    names.runtime_directory.mkdir()
    names.runtime_directory.chmod(0o777)
    finding = instance_checks.check_permissions(names, Config())
    assert (finding.ok, finding.fatal) == (False, True)
    assert "chmod o-rwx" in finding.fix
    with pytest.raises(ForeignObject, match="open to all users"):
        start_checks(names, Config(name=names.name))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_directory_that_cannot_be_made_is_fatal(names: Names) -> None:
    etc = names._replace(runtime_directory=Path("/etc/kvserve") / names.name)
    os.seteuid(65_534)
    try:
        finding = instance_checks.check_permissions(etc, Config())
    finally:
        os.seteuid(0)
    assert (finding.ok, finding.fatal) == (False, True)
    assert finding.text == "/etc cannot be written by nobody"
    assert "KVSERVE_RUNTIME_DIR" in finding.fix


def test_a_directory_in_one_that_everybody_may_change_is_fatal(names: Names) -> None:
    above = names.runtime_directory.parent / f"{names.name}-above"
    above.mkdir()
    above.chmod(0o777)
    below = names._replace(runtime_directory=above / names.name)
    finding = instance_checks.check_permissions(below, Config())
    assert (finding.ok, finding.fatal) == (False, True)
    assert finding.fix == f"chmod go-w {above}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_object_is_fatal(names: Names) -> None:
    path = memory_path(names.table)
    path.write_bytes(secrets.token_bytes(10))
    try:
        os.chown(path, 12345, -1)
        finding = instance_checks.check_permissions(names, Config())
        with pytest.raises(ForeignObject, match="belongs to uid 12345"):
            start_checks(names, Config(name=names.name))
    finally:
        path.unlink()
    assert (finding.ok, finding.fatal) == (False, True)
    assert "another --name" in finding.fix
    assert f"sudo -u '#12345' kvserve clean --name {names.name}" in finding.fix

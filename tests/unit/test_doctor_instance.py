"""What the doctor says of an instance: who serves it, what was left, what may not be seen."""

from __future__ import annotations

import dataclasses
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserve import limits
from kvserve.config import Config, load
from kvserve.errors import ConfigError
from kvserve.names import Names
from kvserve.parent import instance_checks
from kvserve.parent.doctor import doctor
from kvserve.parent.housekeeping import memory_path
from kvserve.runtime import PidFile, prepare_directory
from kvserve.table import table
from kvserve.table.geometry import plan


def test_who_serves(names: Names) -> None:
    prepare_directory(names, None)
    assert instance_checks.check_served(names, Config()).text == "no server runs under this name"
    pid_file = PidFile.acquire(names)
    assert instance_checks.check_served(names, Config()).text == f"served by pid {os.getpid()}"
    assert instance_checks.check_leftovers(names, Config()).text == "none: the server runs"
    pid_file.release()


def test_leftovers_of_a_killed_server_are_no_failure(names: Names) -> None:
    prepare_directory(names, None)
    names.manifest.touch()
    finding = instance_checks.check_leftovers(names, Config())
    assert finding.ok
    assert "was killed" in finding.text
    assert f"kvserve clean --name {names.name}" in finding.text


@pytest.fixture
def kept(names: Names) -> Iterator[Names]:
    """A table of 1 MiB that a server left."""
    table.create(names, plan(limits.MIB, 128, limits.MIB, 0, 2), 0o600, None)
    yield names
    table.remove(names)


SMALL = Config(memory=limits.MIB, workers=2)


def test_a_kept_table_is_taken_over_where_it_would_be(kept: Names) -> None:
    finding = instance_checks.check_leftovers(kept, SMALL)
    assert finding.ok
    assert "a table of 1 MiB is kept: the next serve takes it over" in finding.text
    dropped = instance_checks.check_leftovers(kept, dataclasses.replace(SMALL, fresh=True))
    assert dropped.ok
    assert "drops it" in dropped.text


@pytest.mark.parametrize(
    ("config", "reason", "flags"),
    [
        (Config(workers=2), "memory 1 MiB, not 48 MiB", "--memory 1MiB"),
        (Config(memory=limits.MIB, workers=2, item_size=64), "item size 128", "--item-size 128B"),
        (Config(memory=limits.MIB, workers=2, max_value=9000), "largest value", "--max-value "),
        (Config(memory=limits.MIB, workers=2, shards=2), "shards 1, not 2", "--shards 1"),
    ],
)
def test_a_kept_table_of_other_sizes_is_not_said_to_be_taken_over(
    kept: Names, config: Config, reason: str, flags: str
) -> None:
    """And with the flags that the doctor names, it is."""
    finding = instance_checks.check_leftovers(kept, config)
    assert (finding.ok, finding.fatal) == (False, False)
    assert "which the next serve replaces by an empty one: it was made for " in finding.text
    assert reason in finding.text
    serve = f"kvserve serve --name {kept.name} "
    assert finding.fix.startswith(f"{serve}{flags}")
    words = finding.fix.removeprefix(serve).removesuffix(" keeps it").split()
    told = {
        flag.strip("-").replace("-", "_"): text
        for flag, text in zip(words[::2], words[1::2], strict=True)
    }
    wanted = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    again = load(flags=wanted | told, environment={})
    assert instance_checks.check_leftovers(kept, again).ok


def test_what_is_no_segment_is_fatal(names: Names) -> None:
    path = memory_path(names.table)
    path.symlink_to("/etc/passwd")
    try:
        findings = {finding.check: finding for finding in doctor(names, SMALL)}
    finally:
        path.unlink()
    assert not findings["permissions"].ok
    assert findings["permissions"].fix == f"rm -r {path}"
    assert findings["server"].ok


def test_half_a_table_is_replaced(kept: Names) -> None:
    memory_path(kept.hints).unlink()
    finding = instance_checks.check_leftovers(kept, SMALL)
    assert not finding.ok
    assert "a part of it is missing" in finding.text
    assert finding.fix == f"kvserve clean --name {kept.name}"


def test_a_server_of_another_runtime_directory_is_seen(kept: Names) -> None:
    with memory_path(kept.table).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        served = instance_checks.check_served(kept, SMALL)
        assert instance_checks.check_leftovers(kept, SMALL).text == "none: the server runs"
    assert "served from another runtime directory than" in served.text
    assert instance_checks.check_served(kept, SMALL).text == "no server runs under this name"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("seen", ["table", "directory"])
def test_another_user_is_told_what_he_cannot_see(kept: Names, seen: str) -> None:
    if seen == "directory":
        prepare_directory(kept, None)
        kept.pid_file.touch()
    else:  # his own is another one, where nothing is
        kept = kept._replace(runtime_directory=Path("/tmp") / kept.name)
    os.seteuid(65_534)
    try:
        findings = [
            instance_checks.check_leftovers(kept, SMALL),
            instance_checks.check_served(kept, SMALL),
        ]
    finally:
        os.seteuid(0)
    for finding in findings:
        assert (finding.ok, finding.fatal) == (False, False)
        assert "cannot be seen by nobody" in finding.text
        assert finding.fix == f"sudo -u root kvserve doctor --name {kept.name}"


def test_the_doctor_refuses_what_serve_refuses(names: Names) -> None:
    with pytest.raises(ConfigError, match="cannot hold items of"):
        doctor(names, Config(memory=20 * limits.KIB, item_size=64 * limits.KIB))

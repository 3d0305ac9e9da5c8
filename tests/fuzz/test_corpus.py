"""The core under sanitizers: all past findings again, some seconds of made-up inputs, threads."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

import pytest
from fuzz import building

SECONDS = 5
PATIENCE_SECONDS = 100  # a hang, not a slow machine


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of ours in its own directory, where it may leave the input that ended it."""
    return subprocess.run(
        [str(program), *arguments],
        cwd=program.parent,
        env=os.environ | building.ENVIRONMENT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE_SECONDS,
    )


def check(done: subprocess.CompletedProcess[str], directory: Path) -> None:
    """Fails with what the program said, and with the input in hexadecimal if one ended it."""
    print(done.stdout)
    crash = directory / "crash-input"
    told = f"\nthe input was: {crash.read_bytes().hex()}" if crash.exists() else ""
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{told}"


@pytest.mark.parametrize("target", building.TARGETS)
def test_corpus_and_random_inputs(target: str, tmp_path: Path, seed: int) -> None:
    program = building.make(building.replayer(target), tmp_path / target)
    limits = ["--seconds", str(SECONDS), "--seed", str(seed)]
    check(run(program, *limits, *building.seeds(target)), tmp_path)


def test_driver_notices_what_the_core_must_not_do(tmp_path: Path) -> None:
    """A fuzzer that cannot fail is none: here the core trusts the lengths that it reads."""
    core = copied_core(tmp_path)
    check_of_length = "rest < KV_RECORD_HEADER_BYTES + offset + shape.value_bytes"
    edit(core / "lookup.c", check_of_length, "rest == 0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "CORE", core)
        program = building.make(building.replayer("attach"), tmp_path / "attach")
    done = run(program, "--seconds", "20", "--seed", "1", *building.seeds("attach"))
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert (tmp_path / "crash-input").exists()


THREADS = ("stress", "feed_stress")


@pytest.mark.parametrize("name", THREADS)
def test_threads_under_the_address_sanitizer(name: str, tmp_path: Path) -> None:
    program = building.make(building.stress(name), tmp_path / name)
    check(run(program, str(SECONDS), str(secrets.randbits(32))), tmp_path)


@pytest.mark.parametrize("name", THREADS)
def test_threads_under_the_thread_sanitizer(name: str, tmp_path: Path) -> None:
    check(run_races(building.make(building.races(name), tmp_path / name)), tmp_path)


def run_races(program: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program under the thread sanitizer."""
    arguments = [str(SECONDS), str(secrets.randbits(32))]
    done = run(program, *arguments)
    if "unexpected memory mapping" in done.stderr:
        # Older sanitizers cannot live with a kernel that randomizes as many bits as it can.
        done = run(Path("/usr/bin/setarch"), "-R", str(program), *arguments)
    return done


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if (still_there(feed, *position))\n            return KV_FEED_EVENT;", "return 0;"),
        ("event->lost = event->number - cursor->number;", "event->lost = 0;"),
    ],
    ids=["no-look-after-the-copy", "nothing-is-lost"],
)
def test_the_feeds_threads_notice_a_bug(old: str, new: str, tmp_path: Path) -> None:
    core = copied_core(tmp_path)
    edit(core / "feed.c", old, new)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "CORE", core)
        program = building.make(building.stress("feed_stress"), tmp_path / "feed_stress")
    done = run(program, str(SECONDS))
    assert done.returncode != 0
    assert "feed_stress.c" in done.stderr


def copied_core(directory: Path) -> Path:
    """A copy of the core, to put a bug in."""
    core = directory / "core"
    core.mkdir()
    for source in building.CORE.iterdir():
        (core / source.name).write_bytes(source.read_bytes())
    return core


def edit(source: Path, old: str, new: str) -> None:
    """Replaces what is there exactly once."""
    text = source.read_text()
    assert text.count(old) == 1
    source.write_text(text.replace(old, new))

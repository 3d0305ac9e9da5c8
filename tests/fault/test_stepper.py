"""The table survives SIGKILL at any instruction, and the tests of that notice when it does not.

A sample of what `make test-kill` does in full; see README.md beside this file.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from fault.mutants import MUTANTS
from fault.seeded_bug import Mutant
from support.core_build import build_mutant, build_stepper
from support.seeds import derived

SAMPLE = ["--kills", "1", "--turns", "4", "--sample", "6"]
SEED_VARIABLE = "STEPPER_SEED"
WATCHDOG_SECONDS = 300


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory where the stepper for the true core is built."""
    directory = tmp_path_factory.mktemp("stepper")
    build_stepper(directory)
    return directory


@pytest.fixture(scope="session")
def seed() -> int:
    """What all random choices come from. Named in every failure; set it to repeat a run."""
    return int(os.environ.get(SEED_VARIABLE) or derived("stepper") % 10**6)


def run_stepper(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the stepper to its end. Fails if this machine cannot single-step at all."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode != 2, f"the stepper could not do its work: {done.stderr}"
    return done


@pytest.mark.watchdog(WATCHDOG_SECONDS)
def test_the_table_survives_kills(built: Path, seed: int) -> None:
    done = run_stepper(built / "stepper.program", "--seed", str(seed), *SAMPLE)
    print(done.stdout)
    assert done.returncode == 0, f"repeat with {SEED_VARIABLE}={seed}\n{done.stdout}{done.stderr}"
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["violations"] == 0
    for what in ("scenarios", "inside_lock", "states", "kills", "interleavings"):
        assert summary[what] > 0, what


@pytest.mark.watchdog(WATCHDOG_SECONDS)
def test_a_storm_that_once_lost_a_value(built: Path) -> None:
    """Nineteen deaths had eaten up log M's reserve, and an overwrite then evicted its own key."""
    done = run_stepper(
        built / "stepper.program", "--scenario", "storm", "--seed", "11", "--kills", "2"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["kills"] == 50


def test_every_mutant_is_known_by_its_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
@pytest.mark.watchdog(WATCHDOG_SECONDS)
def test_a_seeded_bug_is_caught(mutant: Mutant, built: Path, tmp_path: Path) -> None:
    """By a violation that it reports itself. The seed is fixed: the catch must not be luck."""
    program = build_mutant(mutant, built, tmp_path)
    many = mutant.scenario.startswith("scan")  # few of whose instructions are dangerous
    few = mutant.scenario.startswith(("lock-both", "reader-empty"))  # many are
    sample = ["--sample", "400"] if many else ["--sample", "60"] if few else []
    done = run_stepper(
        program, "--scenario", mutant.scenario, "--kills", "2", "--turns", "10", *sample
    )
    assert done.returncode == 1, f"not noticed: {mutant.name}\n{done.stdout}{done.stderr}"
    assert "VIOLATION" in done.stderr
    assert "no state was found" not in done.stderr

"""Servers of one name that start from two runtime directories at once: one wins, always."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.leftovers import leftovers

from kvserve.names import Names
from kvserve.parent.cleanup import clean

if TYPE_CHECKING:
    from conftest import NewNames

# Before there was a lock on what both make, every third round went wrong.
ROUNDS = int(os.environ.get("KVSERVE_TEST_RACES", "15"))


@pytest.mark.watchdog(60 + 5 * ROUNDS)
def test_one_wins_always(new_names: NewNames, tmp_path: Path) -> None:
    """With and without a kept table, which is adopted, or replaced because it does not fit."""
    names = new_names()
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    program = Path(__file__).parent / "racing.py"
    done = subprocess.run(
        [sys.executable, program, names.name, tmp_path, str(ROUNDS), str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    clean(Names(names.name, tmp_path / "0" / names.name))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert leftovers(names) == []

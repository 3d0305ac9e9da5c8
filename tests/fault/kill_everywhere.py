"""The complete run of the stepper: every scenario, every state, for some seeds.

Run as `python -m fault.kill_everywhere [SEED...]` with tests/ on the path; `make test-kill` does.
Without seeds it draws some. Each line of JSON names its seed.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from support.core_build import build_stepper

SEEDS = 3


def main(seeds: tuple[str, ...]) -> int:
    """Runs the stepper with each seed.

    Args:
        seeds: whole numbers; each gives every scenario other states.

    Returns:
        0 if nothing was violated with any of them.
    """
    with tempfile.TemporaryDirectory() as directory:
        program = build_stepper(Path(directory))
        codes = [
            subprocess.run([program, "--seed", seed], check=False).returncode for seed in seeds
        ]
    return max(codes)


if __name__ == "__main__":
    drawn = tuple(str(secrets.randbelow(10**6)) for _ in range(SEEDS))
    sys.exit(main(tuple(sys.argv[1:]) or drawn))

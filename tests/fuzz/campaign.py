"""Fuzzes for as long as one likes: `python tests/fuzz/campaign.py --seconds 600`.

With clang, libFuzzer is guided by coverage; without, our own driver makes up inputs. What is found
stays in the directory that is printed: inputs that end a target, and the corpus that grew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import building


def clang() -> str | None:
    """The newest clang here, by whatever name Debian gives it."""
    names = ["clang", *(f"clang-{version}" for version in range(25, 12, -1))]
    return next((name for name in names if shutil.which(name)), None)


def fuzz(target: str, seconds: int, directory: Path) -> int:
    """Fuzzes one target; returns its exit status."""
    compiler = clang()
    work = directory / target
    work.mkdir(parents=True)
    if compiler is None:
        program = building.make(building.replayer(target), directory / f"fuzz-{target}")
        command = [str(program), "--seconds", str(seconds), *building.seeds(target)]
    else:
        program = building.make(building.guided(target, compiler), directory / f"fuzz-{target}")
        command = [
            str(program), f"-max_total_time={seconds}", "-max_len=2048", "-len_control=0",
            "-timeout=20", "-print_final_stats=1", "-verbosity=1", str(work),
            str(building.CORPUS / target),
        ]  # fmt: skip
    print(f"{target}: {' '.join(command[:4])} ... in {directory}", flush=True)
    return subprocess.run(command, cwd=directory, env=os.environ | building.ENVIRONMENT).returncode


def main() -> int:
    """Fuzzes each target in turn; returns 1 if one of them fell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", default=building.TARGETS)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="kvserve-fuzz-"))
    fallen = [target for target in options.targets if fuzz(target, options.seconds, directory) != 0]
    print(f"fallen: {', '.join(fallen) or 'none'}; see {directory}")
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main())

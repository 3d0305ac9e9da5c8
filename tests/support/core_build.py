"""Builds the stepper against the core's sources, or against a copy of them with a bug in it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from fault.seeded_bug import Mutant

ROOT = Path(__file__).parents[2]
CORE = ROOT / "kvserve" / "table" / "core"
STEPPER = ROOT / "tests" / "fault" / "stepper"

# As the core is built for its users, see setup.py. Lazy binding would put the dynamic linker's
# work between the first steps of each child.
FLAGS = [
    "-std=c11", "-O3", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion",
    "-Wstrict-prototypes", "-Wmissing-prototypes", "-Wold-style-definition", "-Wcast-qual",
    "-Wcast-align", "-Wpointer-arith", "-Wformat=2", "-Wundef", "-Wvla",
]  # fmt: skip
LINK_FLAGS = ["-pthread", "-Wl,-z,now"]


def compiler() -> list[str]:
    """The C compiler that the environment names, or gcc."""
    return shlex.split(os.environ.get("CC", "gcc"))


def compile_objects(sources: list[Path], includes: list[Path], into: Path, strict: bool) -> None:
    """Compiles each source to an object of the same name."""
    into.mkdir(parents=True, exist_ok=True)
    flags = [*FLAGS, *(["-Werror"] if strict else [])]
    command = [*compiler(), *flags, *(f"-I{directory}" for directory in includes), "-c"]
    for source in sources:
        target = into / f"{source.stem}.o"
        run([*command, str(source), "-o", str(target)])


def link(objects: list[Path], program: Path) -> Path:
    """Links objects to a program."""
    run([*compiler(), *map(str, objects), *LINK_FLAGS, "-o", str(program)])
    return program


def run(command: list[str]) -> None:
    """Runs a compiler. Its messages are the failure's, if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"


def build_stepper(directory: Path) -> Path:
    """Builds the stepper against the true core. The objects stay, for the mutants.

    Args:
        directory: where objects and program go.

    Returns:
        The program.
    """
    includes = [CORE, STEPPER]
    compile_objects(sorted(CORE.glob("*.c")), includes, directory / "core", strict=True)
    compile_objects(sorted(STEPPER.glob("*.c")), includes, directory / "stepper", strict=True)
    objects = [*(directory / "core").glob("*.o"), *(directory / "stepper").glob("*.o")]
    return link(sorted(objects), directory / "stepper.program")


def build_mutant(mutant: Mutant, built: Path, directory: Path) -> Path:
    """Builds the stepper against a copy of the core that has this bug.

    Args:
        mutant: the bug.
        built: where `build_stepper` left its objects; those of unchanged files are used again.
        directory: where the copy, its objects and the program go.

    Returns:
        The program.
    """
    copy = directory / "core"
    shutil.copytree(CORE, copy)
    for edit in mutant.edits:
        edit.apply(copy)
    changed = [copy / edit.file for edit in mutant.edits]
    if any(file.suffix == ".h" for file in changed):  # which is in every object
        changed = [*copy.glob("*.c"), *STEPPER.glob("*.c")]
    # Not strict: a bug may leave a variable or a function unused.
    compile_objects(changed, [copy, STEPPER], directory / "objects", strict=False)
    objects = {path.name: path for path in built.glob("*/*.o")}
    objects |= {path.name: path for path in (directory / "objects").glob("*.o")}
    return link(sorted(objects.values()), directory / "stepper.program")

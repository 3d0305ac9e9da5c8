"""Builds the fuzz targets and the stress from the core's own sources, under a sanitizer."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
CORE = HERE.parents[1] / "kvserve" / "table" / "core"
CORPUS = HERE / "corpus"
# The targets are named after what they fuzz, and so are the directories of their corpora.
TARGETS = ("operations", "attach", "feed")
BUILD_SECONDS = 300
MEMORY = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FLAGS = ("-std=c11", "-D_GNU_SOURCE=", "-O1", "-g", "-fno-omit-frame-pointer", "-Wall", "-Wextra")
# Leaks are looked for by a tracer, which containers forbid; the core allocates nothing anyway.
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


@dataclass(frozen=True)
class Build:
    """A way to build: which sources beside the core, which compiler, which sanitizer."""

    sources: tuple[str, ...]
    sanitizer: tuple[str, ...] = MEMORY
    compiler: str = field(default_factory=lambda: os.environ.get("CC", "cc"))


def replayer(target: str) -> Build:
    """A target with our own driver, for any compiler."""
    return Build((f"fuzz_{target}.c", "small_table.c", "driver.c"))


def guided(target: str, compiler: str) -> Build:
    """A target with libFuzzer, which is guided by coverage; only clang has it."""
    sanitizer = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")
    return Build((f"fuzz_{target}.c", "small_table.c"), sanitizer, compiler)


def stress(program: str) -> Build:
    """A program of threads, `stress` or `feed_stress`, under the address sanitizer."""
    return Build((f"{program}.c", "small_table.c"))


def races(program: str) -> Build:
    """The same under the thread sanitizer. See relaxed.h; the compiler warns that the sanitizer
    does not know fences."""
    sanitizer = ("-fsanitize=thread", "-include", str(HERE / "relaxed.h"), "-Wno-tsan")
    return Build((f"{program}.c", "small_table.c"), sanitizer)


def make(build: Build, program: Path) -> Path:
    """Compiles and links; returns the program.

    Raises:
        RuntimeError: the compiler failed; the text is its own.
    """
    command = [build.compiler, *FLAGS, *build.sanitizer, f"-I{CORE}", f"-I{HERE}"]
    command += ["-o", str(program), *(str(HERE / source) for source in build.sources)]
    command += [*map(str, sorted(CORE.glob("*.c"))), "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode != 0:
        raise RuntimeError(
            f"{build.compiler} cannot build {program.name}; are its sanitizers' libraries "
            f"installed (Debian: libasan, libubsan and libtsan come with gcc)?\n{done.stderr}"
        )
    return program


def seeds(target: str) -> list[str]:
    """The files of a target's corpus."""
    return sorted(str(path) for path in (CORPUS / target).iterdir())

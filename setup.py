"""Builds the compiled parts: kvserve.table._core, the C11 core under its Cython skin, and three
small modules in Cython. The rest is in pyproject.toml."""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

TABLE = Path("kvserve/table")
PROTOCOL = Path("kvserve/protocol")
CORE = "kvserve.table._core"
# The core is ours to the last line, so it takes every warning. Cython's C is not, and takes none.
CORE_FLAGS = [
    "-std=c11",
    "-O3",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wshadow",
    "-Wconversion",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wold-style-definition",
    "-Wcast-qual",
    "-Wcast-align",
    "-Wpointer-arith",
    "-Wformat=2",
    "-Wundef",
    "-Wvla",
]
SKIN_FLAGS = ["-std=c11", "-O3", "-fvisibility=hidden"]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "embedsignature": True,
}


def strict() -> bool:
    """True in the project's own builds. Users must not fail over a newer compiler's warning."""
    return os.environ.get("KVSERVE_STRICT", "0") not in ("", "0")


class BuildCore(build_ext):
    """Compiles the core with its own flags, then links it with what Cython makes of the skin."""

    def build_extension(self, ext: Extension) -> None:
        """Builds an extension; nothing generated lands beside the sources."""
        # Imported late: listing the files for an sdist needs no Cython.
        from Cython.Build import cythonize

        if ext.name == CORE:
            ext.extra_objects = self.compiler.compile(
                sorted(map(str, TABLE.glob("core/*.c"))),
                output_dir=self.build_temp,
                include_dirs=ext.include_dirs,
                extra_postargs=[*CORE_FLAGS, "-Werror"] if strict() else CORE_FLAGS,
            )
        ext.sources = cythonize(
            [ext],
            build_dir=self.build_temp,
            compiler_directives=DIRECTIVES,
            force=self.force,
            quiet=True,
        )[0].sources
        super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildCore},
    ext_modules=[
        Extension(
            "kvserve._descriptors",
            sources=["kvserve/_descriptors.pyx"],
            depends=["kvserve/_descriptors.pxd"],
            extra_compile_args=SKIN_FLAGS,
            libraries=["pthread", "rt"],  # see below
        ),
        Extension(
            CORE,
            sources=[str(TABLE / "_core.pyx")],
            depends=[
                "kvserve/_descriptors.pxd",
                *sorted(map(str, [*TABLE.glob("*.px[di]"), *TABLE.glob("core/*.[ch]")])),
            ],
            include_dirs=[str(TABLE), str(TABLE / "core")],
            extra_compile_args=SKIN_FLAGS,
            # Before glibc 2.34 semaphores and shared memory are in libraries of their own.
            libraries=["pthread", "rt"],
        ),
        Extension(
            "kvserve.protocol._values",
            sources=[str(PROTOCOL / "_values.pyx")],
            depends=sorted(map(str, PROTOCOL.glob("*.px[di]"))),
            include_dirs=[str(PROTOCOL)],
            extra_compile_args=SKIN_FLAGS,
        ),
        Extension(
            "kvserve.client._scopes",
            sources=["kvserve/client/_scopes.pyx"],
            extra_compile_args=SKIN_FLAGS,
        ),
    ],
)

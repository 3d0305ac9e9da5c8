"""How many instructions an operation of the core takes: a guard that depends on no machine.

callgrind counts them exactly, whatever else runs; the difference between many operations and none
leaves out the filling of the table. The bounds are what was counted with gcc 12 on x86-64, and a
margin: a twentieth for that compiler, a half for others. A change that needs more must say why it
is worth it.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.core_build import CORE, compile_objects, compiler, link

from kvserve.table.geometry import as_fields, plan

OPERATIONS = 2000
COUNTED = {"hit": 391, "miss": 275, "set": 4171}
COUNTED_WITH = "gcc 12"

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="counted on x86-64"),
    pytest.mark.skipif(
        not shutil.which("valgrind"), reason="needs valgrind: apt-get install valgrind"
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("instructions")
    sources = [*sorted(CORE.glob("*.c")), Path(__file__).parent / "count_instructions.c"]
    compile_objects(sources, [CORE], directory, strict=True)
    return link(sorted(directory.glob("*.o")), directory / "count")


def instructions(program: Path, operation: str, count: int) -> int:
    """How many the program executed in all."""
    geometry = plan(memory=1024 * 1024, item_size=112, max_value=4096, shards=1, workers=1)
    fields = [str(number) for number in as_fields(geometry).values()]
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), *fields,
         operation, str(count)],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found, done.stderr
    return int(found[1])


@pytest.mark.parametrize("operation", COUNTED)
def test_an_operation_takes_no_more_than_it_did(program: Path, operation: str) -> None:
    many = instructions(program, operation, OPERATIONS)
    each = (many - instructions(program, operation, 0)) / OPERATIONS
    print(f"{operation}: {each:.0f} instructions")
    margin = 1.05 if compiler_version() == COUNTED_WITH else 1.5
    assert COUNTED[operation] / margin < each < COUNTED[operation] * margin


def compiler_version() -> str:
    """The compiler's name and major version."""
    command = [*compiler(), "-dumpfullversion", "-dumpversion"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f"{Path(compiler()[0]).name} {version.partition('.')[0].strip()}"

"""The house rules that a program can check: who imports whom, sizes, words, documentation."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kvserve"
LINES_MAX = 400
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100
ROOM_SHARE_MAX = 0.1

GROUND_FLOOR = {
    *("errors", "limits", "names", "config", "toml_file", "runtime", "manifest", "objects"),
    *("escaping", "shortages", "units", "whereabouts", "descriptors", "_descriptors", "native"),
}
# What the files of a room may import beside the room itself and the ground floor.
ROOMS: dict[str, set[str]] = {
    "protocol": set(),  # both sides of the kernel speak and carry alike
    "transport": {"protocol"},
    "table": {"protocol"},
    "live": {"protocol", "table"},  # shared pages, of the table's kind
    "store": {"protocol"},
    "stats": {"table"},
    "codecs": {"protocol"},  # what applications choose from; no other room knows them
    "execution": {"protocol", "table", "store"},
    "client": {"protocol", "transport", "table", "live", "stats", "execution"},
    "worker": {"protocol", "transport", "table", "live", "execution"},
    "parent": {"protocol", "transport", "table", "live", "store", "worker"},
    "bench": {"protocol", "table", "parent", ""},
    "testing": {"client", "parent"},
    "cli": {"protocol", "table", "live", "client", "stats", "parent", "bench", ""},
    "integrations": {"client", "codecs", ""},
}
FRONT_DOOR = {"__init__": {"client", "codecs", "live"}, "__main__": {"cli"}}
# The language knows no clock and no kernel, neither itself nor by way of names or runtime.
PROTOCOL_MAY_IMPORT = {"protocol", "errors", "limits", "native"}
PROTOCOL_NEVER_IMPORTS = {
    "os", "socket", "asyncio", "time", "select", "selectors", "threading", "mmap", "fcntl",
    "posix_ipc", "uvloop", "subprocess", "pathlib", "random", "logging",
}  # fmt: skip
ABOUT_THREADS = {"thread_bound"}  # arguments that mean nothing to an asyncio client
PICKLED = PACKAGE / "codecs" / "pickled.py"  # for who asks for it
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "base_utils"}

PYTHON = sorted(PACKAGE.rglob("*.py"))
CYTHON = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".pyx", ".pxd", ".pyi"))
INCLUDED = sorted(PACKAGE.rglob("*.pxi"))
C_CORE = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".c", ".h"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
C_TESTS = sorted(path for path in (ROOT / "tests").rglob("*") if path.suffix in (".c", ".h"))
SOURCES = [*PYTHON, *CYTHON, *INCLUDED, *C_CORE, *TESTS]


def short(path: Path) -> str:
    """A test id."""
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(), str(path))


def room(path: Path) -> str:
    """Where a file is: a folder of the package, or the name of a module beside them."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.partition(".")[0]


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, at whatever depth."""
    if path.suffix in (".pyx", ".pxd"):
        yield from re.findall(r"^\s*(?:from|c?import)\s+([\w.]+)", path.read_text(), re.MULTILINE)
        return
    package = ("kvserve", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*parent, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}"


def rooms_imported(path: Path) -> set[str]:
    """The rooms and modules of ours that a file imports; `` is the package's front door."""
    found = set()
    for name in imports(path):
        if name.split(".")[0] == "kvserve":
            part = name.removeprefix("kvserve.").split(".")[0]
            found.add(part if part in {*GROUND_FLOOR, *ROOMS} else "")
    return found


def allowed(own: str) -> set[str]:
    """What the files of a room may import."""
    if own == "protocol":
        return PROTOCOL_MAY_IMPORT
    if own in GROUND_FLOOR:
        return GROUND_FLOOR
    return {own, *GROUND_FLOOR, *(FRONT_DOOR | ROOMS)[own]}


def modules_imported(path: Path, modules: set[str]) -> set[str]:
    """The modules of ours that a file imports; not the packages that they are in."""
    found = set()
    for name in imports(path):
        module = name if name in modules else name.rpartition(".")[0]
        if module in modules:
            found.add(module)
    return found


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The modules that lead back to themselves."""
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_there_is_something_to_check() -> None:
    assert len(PYTHON) > 10
    assert {room(path) for path in PYTHON} >= {"protocol", "errors", "limits", "names"}


@pytest.mark.parametrize("path", [*PYTHON, *CYTHON], ids=short)
def test_imports_go_down(path: Path) -> None:
    own = room(path)
    assert own in {*GROUND_FLOOR, *ROOMS, *FRONT_DOOR}, f"{own} is no room; give it a place here"
    assert rooms_imported(path) <= allowed(own)


def test_no_circle_of_imports() -> None:
    """Neither between rooms nor inside one, also of what is imported late, or for types alone."""
    by_name = {
        ".".join(("kvserve", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in PYTHON
        if path.stem != "__init__"
    }
    graph = {name: modules_imported(path, set(by_name)) for name, path in by_name.items()}
    assert sum(map(len, graph.values())) > 500
    assert circles(graph) == []
    assert circles(graph | {"kvserve.errors": {"kvserve.client.connect"}}) != []


def test_no_room_is_most_of_the_house() -> None:
    """A room that grows beyond this has become two. One that has rooms inside is as many."""
    lines: Counter[str] = Counter()
    for path in [*PYTHON, *CYTHON, *INCLUDED, *C_CORE]:
        lines[short(path.parent)] += len(path.read_text().splitlines())
    assert max(lines.values()) <= ROOM_SHARE_MAX * lines.total(), lines


@pytest.mark.parametrize("path", sorted((PACKAGE / "protocol").glob("*.py")), ids=short)
def test_protocol_does_no_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & PROTOCOL_NEVER_IMPORTS


@pytest.mark.parametrize("path", [*PYTHON, *CYTHON], ids=short)
def test_nothing_is_executed_from_the_cache(path: Path) -> None:
    executing = {name.split(".")[0] for name in imports(path)} & {"pickle", "marshal", "shelve"}
    assert executing == ({"pickle"} if path == PICKLED else set())


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_file_fits_in_a_head(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LINES_MAX
    assert [number for number, line in enumerate(lines, 1) if len(line) > COLUMNS_MAX] == []


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_first_line_says_what_the_file_is_for(path: Path) -> None:
    first = path.read_text().partition("\n")[0]
    opening = {".c": ("/* ",), ".h": ("/* ",), ".pyx": ('"""', "# "), ".pxd": ('"""', "# ")}
    assert first.startswith(opening.get(path.suffix, ('"""', "# ")))
    assert len(first.split()) >= 3


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_file_has_a_telling_name(path: Path) -> None:
    assert path.stem.removeprefix("test_") not in VAGUE_NAMES


@pytest.mark.parametrize("path", [*PYTHON, *TESTS], ids=short)
def test_functions_fit_on_a_screen(path: Path) -> None:
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


@pytest.mark.parametrize("path", [*C_CORE, *CYTHON, *INCLUDED, *C_TESTS], ids=short)
def test_functions_in_c_and_the_skin_fit_on_a_screen(path: Path) -> None:
    """A function in C ends with the first brace in column 0, one of the skin where it is left."""
    lines = path.read_text().splitlines()
    bodies = c_bodies(lines) if path.suffix in (".c", ".h") else skin_bodies(lines)
    assert {name: count for name, count in bodies if count > FUNCTION_LINES_MAX} == {}


def c_bodies(lines: list[str]) -> Iterator[tuple[str, int]]:
    """Each function's first line, and how many lines it has."""
    begin = None
    for number, line in enumerate(lines):
        if line.endswith("{") and re.match(r"\w.*\)? \{$|\s+.*\) \{$", line) and begin is None:
            begin = number
        elif line.startswith("}") and begin is not None:
            yield lines[begin], number - begin + 1
            begin = None


def skin_bodies(lines: list[str]) -> Iterator[tuple[str, int]]:
    """Each function's first line, and how many lines it has, up to its last that is not blank."""
    for number, line in enumerate(lines):
        if found := re.match(r"(\s*)(?:c|cp)?def (?!class ).*\(", line):
            indent = len(found[1])
            last = number
            for follower in range(number + 1, len(lines)):
                text = lines[follower]
                if text.strip() and len(text) - len(text.lstrip()) <= indent and text[0] != ")":
                    break
                if text.strip():
                    last = follower
            yield line, last - number + 1


@pytest.mark.parametrize("path", PYTHON, ids=short)
def test_no_mutable_state_in_modules_and_classes(path: Path) -> None:
    """A constant in capitals may be a table; anything else that can change belongs to an object."""
    scopes: list[ast.Module | ast.ClassDef] = [tree(path)]
    scopes += [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    mutable = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    for scope in scopes:
        for node in scope.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, mutable):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [ast.unparse(target) for target in targets]
                assert all(name.isupper() or name == "__all__" for name in names), names
    assert not [node.names for node in ast.walk(tree(path)) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("path", PYTHON, ids=short)
def test_every_public_thing_in_the_package_has_types(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.returns is not None, node.name


def public_names() -> list[str]:
    """What users import from kvserve."""
    import kvserve

    return sorted(kvserve.__all__)


def documented() -> list[tuple[str, Any]]:
    """The public names, and the public methods of those that are classes of ours."""
    import kvserve

    found: list[tuple[str, Any]] = []
    for name in public_names():
        thing = getattr(kvserve, name)
        found.append((name, thing))
        if inspect.isclass(thing) and not issubclass(thing, BaseException):
            found += [
                (f"{name}.{attribute}", member)
                for attribute, member in vars(thing).items()
                if not attribute.startswith("_") and callable(member)
            ]
    return found


def test_every_public_name_exists_and_is_documented() -> None:
    missing = [
        name
        for name, thing in documented()
        if callable(thing) and not (inspect.getdoc(thing) or "").strip()
    ]
    assert missing == []


def test_dir_lists_every_public_name() -> None:
    import kvserve

    assert {*kvserve.__all__, "__version__"} <= set(dir(kvserve))


def test_every_public_name_has_an_example() -> None:
    """Either a doctest, or, where a server must run, an indented block after `Example:`."""
    missing = []
    for name, thing in documented():
        error = inspect.isclass(thing) and issubclass(thing, BaseException)
        if not callable(thing) or "." in name or error:
            continue
        document = inspect.getdoc(thing) or ""
        if not (">>>" in document or re.search(r"Examples?:+\n+    \S", document)):
            missing.append(name)
    assert missing == []


def public_methods(kind: type) -> dict[str, Any]:
    """What a class offers, its own and what it inherits."""
    return {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}


def twins() -> list[tuple[str, Any, Any]]:
    """Each method of a blocking class, and the asyncio class's of the same name."""
    import kvserve
    from kvserve.client.aio.locks import AsyncLimiter, AsyncLock
    from kvserve.client.aio.namespaces import AsyncNamespace
    from kvserve.client.blocking.locks import Limiter, Lock
    from kvserve.client.blocking.namespaces import Namespace

    pairs = (
        (kvserve.Client, kvserve.AsyncClient), (Namespace, AsyncNamespace), (Lock, AsyncLock),
        (Limiter, AsyncLimiter),
    )  # fmt: skip
    found = []
    for blocking, aio in pairs:
        ours, theirs = public_methods(blocking), public_methods(aio)
        assert set(ours) == set(theirs), f"{blocking.__name__} and {aio.__name__}"
        found += [(f"{blocking.__name__}.{name}", ours[name], theirs[name]) for name in ours]
    return found


@pytest.mark.parametrize(("name", "blocking", "aio"), twins(), ids=lambda each: str(each)[:40])
def test_both_clients_take_the_same_arguments(name: str, blocking: Any, aio: Any) -> None:
    if not callable(blocking):
        assert not callable(aio)
        return
    ours = [
        each
        for each in inspect.signature(blocking).parameters.values()
        if each.name not in ABOUT_THREADS
    ]
    theirs = list(inspect.signature(aio).parameters.values())
    assert [each.name for each in ours] == [each.name for each in theirs], name
    for parameter, other in zip(ours, theirs, strict=True):
        assert (parameter.kind, parameter.default) == (other.kind, other.default), name


@pytest.mark.parametrize(("name", "blocking", "aio"), twins(), ids=lambda each: str(each)[:40])
def test_both_clients_are_documented(name: str, blocking: Any, aio: Any) -> None:
    """The asyncio one in its own words, or by naming where the same is said."""
    if callable(blocking):
        assert (inspect.getdoc(blocking) or "").strip(), name
        assert (inspect.getdoc(aio) or "").strip(), name


def test_every_error_can_be_imported_from_the_front_door() -> None:
    import kvserve
    from kvserve.errors import BY_WIRE_CODE

    missing = [
        kind.__name__ for kind in BY_WIRE_CODE.values() if not hasattr(kvserve, kind.__name__)
    ]
    assert missing == []

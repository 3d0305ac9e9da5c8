"""Which functions can be memoized without key=: two that may differ never share a name."""

from __future__ import annotations

import datetime
import functools
import operator
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvserve.client.recipes.function_names import function_name
from kvserve.client.recipes.memoize import CallKeys
from kvserve.errors import InvalidArgument

HERE = __name__


class Base:
    """A class with every kind of method."""

    def plain(self, number: int = 0) -> int:
        """A method."""
        return number

    @classmethod
    def create(cls, number: int = 0) -> int:
        """A classmethod, which subclasses inherit."""
        return number

    @staticmethod
    def static(number: int = 0) -> int:
        """A function."""
        return number

    def closure(self) -> Callable[[], int]:
        """A function that has the object from around it."""

        def load() -> int:
            return self.plain()

        return load


class Sub(Base):
    """Inherits."""


def maker(what: Any) -> Callable[[], Any]:
    """A function that has what it was made with."""

    def load() -> Any:
        return what

    return load


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as most are."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def careless(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that does not say what it decorates."""

    def call(*args: Any) -> Any:
        return function(*args)

    return call


def supplying(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that supplies the first argument."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function("connection", *args, **kwargs)

    return call


def load(connection: Any, a: int = 1, b: int = 2) -> tuple[Any, int, int]:
    """What is decorated."""
    return connection, a, b


def other() -> None:
    """Another function."""


def test_names_of_functions_that_have_one() -> None:
    assert function_name(load) == f"{HERE}.load"
    assert function_name(Base.static) == function_name(Base().static) == f"{HERE}.Base.static"
    assert function_name(Base.plain) == function_name(Sub.plain) == f"{HERE}.Base.plain"
    assert function_name(decorated(load)) == f"{HERE}.load"
    assert function_name(functools.lru_cache(load)) == f"{HERE}.load"
    assert function_name(len) == "builtins.len"


def test_inherited_classmethods_are_two() -> None:
    assert function_name(Base.create) == f"{HERE}.Base.create"
    assert function_name(Sub.create) == f"{HERE}.Sub.create"
    assert function_name(dict.fromkeys) == "builtins.dict.fromkeys"


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (Base().plain, "is bound to a Base"),
        (decorated(Base().plain), "depends on 'function' around it, which is bound to a Base"),
        (functools.lru_cache(Base().plain), "bound to a Base"),
        ("text".upper, "is bound to a str"),
        ([].append, "is bound to a list"),
        (Base().closure(), "depends on 'self' around it"),
        (maker(Base().plain), "depends on 'what' around it, which is bound to a Base"),
        (maker(lambda: 1), "depends on 'what' around it, which has no name of its own"),
        (careless(lambda: 1), "depends on 'function' around it"),
        (lambda: 1, "has no name of its own"),
        (functools.partial(load, 1), "has no name of its own"),
        (operator.itemgetter(1), "has no name of its own"),
        (types.FunctionType(load.__code__, {}), "belongs to no module"),
    ],
)
def test_functions_that_share_their_names_are_refused(function: Any, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{why}.*; give key="):
        function_name(function)
    assert CallKeys(function, lambda *_: "key", typed=False)() == "key"


@pytest.mark.parametrize("kind", [classmethod, staticmethod, property])
@pytest.mark.parametrize("key", [None, lambda *_: "key"])
def test_memoize_belongs_below_what_makes_methods(kind: Any, key: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"memoize belongs below @{kind.__name__}"):
        CallKeys(kind(load), key, typed=False)


def test_what_a_function_was_made_with_tells_it_from_others() -> None:
    values = [
        1, 2, True, 1.0, "a", b"a", None, ("a",), ["a"], {"a": 1}, datetime.date(2026, 1, 1),
        load, other, decorated(other), Base, Sub, Base.create, Sub.create, maker(1), maker(2),
        careless(load), careless(other),
    ]  # fmt: skip
    names = [function_name(maker(value)) for value in values]
    assert len(set(names)) == len(values) - 1  # decorated(other) is other
    assert names == [function_name(maker(value)) for value in values]
    assert function_name(careless(load)) != function_name(careless(other))
    assert function_name(functools.cache(maker(1))) != function_name(functools.cache(maker(2)))
    # What is no data is left out, as docs/recipes.md says.
    assert function_name(maker(object())) == function_name(maker(Path())) == f"{HERE}.{load_name}"


load_name = "maker.<locals>.load"


def test_functions_made_in_a_loop_differ_in_their_defaults() -> None:
    made = []
    for number in range(3):

        def scaled(value: int, by: int = number) -> int:
            return value * by

        made.append(CallKeys(scaled, None, typed=False))
    assert len({keys(7) for keys in made}) == 3


def test_decorator_that_supplies_an_argument() -> None:
    keys = CallKeys(supplying(load), None, typed=False)
    calls = [((5,), {}), ((5, 2), {}), ((5, 1), {}), ((), {"a": 5}), ((), {})]
    found = [keys(*args, **kwargs) for args, kwargs in calls]
    assert len(set(found)) == len(calls)
    assert found[0] == f"kvserve:memo:{HERE}.load(args=(5),kwargs={{}})"


def test_function_that_does_not_say_its_arguments() -> None:
    with pytest.raises(InvalidArgument, match=r"does not say which arguments.*key="):
        CallKeys(max, None, typed=False)


def test_long_and_strange_names_are_hashed() -> None:
    def long() -> None: ...

    for name in ("x" * 5000, "\udcff"):
        long.__qualname__ = name
        key = CallKeys(long, None, typed=False)()
        assert len(key.encode()) < 100


@pytest.mark.parametrize("surrogates", ["\ud83d\ude00", "a\ud83d\ude00b", "\ud83d\ude00\ude00"])
def test_surrogates_are_not_the_character_that_they_stand_for(surrogates: str) -> None:
    keys = CallKeys(other_with, None, typed=False)
    character = surrogates.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    others = [surrogates, character, repr(surrogates)[1:-1], "\\ud83d\\ude00", "\\u{d83d}\\u{de00}"]
    found = [keys(each) for each in [*others, "\ud83d", "\ude00", "\ude00\ud83d"]]
    assert len(set(found)) == len({*others, 1, 2, 3})
    assert all(key.encode().isascii() for key in found)


def other_with(text: str) -> None:
    """One argument."""


PROGRAM = """
import enum, sys
from kvserve.client.recipes.memoize import CallKeys
from kvserve.errors import InvalidArgument
class Color(enum.Enum):
    RED = 1
def load(color=None): ...
def show(*arguments):
    try:
        print(CallKeys(load, None, typed=False)(*arguments))
    except InvalidArgument as error:
        print("refused:", error)
if __name__ == "__main__":
    show()
    load.__module__ = "shop"  # as if it were imported: only the class is the script's
    show(Color.RED)
"""


@pytest.mark.parametrize(
    "command", [["-c", PROGRAM], ["-"], ["/dev/stdin"]], ids=["-c", "a pipe", "/dev/stdin"]
)
def test_what_comes_from_no_file_is_refused(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *command], input=PROGRAM, cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    function, color = done.stdout.splitlines()
    assert function.startswith("refused: memoize: load comes from no file")
    assert color.startswith("refused: memoize: argument 'color' is or contains a Color, which come")
    assert function.endswith("give key=")


def test_heredoc_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """bash may write one into a file that it removes at once."""
    script = tmp_path / "deleted"
    script.write_text(PROGRAM)
    with script.open() as opened:
        script.unlink()
        done = subprocess.run(
            [sys.executable, "/dev/stdin"], stdin=opened, capture_output=True, text=True, check=True
        )
    assert [line[:9] for line in done.stdout.splitlines()] == ["refused: "] * 2


def test_script_and_its_children_agree(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        PROGRAM.replace("    load.__mod", "    show(Color.RED)\n    load.__mod")
        + "    import multiprocessing\n"
        "    for method in ('spawn', 'forkserver', 'fork'):\n"
        "        context = multiprocessing.get_context(method)\n"
        "        sys.stdout.flush()\n"
        "        child = context.Process(target=show, args=(Color.RED,))\n"
        "        load.__module__ = '__main__'\n"
        "        child.start(); child.join()\n"
    )
    done = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    name = f'{script}.load(color={script}.Color("RED"))'
    assert lines[0] == f"kvserve:memo:{script}.load(color=None)"
    assert lines[1:2] + lines[3:] == [f"kvserve:memo:{name}"] * 4

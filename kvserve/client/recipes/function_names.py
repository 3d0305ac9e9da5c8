"""Names of functions and classes that mean the same in every process; the rest is refused.

A name is the module and the qualified name; in a script, the script's path is the module. What a
function captured from the functions around it is part of its name: two functions that differ in
that have different names.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from kvserve.client.recipes.arguments import canonical
from kvserve.client.recipes.scripts import Unsupported, class_name, module_name
from kvserve.errors import InvalidArgument

_NESTING_MAX = 16  # functions around functions
_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)


def function_name(function: Callable[..., Any]) -> str:
    """The name of a function.

    Raises:
        InvalidArgument: it has none, or one that others share: a lambda, a method that is bound to
            an object, a function that was typed or piped into Python, or that captured the object
            of a method.

    Example:
        >>> function_name(function_name)
        'kvserve.client.recipes.function_names.function_name'
    """
    try:
        return _with_surroundings(function, _NESTING_MAX)
    except Unsupported as error:
        raise InvalidArgument(f"memoize: {_shown(function)} {error}; give key=") from None


def _with_surroundings(function: Callable[..., Any], depth: int) -> str:
    name = _own_name(function)
    captured = _captured(function, name, depth)
    return f"{name}[{captured}]" if captured else name


def _own_name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None)
    owner = getattr(function, "__self__", None)
    if not isinstance(name, str) or "<lambda>" in name:
        raise Unsupported("has no name of its own")
    if isinstance(owner, type):  # a classmethod, which a subclass has as well
        return f"{class_name(owner)}.{name.rpartition('.')[2]}"
    if owner is not None and not inspect.ismodule(owner):
        raise Unsupported(f"is bound to a {type(owner).__qualname__}, and others to others")
    module = getattr(function, "__module__", None)
    code = _code(inspect.unwrap(function))
    if not module or (module == "builtins" and code):  # by exec, with no name for the module
        raise Unsupported("belongs to no module")
    return f"{module_name(module, code.co_filename if code else None)}.{name}"


def _code(function: Any) -> types.CodeType | None:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code if isinstance(code, types.CodeType) else None


def _captured(function: Any, name: str, depth: int) -> str:
    """What the function captured from the functions around it, as text: data, functions, classes.

    Other objects (connections, files, a client) are left out, unless it is the object of a method.
    """
    parts = []
    for variable, value in _surroundings(function):
        if value is function:
            continue
        text = _captured_text(variable, value, depth)
        if text and text != name:  # its decorator's, which has the function's own name
            parts.append(f"{variable}={text}")
    return ",".join(parts)


def _surroundings(function: Any) -> Iterator[tuple[str, Any]]:
    """The variables that a function captured, and their present values."""
    code = _code(function)
    if code is None and hasattr(function, "__wrapped__"):  # functools.cache, a decorating class
        yield "__wrapped__", function.__wrapped__
    cells = getattr(function, "__closure__", None) or ()
    for variable, cell in zip(code.co_freevars if code else (), cells, strict=False):
        # Still empty, like the class of a method that is being defined.
        with suppress(ValueError):
            yield variable, cell.cell_contents


def _captured_text(variable: str, value: Any, depth: int) -> str:
    if variable == "__wrapped__" or isinstance(value, _FUNCTIONS):
        try:
            if not depth:
                raise Unsupported("is inside of too many others")
            return _with_surroundings(value, depth - 1)
        except Unsupported as error:
            if variable == "__wrapped__":
                raise
            raise Unsupported(f"depends on {variable!r} around it, which {error}") from None
    if isinstance(value, type):
        return class_name(value)
    try:
        return canonical(value, typed=True)
    except (Unsupported, RecursionError):
        if variable in ("self", "cls"):
            raise Unsupported(f"depends on {variable!r} around it, an object") from None
        return ""


def _shown(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)

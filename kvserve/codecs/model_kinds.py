"""What a model is made of: the fields of a dataclass, a named tuple, a pydantic or msgspec model.

An object is taken apart into its fields and made of them again without its `__init__`, so that it
comes back as it was, whatever that does. Only msgspec's `__post_init__` runs. pydantic and msgspec
are not imported: who has a model of theirs has imported them.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

Fields = dict[str, Any]


class ModelKind(NamedTuple):
    """A type, how its objects are taken apart, and made again."""

    name: str
    kind: type
    store: Callable[[Any], Any]
    restore: Callable[[Any], Any]


def kind_of(kind: type) -> ModelKind | None:
    """How a type is stored; None if it is no model.

    Raises:
        TypeError: it is one, but its objects are more than their fields.
    """
    name = f"{kind.__module__}.{kind.__qualname__}"
    if issubclass(kind, enum.Enum):
        return ModelKind(name, kind, *_of_enum(kind))
    if issubclass(kind, tuple):
        names = getattr(kind, "_fields", None)
        return ModelKind(name, kind, *_of_named_tuple(kind, names)) if names is not None else None
    if _is_subclass(kind, "pydantic", "BaseModel"):
        return ModelKind(name, kind, *_of_pydantic(kind))
    if _is_subclass(kind, "msgspec", "Struct"):
        return ModelKind(name, kind, *_of_msgspec(kind))
    if dataclasses.is_dataclass(kind):
        return ModelKind(name, kind, *_of_dataclass(kind))
    return None


def annotations_of(kind: Any) -> list[Any]:
    """What the fields of a type are annotated with; names for type checkers alone are left out."""
    if _is_subclass(kind, "pydantic", "BaseModel"):
        return [field.annotation for field in kind.model_fields.values()]
    try:
        return list(typing.get_type_hints(kind).values())
    except Exception:  # a name that is not there
        return list(getattr(kind, "__annotations__", {}).values())


def _is_subclass(kind: type, module: str, base: str) -> bool:
    found = getattr(sys.modules.get(module), base, None)
    return isinstance(found, type) and issubclass(kind, found)


def _of_enum(kind: type[enum.Enum]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    if issubclass(kind, enum.Flag):  # whose members can be combined
        return (lambda member: member.value), (lambda value: kind(_of_type(int, value)))
    return (lambda member: member.name), (lambda name: kind[_of_type(str, name)])


def _of_named_tuple(
    kind: Any, names: tuple[str, ...]
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    def store(value: Any) -> Fields:
        _require_nothing_else(value, frozenset())
        return dict(zip(names, tuple.__iter__(value), strict=True))

    def restore(fields: Any) -> Any:
        checked = _checked(fields, frozenset(names))
        return tuple.__new__(kind, [checked[name] for name in names])

    return store, restore


def _of_dataclass(kind: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    if kind.__new__ is not object.__new__:
        raise TypeError(f"{kind.__qualname__} has a __new__ of its own, or a base that has one")
    names = frozenset(field.name for field in dataclasses.fields(kind))

    def store(value: Any) -> Fields:
        _require_nothing_else(value, names)
        return {name: getattr(value, name) for name in names}

    def restore(fields: Any) -> Any:
        made = object.__new__(kind)
        for name, value in _checked(fields, names).items():
            object.__setattr__(made, name, value)
        return made

    return store, restore


def _of_msgspec(kind: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    force: Callable[[Any, str, Any], None] = sys.modules["msgspec"].structs.force_setattr
    names = frozenset(kind.__struct_fields__)

    def store(value: Any) -> Fields:
        _require_nothing_else(value, names)
        return {name: getattr(value, name) for name in names}

    def restore(fields: Any) -> Any:
        checked = _checked(fields, names)
        made = kind(**checked)  # there is no other way
        for name, value in checked.items():  # whatever its __post_init__ has made of them
            force(made, name, value)
        return made

    return store, restore


def _of_pydantic(kind: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The state that pydantic itself gives for copies; the fields are not validated again."""

    def store(value: Any) -> Fields:
        state = value.__getstate__()
        names = kind.model_fields.keys()
        fields = {name: item for name, item in state["__dict__"].items() if name in names}
        _require_nothing_else(value, names)
        return {
            "fields": fields,
            "extra": state.get("__pydantic_extra__"),  # a RootModel has none
            "set": set(state["__pydantic_fields_set__"]),
            "private": state.get("__pydantic_private__"),
        }

    def restore(stored: Any) -> Any:
        state = _checked(stored, frozenset(("fields", "extra", "set", "private")))
        made = kind.__new__(kind)
        made.__setstate__(
            {
                "__dict__": _checked(state["fields"], kind.model_fields.keys()),
                "__pydantic_extra__": state["extra"],
                "__pydantic_fields_set__": _of_type(set, state["set"]),
                "__pydantic_private__": state["private"],
            }
        )
        return made

    return store, restore


def _checked(fields: Any, names: Any) -> Fields:
    """The fields themselves. Raises ValueError if they are not those of the type, as it is now."""
    found: Fields = _of_type(dict, fields)
    if found.keys() != names:
        differing = ", ".join(sorted(map(str, found.keys() ^ names)))
        raise ValueError(f"the type has other fields now: {differing:.200}")
    return found


def _of_type(kind: type, found: Any) -> Any:
    if type(found) is not kind:
        raise ValueError(f"a {type(found).__qualname__} where a {kind.__qualname__} belongs")
    return found


def _require_nothing_else(value: Any, names: Any) -> None:
    """Raises TypeError if an object has more attributes than its fields.

    What a functools.cached_property keeps is left out: it is computed again.
    """
    kind = type(value)
    for name in getattr(value, "__dict__", {}):
        if name not in names and not isinstance(
            getattr(kind, name, None), functools.cached_property
        ):
            raise TypeError(f"this {kind.__qualname__} has an attribute that is no field: {name}")

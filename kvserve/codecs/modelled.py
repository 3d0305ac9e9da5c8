"""Models as a codec: dataclasses, named tuples, enums, pydantic and msgspec models.

What is stored is msgpack as of codec 3, in which each tuple is a pair: what a thing is, and what it
holds. So nothing that is plain can be taken for a model. A model is named, and only the types that
this client was given are looked for: a payload imports nothing.
"""

from __future__ import annotations

import typing
from typing import Any

from kvserve.codecs.leaves import LEAVES, NAMES
from kvserve.codecs.model_kinds import ModelKind, annotations_of, kind_of
from kvserve.errors import InvalidArgument
from kvserve.protocol.codec import MSGPACK, decode, encode_exactly

NUMBER = 66
_PLAIN = frozenset((str, bytes, float, bool, type(None)))
_CONTAINERS = {"tuple": tuple, "set": set, "frozenset": frozenset}
_MODEL = "="  # before a model's name


def models(*kinds: Any) -> Models:
    """A codec that carries objects of your types, and brings them back as those.

    It carries dataclasses, named tuples, enums, and pydantic's and msgspec's models, inside of each
    other and of lists, tuples, dicts and sets; with them date, time, datetime of any zone,
    timedelta, Decimal, UUID, complex and bytearray. An object comes back without running its
    `__init__` or its validators; only the `__post_init__` of a msgspec.Struct runs. No code of a
    payload is executed, and a payload can make objects of these types only, though with any
    content.

    Args:
        kinds: the types, or annotations such as `list[User]`. The types that their fields name
            are taken with them. A TypedDict stands for the types of its fields. What functions
            return that the client's `memoize` decorates need not be named, if it is annotated.

    Raises:
        InvalidArgument: one is no such type, or two have the same name.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class User:
        ...     name: str
        ...     tags: set[str]
        >>> with kvserve.connect(codec=kvserve.codecs.models(User)) as typed:
        ...     _ = typed.set("user:1", User("Ada", {"admin"}))
        ...     typed.get("user:1")
        User(name='Ada', tags={'admin'})
    """
    codec = Models()
    for kind in kinds:
        if not codec.learn(kind):
            raise InvalidArgument(
                f"models: {kind!r:.80} is, or names, no dataclass, NamedTuple, TypedDict, Enum, "
                "or model of pydantic or msgspec"
            )
    if codec.replaced:
        raise InvalidArgument(
            f"models: two types have the name {codec.replaced[0]}: give each its own"
        )
    return codec


class Models:
    """Objects of registered types; made by `models`."""

    name = "models"
    number = NUMBER

    def __init__(self) -> None:
        self._kinds: dict[type, ModelKind] = {}
        self._by_name: dict[str, ModelKind] = {}
        self.replaced: list[str] = []  # names of which a newer type was learned

    def encode(self, value: Any, /) -> bytes:
        """A value as msgpack with names of types."""
        number, payload = encode_exactly([self._stored(value)])
        assert number == MSGPACK
        return payload

    def decode(self, data: bytes, /) -> Any:
        """The value of that. Raises ValueError."""
        (stored,) = decode(MSGPACK, data)
        return self._restored(stored)

    def learn(self, annotation: Any, /) -> bool:
        """Carries the types that an annotation names from now on; returns whether it names some.

        A type of a name that another one had, such as a class of a module that was loaded again,
        takes its place: objects of the older one are refused from then on.

        Raises:
            InvalidArgument: the objects of one are more than their fields.
        """
        origin = typing.get_origin(annotation)
        if origin is not None:
            found = [self.learn(each) for each in (origin, *typing.get_args(annotation))]
            return any(found)
        plain = getattr(annotation, "__supertype__", getattr(annotation, "__value__", None))
        if plain is not None and not isinstance(annotation, type):  # a NewType, a `type X = ...`
            return self.learn(plain)
        if not isinstance(annotation, type):
            return False
        if annotation in self._kinds:
            return True
        if typing.is_typeddict(annotation):
            self._learn_fields(annotation)
            return True
        return self._learn_model(annotation)

    def _learn_model(self, kind: type) -> bool:
        try:
            model = kind_of(kind)
        except TypeError as error:
            raise InvalidArgument(f"models: {error}") from None
        if model is None:
            return False
        older = self._by_name.get(model.name)
        if older is not None:
            self._kinds.pop(older.kind, None)
            self.replaced.append(model.name)
        self._by_name[model.name] = model
        self._kinds[kind] = model
        self._learn_fields(kind)
        return True

    def _learn_fields(self, kind: type) -> None:
        for hint in annotations_of(kind):
            self.learn(hint)

    def _stored(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is int:
            return value if -(2**63) <= value < 2**64 else ("int", hex(value))
        if kind is list:
            return [self._stored(item) for item in value]
        if kind is dict:
            return self._stored_dict(value)
        if kind in (tuple, set, frozenset):
            return kind.__name__, [self._stored(item) for item in value]
        if kind in NAMES:
            return NAMES[kind], self._stored(LEAVES[NAMES[kind]].store(value))
        model = self._kinds.get(kind)
        if model is None:
            raise TypeError(
                f"a {kind.__module__}.{kind.__qualname__} is not known to it: if that is a model, "
                f"use kvserve.codecs.models({kind.__qualname__}, ...)"
            )
        return _MODEL + model.name, self._stored(model.store(value))

    def _stored_dict(self, value: dict[Any, Any]) -> Any:
        if all(type(name) is str for name in value):
            return {name: self._stored(item) for name, item in value.items()}
        return "dict", [[self._stored(name), self._stored(item)] for name, item in value.items()]

    def _restored(self, stored: Any) -> Any:
        kind = type(stored)
        if kind is list:
            return [self._restored(item) for item in stored]
        if kind is dict:
            return {name: self._restored(item) for name, item in stored.items()}
        if kind is not tuple:
            return stored
        name, held = stored
        if name == "int":
            return int(held, 16)
        model = self._by_name.get(name.removeprefix(_MODEL)) if name[:1] == _MODEL else None
        if model is None and name[:1] == _MODEL:
            raise ValueError(
                f"it holds a {name[1:]!r:.80}, which this client was not given: use "
                "kvserve.codecs.models(...) with it"
            )
        content = self._restored(held)
        if model is not None:
            return model.restore(content)
        if name == "dict" or name in _CONTAINERS:
            if type(content) is not list:
                raise ValueError(f"a {name} that is no list of items")
            return dict(content) if name == "dict" else _CONTAINERS[name](content)
        if name in LEAVES:
            return LEAVES[name].restore(content)
        raise ValueError(f"a newer kvserve wrote it: {name!r:.80}")

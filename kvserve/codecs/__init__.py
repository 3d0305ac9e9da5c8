"""Codecs for `kvserve.connect(codec=...)`: how values that kvserve does not carry are stored.

| codec | carries | needs trust |
| --- | --- | --- |
| `json()` | what JSON has, and what your functions make of it | none |
| `models()` | dataclasses, named tuples, pydantic and msgspec models, enums, dates | none |
| `pickle()` | almost everything | whoever can write into the cache runs code in each reader |

Each is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvserve.codecs.as_json import json
    from kvserve.codecs.modelled import models
    from kvserve.codecs.pickled import pickle
    from kvserve.protocol.own import Codec

__all__ = ["Codec", "json", "models", "pickle"]

_LATE = {
    "Codec": "kvserve.protocol.own",
    "json": "kvserve.codecs.as_json",
    "models": "kvserve.codecs.modelled",
    "pickle": "kvserve.codecs.pickled",
}


def __dir__() -> list[str]:
    """The names that `__getattr__` imports at first use, too."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Imports a codec at its first use, and keeps it."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LATE[name]), name)
    globals()[name] = value
    return value

"""JSON as a codec: text that other programs read, and nothing that JSON would change silently."""

from __future__ import annotations

import json as _json
from collections.abc import Callable
from typing import Any

NUMBER = 65
_PLAIN = frozenset((str, int, float, bool, type(None)))


def json(
    default: Callable[[Any], Any] | None = None,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
) -> Json:
    """A codec that stores as JSON what kvserve does not carry, with the help of your functions.

    JSON itself has str, int, float, bool, None, list, and dict with keys of str: these come back
    as they were, by exact type. Anything else, at any depth, goes to `default`: a tuple, an
    OrderedDict or a member of an IntEnum, too, which the standard library would change silently.

    Args:
        default: makes of a value that JSON does not have one that it has, or raises TypeError.
            None: such values are refused with InvalidValue.
        object_hook: is called with each dict that was read, and returns what stands for it.

    Example:
        >>> import datetime
        >>> def default(value):
        ...     if isinstance(value, datetime.date):
        ...         return {"$date": value.isoformat()}
        ...     raise TypeError(f"not a date: {value!r}")
        >>> def object_hook(found):
        ...     date = found.get("$date")
        ...     return found if date is None else datetime.date.fromisoformat(date)
        >>> codec = kvserve.codecs.json(default, object_hook)
        >>> with kvserve.connect(codec=codec) as dated:
        ...     _ = dated.set("trip", {"from": datetime.date(2026, 7, 1)})
        ...     dated.get("trip")
        {'from': datetime.date(2026, 7, 1)}
    """
    return Json(default, object_hook)


class Json:
    """Values as JSON; made by `json`."""

    name = "json"
    number = NUMBER

    def __init__(
        self,
        default: Callable[[Any], Any] | None,
        object_hook: Callable[[dict[str, Any]], Any] | None,
    ) -> None:
        self._default = default
        self._object_hook = object_hook

    def encode(self, value: Any, /) -> bytes:
        """A value as JSON in ASCII."""
        return _json.dumps(self._plain(value), separators=(",", ":")).encode()

    def decode(self, data: bytes, /) -> Any:
        """What the JSON says."""
        return _json.loads(data, object_hook=self._object_hook)

    def _plain(self, value: Any) -> Any:
        """The value of exact types that JSON has. Raises TypeError."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is list:
            return [self._plain(item) for item in value]
        if kind is dict and all(type(name) is str for name in value):
            return {name: self._plain(item) for name, item in value.items()}
        if self._default is None:
            what = "a dict with keys that are no str" if kind is dict else f"a {kind.__qualname__}"
            raise TypeError(f"JSON has no form for {what}, and the codec no `default`")
        return self._plain(self._default(value))

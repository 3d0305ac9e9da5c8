"""Writes raw bytes, lines and JSON to standard output. All commands print through this module.

Everything is written as bytes, in UTF-8 whatever the locale says, so that a value comes out of
`kvserve get` as it went into `kvserve set`.

A stored value must neither control the terminal of a person who looks at it, nor forge a line that
a script reads: control characters are escaped in lines, see kvserve.escaping, and on a terminal in
values, too. A single value that goes to a file or a pipe is written as it was stored.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
import sys
from typing import Any, NamedTuple

from kvserve.escaping import decoded, escaped, json_escaped, visible
from kvserve.protocol import arrays

# As JavaScript spells them, which is what most readers of JSON know.
_NAMES_OF_FLOATS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def on_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def write(data: bytes) -> None:
    """Writes bytes as they are."""
    sys.stdout.buffer.write(data)


def write_value(value: Any) -> None:
    """Writes a value as `kvserve get` does: on a terminal escaped and with a newline added."""
    data = value_bytes(value)
    write(_for_terminal(data, keep="\n\t") + b"\n" if on_terminal() else data)


def write_line(*fields: str | bytes) -> None:
    """Writes a line of text, with a tab between its fields; tabs stay only in the last one."""
    *first, last = fields
    line = [line_bytes(field) for field in first] + [line_bytes(last, keep="\t")]
    write(b"\t".join(line) + b"\n")


def write_json(value: Any) -> None:
    """Writes a line of JSON; `value` may hold whatever the cache holds."""
    write(json_text(value).encode() + b"\n")


def line_bytes(field: str | bytes, keep: str = "") -> bytes:
    """A text or a key as a part of a line.

    Args:
        field: bytes that are not UTF-8 stay, except on a terminal.
        keep: control characters that stay as well.

    Example:
        >>> line_bytes("user:1"), line_bytes(b"raw-\\xff"), line_bytes("a\\tb", keep="\\t")
        (b'user:1', b'raw-\\xff', b'a\\tb')
    """
    if on_terminal():
        return _for_terminal(field, keep)
    return escaped(_text(field), keep).encode("utf-8", "surrogateescape")


def _for_terminal(field: str | bytes, keep: str) -> bytes:
    return visible(_text(field), keep).encode()


def _text(field: str | bytes) -> str:
    return field if isinstance(field, str) else field.decode("utf-8", "surrogateescape")


def say(text: str) -> None:
    """Prints why there is no output, if on a terminal; a script reads the exit status."""
    if sys.stderr.isatty():
        print(f"kvserve: {text}", file=sys.stderr)


def parse_key(text: str) -> str | bytes:
    """The key or value that an argument stands for: text, or bytes where it is not UTF-8.

    The client decides which keys are allowed.

    Example:
        >>> parse_key("user:1"), parse_key("\\udcff")  # Python's stand-in for the byte 255
        ('user:1', b'\\xff')
    """
    text = decoded(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
    return text


def key_bytes(key: str | bytes) -> bytes:
    """A key as bytes, as it is stored."""
    return key if isinstance(key, bytes) else key.encode()


def key_json(key: str | bytes) -> str | bytes:
    """A key for `write_json`: text if it is UTF-8, since str and bytes keys are the same."""
    if isinstance(key, bytes):
        try:
            return key.decode()
        except UnicodeDecodeError:
            return key
    return key


def value_bytes(value: Any) -> bytes:
    """A value as `kvserve get` prints it: str and bytes as they are, anything else as JSON."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json_text(value)).encode()


def json_text(value: Any) -> str:
    """A stored value as JSON.

    Types that JSON lacks are rewritten: a datetime as ISO 8601 text, bytes as an object with their
    base64, NaN and the infinities as an object with their name, arrays of numbers as an object with
    their dtype, shape and base64, tuples as JSON's arrays, and keys that are no str as text. All
    control characters are escaped, including those beyond ASCII.

    Example:
        >>> json_text({1: (b"\\x00", "é", float("inf"))})
        '{"1": [{"$base64": "AA=="}, "é", {"$float": "Infinity"}]}'
    """
    pieces: list[str] = []
    rest: list[Any] = [value]  # last first; no recursion, as values nest deeper than Python calls
    while rest:
        item = rest.pop()
        if type(item) is _Piece:
            pieces.append(item.text)
        elif isinstance(item, dict):
            heads = [_scalar(_json_name(name)) + ": " for name in item]
            rest += _in_brackets("{}", heads, list(item.values()))
        elif isinstance(item, (list, tuple)):
            rest += _in_brackets("[]", [""] * len(item), list(item))
        else:
            pieces.append(_scalar(item))
    return "".join(pieces)


class _Piece(NamedTuple):
    """Text of the output, among values that are still to be written."""

    text: str


def _in_brackets(brackets: str, heads: list[str], items: list[Any]) -> list[Any]:
    """The pieces to write for a container, last first."""
    found: list[Any] = [_Piece(brackets[0])]
    for number, (head, item) in enumerate(zip(heads, items, strict=True)):
        found += [_Piece((", " if number else "") + head), item]
    return [_Piece(brackets[1]), *reversed(found)]


def _scalar(value: Any) -> str:
    if isinstance(value, bytes):
        value = {"$base64": base64.b64encode(value).decode()}
    elif isinstance(value, datetime.datetime):
        value = value.isoformat()
    elif isinstance(value, float) and not math.isfinite(value):
        value = {"$float": _NAMES_OF_FLOATS[str(value)]}
    elif (array := arrays.described(value)) is not None:
        items = base64.b64encode(array.items).decode()
        value = {"$array": {"dtype": array.dtype, "shape": array.shape, "base64": items}}
    return json_escaped(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _json_name(name: Any) -> str:
    if isinstance(name, str):
        return name
    if isinstance(name, bytes):
        try:
            return name.decode()
        except UnicodeDecodeError:
            return base64.b64encode(name).decode()
    return name.isoformat() if isinstance(name, datetime.datetime) else json_text(name)

"""Patterns of keys, by the rules of Redis's KEYS and SCAN: over bytes, so a key's UTF-8.

    *        any number of bytes, also none
    ?        one byte; a letter such as é has two
    [abc]    one of these; [a-z] one of a range, [^a] any but these
    \\x       x itself, also inside of brackets

A pattern is the whole of a key. It becomes a regular expression whose `*` never tries again what a
later part has ruled out, so that no pattern takes exponential time.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kvserve.client.calls.operations import Key
from kvserve.errors import InvalidArgument

_STAR, _ANY, _OPEN, _CLOSE, _NOT, _TO, _ESCAPE = b"*?[]^-\\"
_NOTHING = b"(?!)"


class Glob(NamedTuple):
    """A pattern, ready to be matched.

    Args:
        prefix: what every key that matches begins with.
        expression: the whole pattern; None: any key with the prefix matches.

    Example:
        >>> user = parse("user:[0-9]*:cart")
        >>> user.prefix, user.matches("user:7:cart"), user.matches("user:x:cart")
        (b'user:', True, False)
    """

    prefix: bytes
    expression: re.Pattern[bytes] | None

    def matches(self, key: Key) -> bool:
        """Whether a key matches."""
        raw = key.encode() if isinstance(key, str) else key
        if self.expression is None:
            return raw.startswith(self.prefix)
        return self.expression.fullmatch(raw) is not None


def parse(pattern: Key) -> Glob:
    """The pattern that a caller gave.

    Raises:
        InvalidArgument: it is no str or bytes, or no UTF-8 has it.
    """
    if not isinstance(pattern, (str, bytes)):
        raise InvalidArgument(f"match is str or bytes, not {type(pattern).__name__}")
    try:
        raw = pattern.encode() if isinstance(pattern, str) else pattern
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"match cannot be encoded as UTF-8: {error.reason}; use bytes"
        ) from None
    return _parse(raw)


def literal(text: str) -> str:
    """The pattern that matches a text alone.

    Example:
        >>> literal("a*b")
        'a\\\\*b'
    """
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def _parse(raw: bytes) -> Glob:
    parts: list[bytes | None] = []  # None for a star
    prefix = bytearray()
    is_literal = True
    at = 0
    while at < len(raw):
        byte = raw[at]
        at += 1
        if byte == _STAR:
            if not parts or parts[-1] is not None:
                parts.append(None)
        elif byte == _ANY:
            parts.append(b".")
        elif byte == _OPEN:
            part, at = _class(raw, at)
            parts.append(part)
        else:
            if byte == _ESCAPE and at < len(raw):
                byte = raw[at]
                at += 1
            parts.append(re.escape(bytes((byte,))))
            if is_literal:
                prefix.append(byte)
            continue
        is_literal = False
    if None in parts and parts.index(None) == len(parts) - 1 == len(prefix):
        return Glob(bytes(prefix), None)
    return Glob(bytes(prefix), re.compile(_expression(parts), re.DOTALL))


def _class(raw: bytes, at: int) -> tuple[bytes, int]:
    """The expression of what is in brackets, and where the pattern goes on. Without a closing
    bracket, all of the rest is in them, as in Redis."""
    is_not = raw[at : at + 1] == b"^"
    at += is_not
    members = set()
    while at < len(raw) and raw[at] != _CLOSE:
        if raw[at] == _ESCAPE and at + 1 < len(raw):
            members.add(raw[at + 1])
            at += 2
        elif at + 2 < len(raw) and raw[at + 1] == _TO:
            low, high = sorted((raw[at], raw[at + 2]))
            members.update(range(low, high + 1))
            at += 3
        else:
            members.add(raw[at])
            at += 1
    if is_not:
        members = set(range(256)) - members
    if not members:
        return _NOTHING, at + 1
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(members)) + b"]", at + 1


def _expression(parts: list[bytes | None]) -> bytes:
    """The parts between two stars match where they first can, and are not tried anywhere else."""
    stars = [index for index, part in enumerate(parts) if part is None]
    if not stars:
        return b"".join(part for part in parts if part is not None)
    ends = [*stars, len(parts)]
    pieces = [b"".join(part or b"" for part in parts[: stars[0]])]
    for begin, end in zip(stars, ends[1:], strict=True):
        piece = b"".join(part or b"" for part in parts[begin + 1 : end])
        is_last = end == len(parts)
        pieces.append(b".*" + piece if is_last else b"(?>.*?" + piece + b")")
    return b"".join(pieces)

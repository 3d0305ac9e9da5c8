"""Escapes text so that it can neither control a terminal nor begin a line of its own.

It escapes the control characters (C0, DEL and C1, which ECMA-48 gives to terminals), the
separators of lines, and the marks that change the direction of text, which can make it look
different from what it is. Everything else stays as it is, including a backslash.
"""

from __future__ import annotations

import re

_BEYOND_ASCII = (
    *range(0x80, 0xA0),  # C1: CSI and OSC are among them
    *(0x2028, 0x2029),  # the separators of lines and paragraphs
    *(0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),  # directions
)
_SHORT = {"\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r"}
_HELD = "surrogateescape"
_UNDECODED = re.compile("[\udc80-\udcff]+")  # bytes that are not UTF-8, as Python represents them
_NO_BYTES = "\ud800-\udc7f\udd00-\udfff"  # surrogates that stand for nothing
_UNSEEN = "\x7f" + _NO_BYTES + "".join(map(chr, _BEYOND_ASCII))
_LINE = re.compile(f"[\0-\x1f{_UNSEEN}]")
_JSON = re.compile(f"[{_UNSEEN}\udc80-\udcff]")


def _escape(character: str) -> str:
    number = ord(character)
    if number > 0xFF:
        return f"\\u{number:04x}"
    return f"\\{_SHORT[character]}" if character in _SHORT else f"\\x{number:02x}"


# What a log escapes beside ASCII's controls, which it escapes in its own way.
BEYOND_ASCII = {number: _escape(chr(number)) for number in _BEYOND_ASCII}


def escaped(text: str, keep: str = "") -> str:
    r"""The text with the characters named above escaped, as Python and C write them.

    Args:
        text: surrogates for bytes that are not UTF-8, as Python represents file names, stay.
        keep: control characters that stay.

    Example:
        >>> escaped("user:1\x1b[2J\n"), escaped("a\tb\u202e", keep="\t")
        ('user:1\\x1b[2J\\n', 'a\tb\\u202e')
    """
    if text.isprintable():  # then nothing of the above is in it
        return text
    return _LINE.sub(
        lambda found: found[0] if found[0] in keep else _escape(found[0]), decoded(text)
    )


def visible(text: str, keep: str = "") -> str:
    r"""`escaped`, with the bytes that are not UTF-8 escaped, too: for people to read.

    Example:
        >>> visible("raw-\udcff")
        'raw-\\xff'
    """
    return _UNDECODED.sub(
        lambda found: "".join(f"\\x{ord(byte) - 0xDC00:02x}" for byte in found[0]),
        escaped(text, keep),
    )


def decoded(text: str) -> str:
    r"""The text with surrogates only for bytes that are not UTF-8.

    Under another locale Python represents all bytes beyond ASCII by surrogates.

    Example:
        >>> decoded("caf\udcc3\udca9 \udcff") == "café \udcff"
        True
    """
    return _UNDECODED.sub(
        lambda found: found[0].encode("utf-8", _HELD).decode("utf-8", _HELD), text
    )


def json_escaped(json: str) -> str:
    r"""JSON with control characters and lone surrogates replaced by JSON's own escapes.

    Example:
        >>> json_escaped('"\x9b31m"')
        '"\\u009b31m"'
    """
    if not _JSON.search(json):
        return json
    return _JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", decoded(json))

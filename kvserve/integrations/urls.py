"""The options of an adapter that a framework's URL carries: kvserve://NAME?timeout=0.5&start=true."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_WORDS = {"true": True, "false": False, "none": None}


def options_of(url: str | None) -> dict[str, Any]:
    """The options in a URL, as `shared.open_namespace` takes them.

    Example:
        >>> options_of("kvserve://shop?timeout=0.5&start=true&long_keys=hash")
        {'name': 'shop', 'timeout': 0.5, 'start': True, 'long_keys': 'hash'}
        >>> options_of("kvserve://")
        {}
    """
    parts = urlsplit(url or "")
    name = parts.netloc or parts.path.strip("/")
    options: dict[str, Any] = {"name": name} if name else {}
    options.update((key, value_of(text)) for key, text in parse_qsl(parts.query))
    return options


def value_of(text: str) -> Any:
    """An option's value, of its text: a bool, None or a number where it is one.

    Example:
        >>> value_of("true"), value_of("0.5"), value_of("hash")
        (True, 0.5, 'hash')
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text

"""Sizes and modes as people write them: `64MiB`, `0660`."""

from __future__ import annotations

import re

from kvserve.errors import ConfigError
from kvserve.toml_file import told

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_MODE_MAX = 0o7777  # more than these bits is no mode
_SIZE_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_size(text: str | int) -> int:
    """Bytes in a size such as `256MiB`, `64k` or `4096`. Units are powers of 1024.

    Raises:
        ConfigError: not a size.

    Example:
        >>> parse_size("1.5 MiB"), parse_size("64k"), parse_size(4096)
        (1572864, 65536, 4096)
    """
    # `told` for an integer: Python refuses to convert a very long one to text.
    match = _SIZE.fullmatch(text.strip() if isinstance(text, str) else told(text))
    if isinstance(text, bool) or match is None:
        raise ConfigError(f"{told(text)} is not a size; write it like 4096, 64KiB, 256MiB or 2GiB")
    size = float(match[1])
    return max(1, int(size * _SIZE_UNITS[match[2].lower()])) if size else 0  # 0 may mean none


def format_size(size_bytes: int) -> str:
    """A size for people to read.

    Example:
        >>> format_size(48 * 2**20), format_size(1536), format_size(10)
        ('48 MiB', '1.5 KiB', '10 B')
    """
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1023.5:
            return f"{size:.4g} {unit}"
        size = max(1.0, size / 1024)  # what would be rounded to 1024 becomes 1 of the next unit
    return f"{size:.4g} TiB"


def parse_mode(text: str | int) -> int:
    """Permission bits: from octal digits such as `0660`, or from an int such as TOML's 0o660."""
    try:
        mode = text if isinstance(text, int) else int(text, 8)
        if not 0 <= mode <= _MODE_MAX:
            raise ValueError
        return mode
    except (TypeError, ValueError):  # TOML may hold any type here
        raise ConfigError(f"mode {told(text)} is not octal; write it like 0600 or 0660") from None

"""Commands as they are sent: some words, packed by hiredis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hiredis

Words = tuple[bytes | str | int, ...]


def pack(commands: Iterable[Words]) -> bytes:
    """What is sent for these commands.

    Example:
        >>> pack([("PING",)])
        b'*1\\r\\n$4\\r\\nPING\\r\\n'
    """
    pack_command: Any = hiredis.pack_command  # its own types allow for one word only
    return b"".join(map(pack_command, commands))

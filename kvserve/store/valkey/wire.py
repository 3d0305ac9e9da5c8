"""Packs commands for the wire with hiredis, and defines the error for a server's refusal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hiredis

Words = tuple[bytes | str | int, ...]


class Refused(Exception):
    """The server replied with an error; the text is its own. Never leaves the store.

    Example:
        >>> Refused("MOVED 3999 127.0.0.1:6381").code
        'MOVED'
    """

    @property
    def code(self) -> str:
        """The first word, which names the kind of error."""
        return str(self).partition(" ")[0]


def pack(commands: Iterable[Words]) -> bytes:
    """The bytes that are sent for these commands.

    Example:
        >>> pack([("PING",)])
        b'*1\\r\\n$4\\r\\nPING\\r\\n'
    """
    pack_command: Any = hiredis.pack_command  # its stub allows only one word
    return b"".join(map(pack_command, commands))

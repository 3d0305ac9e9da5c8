"""Commands as they are sent: some words, packed by hiredis; and how a server says no."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hiredis

Words = tuple[bytes | str | int, ...]


class Refused(Exception):
    """The server's answer is an error; the text is its own. Never leaves the store.

    Example:
        >>> Refused("MOVED 3999 127.0.0.1:6381").code
        'MOVED'
    """

    @property
    def code(self) -> str:
        """The first word, which tells errors apart."""
        return str(self).partition(" ")[0]


def pack(commands: Iterable[Words]) -> bytes:
    """What is sent for these commands.

    Example:
        >>> pack([("PING",)])
        b'*1\\r\\n$4\\r\\nPING\\r\\n'
    """
    pack_command: Any = hiredis.pack_command  # its own types allow for one word only
    return b"".join(map(pack_command, commands))

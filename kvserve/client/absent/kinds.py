"""What kinds of request there are, when a server is not there to answer it. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from kvserve.protocol import commands
from kvserve.protocol.commands import Command

_READS = (commands.GET, commands.GET_RECORD, commands.GET_MANY, commands.TTL)
_QUESTIONS = (commands.PING, commands.STATS, commands.VERIFY, commands.SCAN)


class Kind(Enum):
    """What a request is about.

    READ: the values of keys; without a server there are none.
    WRITE: it changes something, so it is worth starting a server.
    QUESTION: about the server itself, or about all that there is.
    """

    READ = "read"
    WRITE = "write"
    QUESTION = "question"


def kind_of(command: Command) -> Kind:
    """The kind of a request with this command.

    Example:
        >>> kind_of(commands.TTL), kind_of(commands.INCR)
        (<Kind.READ: 'read'>, <Kind.WRITE: 'write'>)
    """
    if command in _READS:
        return Kind.READ
    return Kind.QUESTION if command in _QUESTIONS else Kind.WRITE


def kind_of_all(each: Iterable[Command]) -> Kind:
    """The kind of a batch: a write if there is one in it."""
    return Kind.WRITE if any(kind_of(one) is Kind.WRITE for one in each) else Kind.READ

"""Every error that kvserve raises: one root, three families, and the codes that cross the wire.

The family shows what can fix it: for `MisuseError` the caller; for `ServerError` the operator or
time; for `InternalError` the authors of kvserve. A miss is a reply, not an error.
"""

from __future__ import annotations

from typing import ClassVar


class KvserveError(Exception):
    """The root of all errors that kvserve raises on purpose.

    Example:
        >>> import kvserve
        >>> issubclass(kvserve.ServerBusy, kvserve.KvserveError)
        True
    """

    wire_code: ClassVar[int] = 0
    key: str | bytes | None = None  # of `set_many`: the one that was refused
    failed: list[str | bytes] | None = None  # of `set_many`: the keys not known to be stored


class MisuseError(KvserveError, ValueError):
    """The call itself is wrong. Nothing was sent, or nothing was changed; do not retry as is."""

    wire_code = 10


class InvalidKey(MisuseError):
    """A key that is not str or bytes, is empty, too long, or not encodable as UTF-8."""

    wire_code = 11


class InvalidValue(MisuseError):
    """A value that kvserve cannot return exactly; docs/values.md lists the types it stores."""

    wire_code = 12


class ValueTooLarge(MisuseError):
    """A value larger than the instance's largest value (see `kvserve stats`)."""

    wire_code = 13


class InvalidTTL(MisuseError):
    """A time to live that is not positive, not a number, or longer than a century."""

    wire_code = 14


class InvalidArgument(MisuseError):
    """Any other argument out of its documented range."""

    wire_code = 15


class NotACounter(MisuseError):
    """`incr` or `decr` on a value that is not an int."""

    wire_code = 16


class CounterOverflow(MisuseError):
    """`incr` or `decr` that would leave the range of a signed 64-bit integer."""

    wire_code = 17


class InvalidName(MisuseError):
    """An instance name that is not 1 to 64 letters, digits, `-` or `_`."""

    wire_code = 18


class ClientClosed(MisuseError):
    """The client was used after `close()`."""

    wire_code = 19


class ConfigError(MisuseError):
    """A configuration file, variable or flag with an unknown key or a bad value."""

    wire_code = 20


class ServerError(KvserveError):
    """The server refused, or cannot be reached."""

    wire_code = 30


class ServerUnavailable(ServerError, ConnectionError):
    """No server runs under this name, or it went away.

    If it went away during the call, the request may have been executed before that.
    """

    wire_code = 31


class ServerBusy(ServerError):
    """The request was not accepted before its deadline: a queue or a shard stayed busy.

    Nothing was changed. Trying again later is safe.
    """

    wire_code = 32


class WrongWorker(ServerBusy):
    """Another worker serves the keys: the server was restarted with another number of workers.

    Nothing was done. The client looks up which worker serves them now, and asks that one.
    """

    wire_code = 42


class RequestTimeout(ServerError, TimeoutError):
    """No reply came within the deadline to a request that is safe to send again."""

    wire_code = 33


class OutcomeUnknown(ServerError):
    """The request was sent, its reply never came, and sending it again might execute it twice.

    It was executed at most once. Read the key to learn whether it was.
    """

    wire_code = 34


class AlreadyServed(ServerError):
    """Another process serves, or cleans, an instance of this name."""

    wire_code = 35


class LimitError(ServerError):
    """A limit of the system stands in the way; the text names the command that fixes it."""

    wire_code = 36


class ForeignObject(ServerError, PermissionError):
    """A kernel object or file of ours has a wrong owner, type, mode or content."""

    wire_code = 37


class StoreUnavailable(ServerError, ConnectionError):
    """The store behind the cache does not answer. Cached values are still served.

    A write changed neither the store nor the cache.
    """

    wire_code = 38


class LockTimeout(ServerError, TimeoutError):
    """A lock was not acquired in time; another holder has it."""

    wire_code = 39


class LockLost(ServerError):
    """A lock expired before it was released, and another holder may have it by now."""

    wire_code = 40


class WriteRefused(ServerError, PermissionError):
    """This process may not write into the table itself; the text says what would allow it.

    It may write through the workers: `connect()` without `write="direct"`.
    """

    wire_code = 41


class WorkerCrashed(ServerError):
    """Two workers died while they executed this very request; it was not sent a third time.

    It may have been executed, wholly or in part. The server's log shows how the workers ended.
    """

    wire_code = 44


class UnreadableValue(ServerError):
    """The bytes stored under a key are no value that this kvserve knows.

    A newer kvserve may have written them, or they were damaged at their source. Setting or deleting
    the key fixes it. Only calls for this one key raise it; docs/values.md says what others do.
    """

    wire_code = 45


class InternalError(KvserveError):
    """kvserve has a bug, or memory was corrupted. Please report it."""

    wire_code = 50


class ProtocolError(InternalError):
    """A frame that violates the protocol."""

    wire_code = 51


class TableCorrupt(InternalError):
    """The table breaks one of its invariants."""

    wire_code = 52


def _descendants(root: type[KvserveError]) -> list[type[KvserveError]]:
    found = [root]
    for child in root.__subclasses__():
        found += _descendants(child)
    return found


BY_WIRE_CODE: dict[int, type[KvserveError]] = {
    error.wire_code: error for error in _descendants(KvserveError)
}


def from_wire(wire_code: int, text: str) -> KvserveError:
    """The error that a reply's status names; an unknown code becomes `InternalError`."""
    return BY_WIRE_CODE.get(wire_code, InternalError)(text)

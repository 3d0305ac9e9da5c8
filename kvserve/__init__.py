"""kvserve: one cache for every process on a host.

    caller -> client/ -> transport/ ==kernel==> transport/ -> worker/ -> table/ -> store/
                 |\\____________ protocol/ (the language) ____________/      ^
                 \\_______________ a hit goes straight there ________________|

    live/: settings and the change feed, in shared memory; parent/ keeps house, off the path.

An import goes only to a room on the right, or to the ground floor: errors, limits, names, config,
objects, runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvserve.client.blocking import Client, connect
from kvserve.errors import (
    AlreadyServed,
    ClientClosed,
    ConfigError,
    CounterOverflow,
    ForeignObject,
    InternalError,
    InvalidArgument,
    InvalidKey,
    InvalidName,
    InvalidTTL,
    InvalidValue,
    KvserveError,
    LimitError,
    LockLost,
    LockTimeout,
    MisuseError,
    NotACounter,
    OutcomeUnknown,
    ProtocolError,
    RequestTimeout,
    ServerBusy,
    ServerError,
    ServerUnavailable,
    StoreUnavailable,
    TableCorrupt,
    ValueTooLarge,
    WriteRefused,
)

if TYPE_CHECKING:
    from kvserve.client.aio import AsyncClient, connect_async
    from kvserve.live.feed import Event

__all__ = [
    "AlreadyServed",
    "AsyncClient",
    "Client",
    "ClientClosed",
    "ConfigError",
    "CounterOverflow",
    "Event",
    "ForeignObject",
    "InternalError",
    "InvalidArgument",
    "InvalidKey",
    "InvalidName",
    "InvalidTTL",
    "InvalidValue",
    "KvserveError",
    "LimitError",
    "LockLost",
    "LockTimeout",
    "MisuseError",
    "NotACounter",
    "OutcomeUnknown",
    "ProtocolError",
    "RequestTimeout",
    "ServerBusy",
    "ServerError",
    "ServerUnavailable",
    "StoreUnavailable",
    "TableCorrupt",
    "ValueTooLarge",
    "WriteRefused",
    "connect",
    "connect_async",
]


def __dir__() -> list[str]:
    """What is there, and what `__getattr__` imports when it is asked for."""
    return sorted({*globals(), *__all__, "__version__"})


def __getattr__(name: str) -> Any:
    """Imports late what is slow to import and not needed by every process."""
    if name in ("AsyncClient", "connect_async"):
        from kvserve.client import aio

        return getattr(aio, name)
    if name == "Event":
        from kvserve.live.feed import Event

        return Event
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("kvserve")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

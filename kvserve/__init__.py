"""kvserve: one cache for every process on a host.

  caller -> client/ -> transport/ ==kernel==> transport/ -> worker/ -> execution/ -> table/, store/
               |\\____________ protocol/ (the language) ____________/                 ^
               \\____________________ a hit goes straight there ______________________|

live/ has the settings and the change feed, in shared memory. parent/ runs the workers, off the
path. codecs/ has what `connect(codec=...)` takes. cli/ and bench/ use the client as any program
does. CONTRIBUTING.md says what a room may import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    UnreadableValue,
    ValueTooLarge,
    WorkerCrashed,
    WriteRefused,
    WrongWorker,
)

if TYPE_CHECKING:
    from kvserve import codecs
    from kvserve.client.absent.lost import Lost
    from kvserve.client.aio.client import AsyncClient
    from kvserve.client.blocking.client import Client
    from kvserve.client.calls.markers import ASK_WORKER, UNCHANGED
    from kvserve.client.calls.operations import Record
    from kvserve.client.calls.rules import DO_NOT_KEEP, lifetime
    from kvserve.client.connect import async_client, connect, connect_async
    from kvserve.live.feed import Event

__all__ = [
    "ASK_WORKER",
    "DO_NOT_KEEP",
    "UNCHANGED",
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
    "Lost",
    "MisuseError",
    "NotACounter",
    "OutcomeUnknown",
    "ProtocolError",
    "Record",
    "RequestTimeout",
    "ServerBusy",
    "ServerError",
    "ServerUnavailable",
    "StoreUnavailable",
    "TableCorrupt",
    "UnreadableValue",
    "ValueTooLarge",
    "WorkerCrashed",
    "WriteRefused",
    "WrongWorker",
    "async_client",
    "codecs",
    "connect",
    "connect_async",
    "lifetime",
]


# Imported at first use: no program needs all of it, and `kvserve get`, which reads the table
# itself, and `kvserve serve` need none of it.
_LATE = {
    "ASK_WORKER": "kvserve.client.calls.markers",
    "AsyncClient": "kvserve.client.aio.client",
    "Client": "kvserve.client.blocking.client",
    "DO_NOT_KEEP": "kvserve.client.calls.rules",
    "Event": "kvserve.live.feed",
    "Lost": "kvserve.client.absent.lost",
    "Record": "kvserve.client.calls.operations",
    "UNCHANGED": "kvserve.client.calls.markers",
    "async_client": "kvserve.client.connect",
    "connect": "kvserve.client.connect",
    "connect_async": "kvserve.client.connect",
    "lifetime": "kvserve.client.calls.rules",
}


def __dir__() -> list[str]:
    """The names that exist, and those that `__getattr__` imports at first use."""
    return sorted({*globals(), *__all__, "__version__"})


def __getattr__(name: str) -> Any:
    """Imports a name at its first use, and keeps it."""
    if name == "__version__":
        import importlib.metadata

        value: Any = importlib.metadata.version("kvserve")
    elif name == "codecs":
        import importlib

        value = importlib.import_module("kvserve.codecs")
    elif name in _LATE:
        import importlib

        value = getattr(importlib.import_module(_LATE[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value

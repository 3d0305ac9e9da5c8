"""What all adapters share: from a framework's options to a namespace of the process's one client.

A framework may make a backend for each thread, request or event loop. All those that were given the
same options use one client, which opens its sessions when it is first used, and is good for all
threads, for all event loops and after a fork. Nothing here knows a framework.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from kvserve import names
from kvserve.client.connect import async_client, connect
from kvserve.client.options import Options
from kvserve.errors import InvalidArgument, ValueTooLarge

if TYPE_CHECKING:
    from kvserve.client.aio.client import AsyncClient
    from kvserve.client.aio.namespaces import AsyncNamespace
    from kvserve.client.blocking.client import Client
    from kvserve.client.blocking.namespaces import Namespace

# What frameworks expect of a cache, unless their user says otherwise. `connect` describes each.
DEFAULTS = {
    "lazy": True,  # an application boots without its cache
    "on_error": "miss",  # and goes on without it
    "long_keys": "hash",
    "too_large": "remove",
    "lifetimes": "lenient",
}
_OF_CONNECT = frozenset(field.name for field in dataclasses.fields(Options))
OPTIONS = _OF_CONNECT | {"name", "namespace", "codec", "signing_key"}  # what an adapter can be told
LOG = logging.getLogger("kvserve")
LOG_SECONDS = 1.0
# One client for each kind and set of options, whatever number of backends asks for it.
_CLIENTS: dict[tuple[Any, ...], Any] = {}


def open_namespace(
    options: Mapping[str, Any], *, namespace: str, codec: Any = "pickle"
) -> Namespace:
    """The namespace that an adapter keeps its keys in, of the blocking client that it shares.

    Args:
        options: what the framework's user wrote, by the names of `kvserve.connect`'s arguments;
            besides `name` (the instance), `namespace`, `codec` (`pickle`, `json`, or an object as
            `connect` takes it; None: kvserve's own types alone) and `signing_key` (for `pickle`:
            only what was signed with this key is unpickled).
        namespace, codec: the adapter's, where the options have none.

    Raises:
        InvalidArgument: an option is unknown or out of its range. A server is not asked.

    Example:
        >>> pages = open_namespace({"timeout": 0.5}, namespace="pages")
        >>> pages.set("front", "<p>tea</p>") > 0, pages.get("front")
        (True, '<p>tea</p>')
    """
    client: Client = _shared_client("blocking", options, codec)
    return client.namespace(options.get("namespace", namespace))


def open_async_namespace(
    options: Mapping[str, Any], *, namespace: str, codec: Any = "pickle"
) -> AsyncNamespace:
    """As `open_namespace`, for asyncio: usable at import, and in any number of event loops.

    Example:
        >>> pages = open_async_namespace({}, namespace="pages")
        >>> async def main():
        ...     await pages.set("front", "<p>tea</p>")
        ...     return await pages.get("front")
        >>> asyncio.run(main())
        '<p>tea</p>'
    """
    client: AsyncClient = _shared_client("asyncio", options, codec)
    return client.namespace(options.get("namespace", namespace))


def check_options(options: Mapping[str, Any], *, codec: Any = "pickle") -> None:
    """Raises what `open_namespace` would, for an adapter that opens its namespace later.

    Raises:
        InvalidArgument, InvalidName, ConfigError: an option is unknown or out of its range.

    Example:
        >>> check_options({"timeout": 0.5, "start": True})
    """
    name, chosen = _chosen(options, codec)
    where, start = names.instance(name), Options(**_arguments(chosen)).start
    if start is not False:
        from kvserve.client.absent.starting import Launch  # not above: few need subprocess

        Launch(where, start)


def _shared_client(
    kind: Literal["blocking", "asyncio"], options: Mapping[str, Any], codec: Any
) -> Any:
    name, chosen = _chosen(options, codec)
    where = names.instance(name)
    key = (kind, where, *sorted((option, _hashable(value)) for option, value in chosen.items()))
    client = _CLIENTS.get(key)
    if client is None:
        make: Any = connect if kind == "blocking" else async_client
        # It has opened nothing yet, so that of two threads' clients one may be dropped.
        client = _CLIENTS.setdefault(key, make(where.name, **_arguments(chosen)))
    return client


def _chosen(options: Mapping[str, Any], codec: Any) -> tuple[str | None, dict[str, Any]]:
    """The instance's name, if there is one, and the options of its client, with the defaults."""
    if unknown := sorted(map(str, set(options) - OPTIONS)):
        known = ", ".join(sorted(OPTIONS))
        raise InvalidArgument(f"unknown options {', '.join(unknown)}; there are {known}")
    chosen = {"codec": codec, **DEFAULTS, **options}
    if chosen.get("write") == "direct" and "on_error" not in options:
        chosen["on_error"] = "raise"  # a trusted writer knows no other
    chosen.pop("namespace", None)
    return chosen.pop("name", None) or None, chosen


def _arguments(chosen: dict[str, Any]) -> dict[str, Any]:
    """Those of `connect`, for options that an adapter can be told."""
    codec = _codec(chosen["codec"], chosen.get("signing_key"))
    return {name: each for name, each in chosen.items() if name in _OF_CONNECT} | {"codec": codec}


def set_many(cache: Namespace, values: Mapping[str, Any], ttl: float) -> list[str]:
    """Stores what is not too large, in few round trips; returns the keys of what is.

    Raises:
        InvalidValue, ServerError: as `Client.set_many`.

    Example:
        >>> pages = open_namespace({}, namespace="pages")
        >>> set_many(pages, {"front": "<p>tea</p>", "poster": bytes(2**21)}, 60)
        ['poster']
    """
    left, refused = dict(values), []
    while left:
        try:
            cache.set_many(left, ttl)
            break
        except ValueTooLarge as error:
            TOO_LARGE.tell(error)
            keys = [key for key in (error.key,) if isinstance(key, str) and key in left]
            for key in keys or list(left):
                refused.append(key)
                del left[key]
    return refused


class TooLarge:
    """Logs that values were not stored, at most once a second: no framework wants it raised.

    Example:
        >>> TooLarge().tell(kvserve.ValueTooLarge("value of 2097152 bytes: at most 1048576"))
    """

    def __init__(self) -> None:
        self.told_at = -LOG_SECONDS

    def tell(self, error: ValueTooLarge) -> None:
        """Logs it, unless another was logged just now."""
        now = time.monotonic()
        if now - self.told_at >= LOG_SECONDS:
            self.told_at = now
            LOG.warning("not stored: %s", error)


TOO_LARGE = TooLarge()  # the process's


def close_clients() -> None:
    """Closes the blocking clients that adapters share, and forgets all; the next use makes others.

    For the end of a test, after which its server is gone. An application needs no call of it.

    Example:
        >>> close_clients()
    """
    while _CLIENTS:
        (kind, *_), client = _CLIENTS.popitem()
        if kind == "blocking":
            client.close()


def _hashable(value: Any) -> Any:
    """A stand-in for an option's value in a key; the same for equal values."""
    return repr(value) if isinstance(value, (dict, list, set)) else (type(value).__name__, value)


def _codec(codec: Any, signing_key: str | bytes | None) -> Any:
    """What `connect` takes, of what a framework's settings can name."""
    if signing_key is not None and codec != "pickle":
        raise InvalidArgument("signing_key goes with codec = 'pickle' alone")
    if not isinstance(codec, str):
        return codec
    from kvserve import codecs

    if codec == "pickle":
        key = signing_key.encode() if isinstance(signing_key, str) else signing_key
        return codecs.pickle(key=key)
    if codec == "json":
        return codecs.json()
    raise InvalidArgument(f"codec = {codec!r}: use 'pickle', 'json', a codec object or None")

"""The ways in: `connect`, and for asyncio `connect_async` and `async_client`.

Each kind of client is imported when it is asked for: few programs need two of them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Unpack

from kvserve import names as naming
from kvserve.client.absent.patience import made, made_async
from kvserve.client.options import Arguments, Options

if TYPE_CHECKING:
    from kvserve.client.aio.client import AsyncClient
    from kvserve.client.blocking.client import Client


def connect(name: str | None = None, **arguments: Unpack[Arguments]) -> Client:
    """A client of a running server.

    Args:
        name: the instance's name; default: $KVSERVE_NAME, else `default`.
        timeout: seconds within which each request ends, in an answer or an error; default: 2.
        read: `direct` (default) reads hits from shared memory; `worker` sends reads to a worker.
        write: `worker` (default) sends every change to a worker; `direct` makes it here, in the
            table, if the server was started with `--writers` and is this user's, or this user is
            root.
        queue_bytes: the longest request that goes through a message queue, longer ones through a
            FIFO; default: as long as a queue takes. 0 sends all through the FIFO.
        codec: for values that kvserve does not carry exactly: an object with `name`, `number` (64
            to 127), `encode(value) -> bytes` and `decode(bytes)`, see docs/values.md; of
            `kvserve.codecs`, `json`, `models`, or `pickle`, which has dangers.
        compress: bytes from which this client compresses what it stores, with zstd, if the result
            is shorter by a tenth; 4096 is a good choice. Every client reads it. Default: never.
        lazy: whether to look for the server at the first use only, and at each use until it is
            there; so a program can be imported, and fork, before it. docs/availability.md has more
            on this and the next three.
        wait: seconds to wait for the server to be there: here, or with `lazy` from the first use.
        start: let the first write start the server if there is none: True for one with the
            settings that `kvserve serve` would find, or a dict of settings, or the path of a
            configuration file. Reads miss until then. Implies `lazy`.
        on_error: `raise` (default) raises what the server causes; `miss` makes such errors misses
            and lost writes, see `Client.lost`. What the caller did wrong is raised in any case.
        long_keys: `hash` replaces a key of more than 1,024 bytes, or with letters that no UTF-8
            has, by its beginning and a hash; `refuse` (default) raises InvalidKey.
        too_large: `remove`: a `set` whose value is too large removes the old one before it raises
            ValueTooLarge; `keep` (default) leaves the old one.
        lifetimes: `lenient` takes any ttl: one of 0 or less removes the key, or does not store it,
            and one beyond a century is for ever; `strict` (default) raises InvalidTTL for these.

    Returns:
        A client, for any number of threads, usable after a fork, and as a context manager.

    Raises:
        ServerUnavailable: no server of this name runs.
        WriteRefused, ServerBusy: `write` cannot be `direct`; the message says why.
        ForeignObject: its objects are not what they should be.
        InvalidName, InvalidArgument: an argument is out of its range.

    Example:
        >>> cache = kvserve.connect()
        >>> cache.set("greeting", "hello", ttl=60) > 0
        True
        >>> cache.get("greeting")
        'hello'
    """
    names = naming.instance(name)
    options = Options.of(arguments)
    make = partial(_client_class(options), names, options)
    return make() if options.is_lazy or not options.wait else made(make, options.wait)


async def connect_async(name: str | None = None, **arguments: Unpack[Arguments]) -> AsyncClient:
    """An asyncio client of a running server.

    Arguments, errors and behaviour are those of `kvserve.connect`.

    Returns:
        A client for any event loop, asyncio's or uvloop's; an async context manager.

    Example:
        >>> async def main():
        ...     async with await kvserve.connect_async() as cache:
        ...         await cache.set("greeting", "hello")
        ...         return await cache.get("greeting")
        >>> asyncio.run(main())
        'hello'
    """
    names = naming.instance(name)
    options = Options.of(arguments)
    make = partial(_async_client_class(options), names, options)
    if options.is_lazy or not options.wait:
        return make()
    return await made_async(make, options.wait)


def async_client(name: str | None = None, **arguments: Unpack[Arguments]) -> AsyncClient:
    """The client of `connect_async`, without awaiting: for module level, and for `memoize` there.

    It needs no event loop until it is used. Each event loop that uses it has sessions of its own
    with the server, so one client serves a loop after another, and loops in several threads at
    once; the sessions of a loop that was closed are closed at the next use in another. With
    `lazy=True` it needs no server either. `wait` without `lazy` blocks here, as `connect` does.

    Example:
        >>> pages = kvserve.async_client()
        >>> @pages.memoize(ttl=60)
        ... async def load_page(number):
        ...     return f"page {number}"
        >>> asyncio.run(load_page(7))
        'page 7'
    """
    names = naming.instance(name)
    options = Options.of(arguments)
    make = partial(_async_client_class(options), names, options)
    return make() if options.is_lazy or not options.wait else made(make, options.wait)


def _client_class(options: Options) -> type[Client]:
    if options.is_plain and options.write == "worker":
        from kvserve.client.blocking.client import Client

        return Client
    if options.is_plain:
        from kvserve.client.blocking.direct import DirectClient

        return DirectClient
    if options.write == "direct":
        from kvserve.client.blocking.attended_direct import AttendedDirectClient

        return AttendedDirectClient
    if options.on_error == "miss":
        from kvserve.client.blocking.forgiving import ForgivingClient

        return ForgivingClient
    from kvserve.client.blocking.attended import AttendedClient

    return AttendedClient


def _async_client_class(options: Options) -> type[AsyncClient]:
    if options.is_plain and options.write == "worker":
        from kvserve.client.aio.client import AsyncClient

        return AsyncClient
    if options.is_plain:
        from kvserve.client.aio.direct import AsyncDirectClient

        return AsyncDirectClient
    if options.write == "direct":
        from kvserve.client.aio.attended_direct import AttendedAsyncDirectClient

        return AttendedAsyncDirectClient
    if options.on_error == "miss":
        from kvserve.client.aio.forgiving import ForgivingAsyncClient

        return ForgivingAsyncClient
    from kvserve.client.aio.attended import AttendedAsyncClient

    return AttendedAsyncClient

"""Tells a server that answers again what a client could not tell it before."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kvserve.client.absent.lost import Told
from kvserve.client.blocking.client import Client
from kvserve.client.options import Options
from kvserve.names import Names

_SECONDS_MAX = 1.0  # for a worker that hangs; the one who waits is a thread of our own


def teller(names: Names, options: Options) -> Callable[[Told], None]:
    """What asks all workers whether they live, tells them, and raises ServerError if that fails."""
    own = Options(timeout=min(options.timeout, _SECONDS_MAX), queue_bytes=options.queue_bytes)
    return partial(_tell, names, own)


def _tell(names: Names, options: Options, told: Told) -> None:
    with Client(names, options) as client:
        client.ping()
        if told.flush:
            client.flush()
        elif told.keys:
            client.delete_many(list(told.keys))

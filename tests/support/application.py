"""An application as users write it, for the tests of worker models: it connects when imported.

It counts, writes what only it may read back, and reads a memoized value. `answer` does the work;
`wsgi` offers it to WSGI servers. The variable CONNECT_OPTIONS holds further arguments of
`kvserve.connect`, as JSON.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import kvserve

OPTIONS = {"timeout": 10, **json.loads(os.environ.get("CONNECT_OPTIONS", "{}"))}
cache = kvserve.connect(**OPTIONS)
with suppress(kvserve.ServerUnavailable):  # if it may be absent: see the options
    cache.incr("imported")  # so that a fork inherits a session that was used


@cache.memoize(ttl=3600)
def page(number: int) -> str:
    """What every process must get from the cache, since another computation gives another page."""
    return f"page {number} {secrets.token_hex(8)}"


def answer(path: str) -> tuple[int, str]:
    """The status and the text for a path, as a web application has them."""
    try:
        if path == "/count":
            return count()
        if path == "/read":
            return 200, page(7)
    except kvserve.ServerError as error:
        return 503, type(error).__name__
    return 404, path


def count() -> tuple[int, str]:
    """Counts one up, and writes a long value that no other thread of any process writes."""
    total = cache.incr("counter")
    key = f"{os.getpid()} {threading.get_ident()}"
    cache.set(key, [total] * 3000)
    good = cache.get(key) == [total] * 3000
    return (200, str(total)) if good else (500, "mixed up")


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The application, for WSGI servers."""
    status, text = answer(environ["PATH_INFO"])
    start_response(f"{status} {'OK' if status == 200 else 'trouble'}", [])
    return [text.encode()]

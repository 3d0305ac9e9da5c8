"""A response as it lies in the cache."""

from __future__ import annotations

import time
from typing import NamedTuple

from kvserve.integrations import http_rules as rules


class Stored(NamedTuple):
    """A response as it is stored.

    Attributes:
        born, until: when it was made, and when it is stale, in seconds of the time of day.
        for_everybody: whether users may get each other's.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    born: float
    until: float
    for_everybody: bool


def as_stored(
    status: int, given: rules.Headers, body: bytes, seconds: float, public: bool
) -> Stored:
    """A response that was just made, to be kept for so long; with an entity tag.

    Example:
        >>> made = as_stored(200, [(b"connection", b"close")], b"tea", 60, public=True)
        >>> made.status, [name for name, value in made.headers], made.until - made.born
        (200, [b'etag'], 60.0)
    """
    headers = rules.to_store(given)
    response = rules.fields(given)
    if status == 200 and b"etag" not in response:
        headers.append((b"etag", rules.etag_of(body)))
    now = time.time()
    return Stored(
        status,
        headers,
        body,
        born=now - rules.age_so_far(response),
        until=now + seconds,
        for_everybody=public or rules.is_for_everybody(response),
    )

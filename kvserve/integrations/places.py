"""Where responses are: a page's place, the claim of who makes one, the keys of one moment."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from kvserve.errors import KvserveError

if TYPE_CHECKING:
    from kvserve.client.aio.namespaces import AsyncNamespace


class Place(NamedTuple):
    """Where a request's response is, or would be.

    Attributes:
        names: of the request's fields that tell the page's responses apart; None: the page has no
            index.
        for_everybody: whether users got each other's responses so far.
    """

    page: str
    names: tuple[bytes, ...] | None = None
    for_everybody: bool = False
    key: str = ""

    def is_open_to(self, personal: Iterable[bytes]) -> bool:
        """Whether a request with these personal fields can expect a response from here."""
        return self.for_everybody or all(name in (self.names or ()) for name in personal)


class Before(NamedTuple):
    """The prefix of the responses' keys and the generations of some tags, at one moment."""

    prefix: str
    marks: bytes


class Claim:
    """What the request that makes a response has; its end tells the others to go on."""

    def __init__(self, cache: AsyncNamespace | None = None, key: str = "") -> None:
        self._cache = cache
        self._key = key

    async def end(self) -> None:
        """Ends it; twice does no harm. The response was stored by now, or will not be."""
        cache, self._cache = self._cache, None
        if cache is not None:
            with suppress(KvserveError):  # it ends by itself
                await cache.delete(self._key)


def path_tag(path: str) -> str:
    """The tag of all responses of a path, whatever their query, host and fields.

    Example:
        >>> path_tag("/items/7")
        'path:/items/7'
    """
    return f"path:{path}"

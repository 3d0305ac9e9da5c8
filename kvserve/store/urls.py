"""Makes the store that a URL names: the scheme decides, and only its own module is imported.

Knows no database. docs/stores.md describes the URLs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from kvserve.errors import ConfigError
from kvserve.store.base import Store

if TYPE_CHECKING:
    from kvserve.store.valkey.store import ValkeyStore

_NONE = "none"
_SQLITE = "sqlite"
_VALKEY = ("valkey", "valkeys", "redis", "rediss", "unix")


def check(url: str) -> None:
    """Finds out, before any worker is forked, whether the store can be used.

    It connects, and creates the database if there is none.

    Args:
        url: `none`, `sqlite:////ABSOLUTE/PATH`, `valkey://HOST:PORT` and the like.

    Raises:
        ConfigError: a bad URL, a file of something else or one that cannot be written, a wrong
            password, a client library that is not installed.
        StoreUnavailable: the store does not answer, is locked, or has no room.

    Example:
        >>> check("none")
        >>> check("postgres://db/cache")
        Traceback (most recent call last):
        kvserve.errors.ConfigError: a store cannot be postgres://; use one of none, sqlite://, ...
    """
    scheme = _scheme(url)
    if scheme == _SQLITE:
        from kvserve.store.sqlite.store import SqliteStore

        SqliteStore.check(url)
    elif scheme != _NONE:
        _valkey_store(scheme).check(url)


def open_store(url: str, timeout_seconds: float, staleness_seconds: float) -> Store | None:
    """The store of a URL, which the worker must still `open`; None for `none`.

    Args:
        url: as for `check`.
        timeout_seconds: how long a call may take.
        staleness_seconds: how old a value may be that another host has changed.

    Raises:
        ConfigError: a bad URL.

    Example:
        >>> open_store("none", 2.0, 1.0) is None
        True
    """
    scheme = _scheme(url)
    if scheme == _NONE:
        return None
    if scheme == _SQLITE:
        from kvserve.store.sqlite.store import SqliteStore

        return SqliteStore(url, timeout_seconds)
    return _valkey_store(scheme)(url, timeout_seconds, staleness_seconds)


def is_shared(url: str) -> bool:
    """Whether other hosts write to the store of this URL, too."""
    return _scheme(url) in _VALKEY


def mark(url: str) -> int:
    """A number that identifies the store, whichever user logs in to it; 0 for `none`.

    Example:
        >>> mark("none"), mark("valkey://a:secret@db:6379") == mark("valkey://db:6379")
        (0, True)
    """
    scheme = _scheme(url)
    if scheme == _NONE:
        return 0
    place = absolute(url).removeprefix(f"{scheme}://").rpartition("@")[2]
    return int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "little") or 1


def absolute(url: str) -> str:
    """The same URL with an absolute path, because a daemon leaves the directory it started in.

    Example:
        >>> absolute("sqlite:////var/lib/cache.db"), absolute("none")
        ('sqlite:////var/lib/cache.db', 'none')
    """
    prefix = f"{_SQLITE}:///"
    path = url.removeprefix(prefix)
    if path in ("", ":memory:", url):  # `check` refuses the first two; `url`: another scheme
        return url
    return f"{prefix}{Path(path).absolute()}"


def _scheme(url: str) -> str:
    """The URL's scheme. Error texts leave out the rest of the URL: it may hold a password."""
    if url == _NONE:
        return _NONE
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ConfigError("a store is `none` or a URL such as sqlite:////var/lib/cache.db")
    if scheme == _SQLITE or scheme in _VALKEY:
        return scheme
    known = ", ".join([_NONE, *(f"{each}://" for each in (_SQLITE, *_VALKEY))])
    raise ConfigError(f"a store cannot be {scheme}://; use one of {known}")


def _valkey_store(scheme: str) -> type[ValkeyStore]:
    try:
        from kvserve.store.valkey.store import ValkeyStore
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a store at {scheme}:// needs the package {error.name}; "
            "run: pip install 'kvserve[valkey]'"
        ) from None
    return ValkeyStore

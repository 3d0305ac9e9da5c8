"""Parses the URL of a Valkey or Redis store. Connects to nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from kvserve.errors import ConfigError

SCHEMES = frozenset({"valkey", "valkeys", "redis", "rediss", "unix"})
_SCHEMES_TLS = frozenset({"valkeys", "rediss"})
_PORT_DEFAULT = 6379
_PORT_MAX = 65_535
_OPTIONS = frozenset({"prefix", "db", "ca"})
_HOST = re.compile(r"(?:\[(?P<numeric>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:\[\]/]+))(?::(?P<port>\d+))?")


class Node(NamedTuple):
    """A server: a host and its port, or the path of a Unix socket and port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Address:
    """Where a store is, and how to log in.

    Args:
        hosts: one server, or some of the nodes of a cluster.
        user: None: the default user.
        password: None: the store asks for none. Never printed.
        database: its number.
        is_tls: whether to speak TLS.
        ca_file: certificates to trust, in place of the system's.
        prefix: the prefix of every key in the store.
    """

    hosts: tuple[Node, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    is_tls: bool = False
    ca_file: str | None = None
    prefix: bytes = b""


def parse(url: str) -> Address:
    """The address that a URL names.

    Args:
        url: `valkey://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][/DB][?prefix=...]`; `valkeys://`
            with TLS (`?ca=FILE`: the certificates to trust); `redis://` and `rediss://` mean the
            same; `unix:///PATH[?db=N]`.

    Raises:
        ConfigError: it is none of these. The text repeats no part of the URL: a password that is
            not quoted may be anywhere in it.

    Example:
        >>> parse("valkey://ada:secret@cache:6380/2?prefix=app:").hosts
        (Node(host='cache', port=6380),)
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError("the store's URL cannot be read; write it as in docs/stores.md") from None
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"Valkey and Redis have URLs of {', '.join(sorted(SCHEMES))}")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, password = _login(credentials)
    options = _options(parts.query)
    is_unix = parts.scheme == "unix"
    return Address(
        hosts=(_socket(parts),) if is_unix else tuple(map(_node, hosts.split(","))),
        user=user,
        password=password,
        database=_database("" if is_unix else parts.path.strip("/"), options.get("db", "")),
        is_tls=parts.scheme in _SCHEMES_TLS,
        ca_file=_certificates(parts, options.get("ca")),
        prefix=options.get("prefix", "").encode(),
    )


def _login(credentials: str) -> tuple[str | None, str | None]:
    user, colon, password = credentials.partition(":")
    if user and not colon:
        raise ConfigError("the store's URL names a user without a password; write USER:PASSWORD@")
    return unquote(user) or None, unquote(password) or None


def _node(text: str) -> Node:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ConfigError(
            "the store's URL names no HOST or HOST:PORT; in a password, write %40 for @, %2F for /"
        )
    port = int(match["port"] or _PORT_DEFAULT)
    if not 0 < port <= _PORT_MAX:
        raise ConfigError(f"the store's URL has a port that is not from 1 to {_PORT_MAX}")
    return Node(match["numeric"] or match["name"], port)


def _socket(parts: SplitResult) -> Node:
    if parts.netloc.rpartition("@")[2] or not parts.path.startswith("/"):
        raise ConfigError("a Unix socket's URL has three slashes: unix:///run/valkey/valkey.sock")
    return Node(unquote(parts.path), 0)


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not options.keys() <= _OPTIONS:
        raise ConfigError(f"the store's URL has options other than {', '.join(sorted(_OPTIONS))}")
    return options


def _database(in_path: str, in_query: str) -> int:
    if in_path and in_query and in_path != in_query:
        raise ConfigError("the store's URL names two databases; name one")
    number = in_path or in_query or "0"
    if not (number.isascii() and number.isdecimal()):
        raise ConfigError("the store's URL has a database that is no number, such as /0")
    return int(number)


def _certificates(parts: SplitResult, path: str | None) -> str | None:
    if path is None:
        return None
    if parts.scheme not in _SCHEMES_TLS:
        raise ConfigError("the option ca of the store's URL needs TLS: valkeys:// or rediss://")
    if not Path(path).is_file():
        raise ConfigError(f"the store's URL names certificates in {path}, which is no file")
    return path

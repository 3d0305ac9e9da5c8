"""What RFC 9111 (HTTP Caching) and RFC 9110 say of a shared cache: decisions alone, no I/O.

Header fields are what ASGI brings, pairs of bytes; `fields` makes a dict of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from urllib.parse import unquote_plus

Headers = Iterable[tuple[bytes, bytes]]
Fields = Mapping[bytes, bytes]

# Which responses may be stored: those that say themselves how long, and those that a route's or
# the middleware's own time to live is for. Answers to a faulty request are not among the latter.
STATUSES_WITH_LIFETIME = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
STATUSES_WITHOUT = frozenset({200, 203, 204, 300, 301, 308})
SECONDS_MAX = 2**31  # RFC 9111, 1.2.2: what is longer counts as this
PAGE_BYTES_MAX = 400  # of a page's key; a longer one is hashed
PERSONAL = (b"authorization", b"cookie")  # the response to a request with these may be one user's
# Requests with these are not for a cache that knows whole responses alone, and asks nobody.
NOT_FOR_US = frozenset({b"range", b"if-range", b"if-match", b"if-unmodified-since"})
# The fields of a 304 (RFC 9110, 15.4.5), and those that caches and servers add.
_KEPT_BY_304 = frozenset({
    *(b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary"),
    *(b"last-modified", b"age"),
})  # fmt: skip
# What is for one connection alone (RFC 9111, 3.1).
_OF_CONNECTION = frozenset({
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authentication-info"),
    *(b"proxy-authorization", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
})  # fmt: skip
_DIRECTIVE = re.compile(r'\s*([\w-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,;]+)))?\s*(?:,|$)')
_TAG = re.compile(rb'(?:W/)?"[^"]*"')
_HOST = re.compile(rb"[\w.:\[\]-]*")


def fields(headers: Headers) -> dict[bytes, bytes]:
    """Header fields by name; those of several lines are joined, as RFC 9110 says.

    Example:
        >>> fields([(b"Vary", b"Accept"), (b"vary", b"Cookie")])
        {b'vary': b'Accept, Cookie'}
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        found[name] = found[name] + b", " + value if name in found else value
    return found


def directives(value: bytes | None) -> dict[str, str]:
    """The directives of a Cache-Control field, in lower case; those without a value have "".

    Of a directive that comes twice the first counts.

    Example:
        >>> directives(b'Max-Age=60, no-cache="set-cookie"')
        {'max-age': '60', 'no-cache': 'set-cookie'}
    """
    found: dict[str, str] = {}
    for match in _DIRECTIVE.finditer((value or b"").decode("latin-1")):
        found.setdefault(match[1].lower(), match[2] or match[3] or "")
    return found


def seconds(given: Mapping[str, str], name: str) -> int | None:
    """A directive's seconds; None if it is not there. What is no number means 0: not fresh.

    Example:
        >>> seconds({"max-age": "60"}, "max-age"), seconds({"max-age": "1h"}, "max-age")
        (60, 0)
    """
    text = given.get(name)
    if text is None:
        return None
    return min(int(text), SECONDS_MAX) if text.isascii() and text.isdigit() else 0


def lifetime(
    status: int, response: Fields, route: float | None, default: float | None, now: float
) -> float:
    """For how many seconds a shared cache may keep a response; 0.0: not at all.

    Args:
        route: the seconds that the route names, which count before those of the response; None: it
            names none. A response that forbids to store it, or names 0 seconds, is obeyed.
        default: the seconds where neither names any; None: do not store it then.
        now: the time of day, in seconds.

    Example:
        >>> lifetime(200, {b"cache-control": b"max-age=9, s-maxage=60"}, None, None, 0.0)
        60.0
        >>> lifetime(200, {b"cache-control": b"private"}, 60, None, 0.0)
        0.0
    """
    told = directives(response.get(b"cache-control"))
    if not {"no-store", "private", "no-cache"}.isdisjoint(told):
        return 0.0
    if b"set-cookie" in response or b"*" in vary(response):
        return 0.0
    said: float | None = seconds(told, "s-maxage")
    said = seconds(told, "max-age") if said is None else said
    if said is None and b"expires" in response:
        said = _until(response[b"expires"], response.get(b"date"), now)
    if said is not None:
        said = max(said - age_so_far(response), 0)
    if said != 0 and status in STATUSES_WITHOUT:
        own = route if route is not None or said is not None else default
        said = own if own is not None else said
    if status not in STATUSES_WITH_LIFETIME:
        return 0.0
    return float(max(min(said or 0, SECONDS_MAX), 0))


def _until(expires: bytes, date: bytes | None, now: float) -> float:
    """The seconds that an Expires field means; what is no date is in the past."""
    end = moment(expires)
    begin = now if date is None else moment(date)
    return 0.0 if end is None else end - (now if begin is None else begin)


def moment(date: bytes | None) -> float | None:
    """The time of day of an HTTP date, in seconds; None if there is none.

    Example:
        >>> moment(b"Thu, 01 Jan 1970 00:01:00 GMT"), moment(b"0"), moment(None)
        (60.0, None, None)
    """
    try:
        return None if date is None else parsedate_to_datetime(date.decode()).timestamp()
    except (ValueError, OverflowError):
        return None


def age_so_far(response: Fields) -> int:
    """The seconds that a response spent in caches before it came here.

    Example:
        >>> age_so_far({b"age": b"7"}), age_so_far({})
        (7, 0)
    """
    age = response.get(b"age", b"")
    return min(int(age), SECONDS_MAX) if age.isdigit() else 0


def is_for_everybody(response: Fields) -> bool:
    """Whether a response says that it may go to others than the user who asked (3.5).

    Example:
        >>> is_for_everybody({b"cache-control": b"public"}), is_for_everybody({})
        (True, False)
    """
    told = directives(response.get(b"cache-control"))
    return not {"public", "s-maxage", "must-revalidate"}.isdisjoint(told)


def accepts(told: Mapping[str, str], age: float, left: float) -> bool:
    """Whether a request takes a stored response of this age, with so many seconds left.

    Example:
        >>> accepts({"max-age": "5"}, 7, 60), accepts({}, 7, 60), accepts({"no-cache": ""}, 0, 60)
        (False, True, False)
    """
    oldest, fresh_for = seconds(told, "max-age"), seconds(told, "min-fresh")
    return (
        "no-cache" not in told
        and (oldest is None or age <= oldest)
        and (fresh_for is None or left >= fresh_for)
    )


def vary(response: Fields) -> frozenset[bytes]:
    """The names of the request's fields that a response was chosen by, in lower case.

    Example:
        >>> sorted(vary({b"vary": b"Accept, Cookie"}))
        [b'accept', b'cookie']
    """
    names = response.get(b"vary", b"").lower().split(b",")
    return frozenset(name.strip() for name in names if name.strip())


def variant(names: Iterable[bytes], request: Fields) -> str:
    """What tells the variants of a page apart: a hash of the request's fields of these names.

    Example:
        >>> german, french = {b"accept-language": b"de"}, {b"accept-language": b"fr"}
        >>> variant([b"accept-language"], german) == variant([b"accept-language"], french)
        False
    """
    values = [(name, request.get(name)) for name in sorted(names)]
    return blake2b(repr(values).encode(), digest_size=12).hexdigest()


def page(
    scheme: str, host: bytes, path: str, query: bytes, ignored: Collection[str] = ()
) -> str | None:
    """What a page is found by: its URL, the query's parameters in the order of their names.

    Parameters of one name keep their order. A long URL is hashed. None: the host is no host's name,
    so that it could make another page's URL of this one.

    Example:
        >>> page("http", b"shop", "/tea", b"b=2&a=1&b=1&utm_source=x", ["utm_source"])
        'http://shop/tea?a=1&b=2&b=1'
    """
    if not _HOST.fullmatch(host):
        return None
    if "%" in path or "?" in path:  # the path was decoded; a ? in it begins no query
        path = path.replace("%", "%25").replace("?", "%3F")
    url = f"{scheme}://{host.decode('latin-1').lower()}{path}"
    if query:
        parts = [part for part in query.decode("latin-1").split("&") if part]
        named = [(unquote_plus(part.partition("=")[0]), part) for part in parts]
        named = [each for each in named if each[0] not in ignored]
        named.sort(key=lambda each: each[0])
        if named:
            url = f"{url}?{'&'.join(part for _, part in named)}"
    text = url.encode("utf-8", "surrogatepass")
    if len(text) <= PAGE_BYTES_MAX and url.isprintable():
        return url
    return f"hash:{blake2b(text, digest_size=24).hexdigest()}"


def etag_of(body: bytes) -> bytes:
    """An entity tag for a body; weak, since it may still be compressed on its way.

    Example:
        >>> etag_of(b"tea")
        b'W/"...
    """
    return b'W/"%s"' % blake2b(body, digest_size=16).hexdigest().encode()


def is_not_modified(request: Fields, response: Fields) -> bool:
    """Whether a GET's or HEAD's conditions mean that the client has the response already.

    If-None-Match is compared weakly, and counts before If-Modified-Since (RFC 9110, 13.2.2).

    Example:
        >>> is_not_modified({b"if-none-match": b'"a", W/"b"'}, {b"etag": b'"b"'})
        True
    """
    tags = request.get(b"if-none-match")
    if tags is not None:
        own = response.get(b"etag")
        given = {tag.removeprefix(b"W/") for tag in _TAG.findall(tags)}
        return tags.strip() == b"*" or (own is not None and own.removeprefix(b"W/") in given)
    since = moment(request.get(b"if-modified-since"))
    changed = moment(response.get(b"last-modified"))
    return since is not None and changed is not None and changed <= since


def of_304(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The fields that a 304 repeats of the response that it stands for.

    Example:
        >>> of_304([(b"etag", b'"a"'), (b"content-length", b"3")])
        [(b'etag', b'"a"')]
    """
    return [(name, value) for name, value in headers if name.lower() in _KEPT_BY_304]


def to_store(headers: Headers) -> list[tuple[bytes, bytes]]:
    """A response's fields without those of its connection, which `Connection` may name, and Age.

    Example:
        >>> to_store([(b"connection", b"close, x-hop"), (b"x-hop", b"1"), (b"etag", b'"a"')])
        [(b'etag', b'"a"')]
    """
    headers = [(bytes(name), bytes(value)) for name, value in headers]
    named = fields(headers).get(b"connection", b"").lower().split(b",")
    gone = _OF_CONNECTION | {b"age", *(name.strip() for name in named)}
    return [(name, value) for name, value in headers if name.lower() not in gone]

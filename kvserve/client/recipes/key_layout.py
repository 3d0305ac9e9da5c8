"""The keys that the recipes keep their state under. No I/O.

    kvserve:claim:KEY                      the claim to compute KEY        get_or_set, memoize
    kvserve:memo:MODULE.FUNCTION(ARGUMENTS)  a result                      memoize without `key=`
    kvserve:lock:NAME                      the lock's holder               lock
    kvserve:fence:NAME                     its last fencing number         lock
    kvserve:fixed:NAME:ID                  a counter, for one window       limiter
    kvserve:sliding:NAME:ID                the times of the last hits      limiter(sliding=True)
    kvserve:sliding-counter:NAME:ID        two windows' counts             limiter, "counter"
    kvserve:fixed:NAME:GENERATION:NAME:ID  the same in a namespace, whose name comes first
    kvserve:generation:NAME                the generation of a namespace   namespace
    NAME:GENERATION:KEY                    a user's key in a namespace     namespace
    NAME::NAME:GENERATIONS:KEY             in a namespace within another

NAME is the name itself, or, within namespaces, their names and it, joined by colons; what would be
mistaken for a separator is written %3A or %25. A name too long for a key is hashed.

The keys of an inner namespace do not begin like those of the outer one: what is cleared in the
inner one must be out of reach from the outer one, too.

So `kvserve:` is a prefix that users leave alone. Nothing enforces it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from kvserve.errors import InvalidArgument
from kvserve.limits import KEY_BYTES_MAX
from kvserve.protocol.commands import Window
from kvserve.table._core import check_key

Key = str | bytes

_HASHED = "#"
LIMITERS = {
    Window.FIXED: "fixed",
    Window.LOG: "sliding",
    Window.COUNTER: "sliding-counter",
}


def flight_key(key: Key) -> Key:
    """The key of the claim on a key's computation.

    Example:
        >>> flight_key("user:1"), flight_key(b"user:1")
        ('kvserve:claim:user:1', b'kvserve:claim:user:1')
    """
    check_key(key)
    return _fitting("kvserve:claim:", key)


def named(kind: str, path: Sequence[str], name: str) -> str:
    """The key of a thing with a name.

    Args:
        kind: what it is, such as `lock`.
        path: the names of the namespaces around it.
        name: its own.

    Raises:
        InvalidArgument: the name is no str, or empty.

    Example:
        >>> named("lock", ["eu"], "nightly-job")
        'kvserve:lock:eu:nightly-job'
    """
    return named_by_parts(kind, [quoted(part) for part in (*path, name)])


def named_by_parts(kind: str, parts: Sequence[str]) -> str:
    """As `named`, for names that are quoted already."""
    return str(_fitting(f"kvserve:{kind}:", ":".join(parts)))


def limiter_key(kind: str, prefix: str, name: str, who: str) -> str:
    """The key of a limiter's state.

    Args:
        kind: one of LIMITERS.
        prefix: of the namespace's keys, with its generation; empty where there is none.
        name: the limiter's, quoted.
        who: the id, not empty.

    Example:
        >>> limiter_key("fixed", "", "login", "192.0.2.7")
        'kvserve:fixed:login:192.0.2.7'
    """
    return str(_fitting(f"kvserve:{kind}:", f"{prefix}{name}:{quoted(who)}"))


def quoted(name: str) -> str:
    """A name without colons; different names stay different.

    Example:
        >>> quoted("a:b")
        'a%3Ab'
    """
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"name = {name!r:.80}: use a str that is not empty")
    return name.replace("%", "%25").replace(":", "%3A")


def joined(prefix: str, key: Key) -> Key:
    """A key with a prefix, of the key's type."""
    return prefix + key if isinstance(key, str) else prefix.encode() + key


def checked(keys: Iterable[Key]) -> Iterator[Key]:
    """Yields the keys; raises InvalidKey at the first that is not a valid key."""
    for key in keys:
        check_key(key)
        yield key


def hashed(text: bytes) -> str:
    """32 bytes that stand for any number of them, as text."""
    return _HASHED + hashlib.blake2b(text, digest_size=32).hexdigest()


def _fitting(prefix: str, key: Key) -> Key:
    # A str that cannot be encoded is no valid key: the client will raise.
    raw = key.encode(errors="surrogatepass") if isinstance(key, str) else key
    # What looks like a hash is hashed as well, or a user could choose the key of another.
    if len(prefix) + len(raw) > KEY_BYTES_MAX or raw.startswith(_HASHED.encode()):
        return prefix + hashed(raw)
    return joined(prefix, key)

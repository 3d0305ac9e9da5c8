"""What a client does with keys, values and lifetimes that do not fit. No I/O.

A key that is too long, in a namespace or outside, is replaced by a key of the same kind: its
beginning, `#`s, and a hash. That key has a length that only such keys have (the longest of all
outside of namespaces, one byte less in them); a user's own key of that length and form is replaced
as well, so that no key stands for two. What `fitting` and `as_found` return has a type of its own,
and is not replaced again.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from kvserve import limits
from kvserve.errors import InvalidArgument, InvalidTTL
from kvserve.limits import KEY_BYTES_MAX
from kvserve.table._core import check_key

Key = str | bytes
TTL = float | datetime.timedelta | None
LongKeys = Literal["refuse", "hash"]
TooLarge = Literal["keep", "remove"]
Lifetimes = Literal["strict", "lenient"]

DO_NOT_KEEP: Final = 0  # as a ttl of a client with lenient lifetimes
_HASH_BYTES = 32
_HEX_BYTES = 2 * _HASH_BYTES
_LOOKS_REPLACED = re.compile(rb".*#[0-9a-f]{%d}" % _HEX_BYTES, re.DOTALL)


class ReplacedText(str):
    """A key that stands for a longer one."""

    __slots__ = ()


class ReplacedBytes(bytes):
    """A key that stands for a longer one."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The options of `kvserve.connect` and `Client.namespace` about what does not fit.

    Raises:
        InvalidArgument: one is none of its words.
    """

    long_keys: LongKeys = "refuse"
    too_large: TooLarge = "keep"
    lifetimes: Lifetimes = "strict"

    def __post_init__(self) -> None:
        words = {
            "long_keys": ("refuse", "hash"),
            "too_large": ("keep", "remove"),
            "lifetimes": ("strict", "lenient"),
        }
        for name, allowed in words.items():
            if getattr(self, name) not in allowed:
                one, other = allowed
                raise InvalidArgument(f"{name} = {getattr(self, name)!r}: use {one!r} or {other!r}")

    def changed(
        self, long_keys: LongKeys | None, too_large: TooLarge | None, lifetimes: Lifetimes | None
    ) -> Rules:
        """These rules, with those of the others that are not None."""
        return Rules(
            long_keys=self.long_keys if long_keys is None else long_keys,
            too_large=self.too_large if too_large is None else too_large,
            lifetimes=self.lifetimes if lifetimes is None else lifetimes,
        )

    def key(self, key: Key) -> Key:
        """The key itself, or what replaces it."""
        return fitting(key) if self.long_keys == "hash" else key

    def full_key(self, prefix: str, key: Key) -> Key:
        """A namespace's key with the prefix of its keys.

        Raises:
            InvalidKey: it is no valid key.
        """
        if self.long_keys == "hash":
            key = fitting(key, len(prefix.encode()))
        check_key(key)
        return prefix + key if isinstance(key, str) else prefix.encode() + key

    def found(self, keys: Sequence[Key], before_bytes: int = 0) -> Sequence[Key]:
        """Keys that a scan returns; one that stands for another can be used as it is."""
        if self.long_keys == "refuse":
            return keys
        return [as_found(key, before_bytes) for key in keys]

    def lifetime(self, ttl: TTL) -> TTL:
        """The ttl itself; if lifetimes are lenient, `math.inf` for one beyond a century, and
        DO_NOT_KEEP for one that is over.

        Raises:
            InvalidTTL: it is no number.
        """
        return ttl if self.lifetimes == "strict" else lifetime(ttl, zero="now", none=None)


def lifetime(
    seconds: TTL, *, zero: Literal["never", "now"], none: float | None = math.inf
) -> float | None:
    """A lifetime as frameworks mean it, as a ttl for kvserve.

    Args:
        seconds: a number or a timedelta; None: for ever.
        zero: what 0 means: `never` expires, as for cachelib and aiocache, or `now`, as for Django.
        none: what is returned for None: `math.inf`; or None, which is the server's `default_ttl`.

    Returns:
        Seconds; `math.inf` for ever, also for what is beyond a century; or
        `kvserve.DO_NOT_KEEP`, which is 0, for a lifetime that is over: also if it is negative.
        A client or namespace with `lifetimes="lenient"` takes all of these.

    Raises:
        InvalidTTL: it is no number.
        InvalidArgument: `zero` is neither of its words.

    Example:
        >>> lifetime(60, zero="now"), lifetime(None, zero="now"), lifetime(10**12, zero="now")
        (60, inf, inf)
        >>> lifetime(0, zero="never"), lifetime(0, zero="now") == kvserve.DO_NOT_KEEP
        (inf, True)
    """
    if zero not in ("never", "now"):
        raise InvalidArgument(f"zero = {zero!r}: use 'never' or 'now'")
    if seconds is None:
        return none
    if isinstance(seconds, datetime.timedelta):
        seconds = seconds.total_seconds()
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds != seconds:
        raise InvalidTTL(f"a lifetime is seconds, a timedelta or None, not {seconds!r:.80}")
    if seconds > limits.TTL_MS_MAX / 1000 or (seconds == 0 and zero == "never"):
        return math.inf
    return seconds if seconds > 0 else DO_NOT_KEEP


def fitting(key: Key, before_bytes: int = 0) -> Key:
    """The key, or what replaces one that is too long or that no UTF-8 has.

    Args:
        before_bytes: how long the prefix of a namespace is, which will come before it.

    Example:
        >>> fitting("user:1"), len(fitting("x" * 5000)), fitting("x" * 5000)[957:962]
        ('user:1', 1024, 'xx#a9')
    """
    if isinstance(key, (ReplacedText, ReplacedBytes)) or not isinstance(key, (str, bytes)):
        return key  # the latter to be refused
    room_bytes = KEY_BYTES_MAX - before_bytes
    replaced_bytes = _replaced_bytes(before_bytes)
    fits = True
    try:
        raw = key.encode() if isinstance(key, str) else key
    except UnicodeEncodeError:
        raw, fits = str(key).encode(errors="surrogatepass"), False
    if len(raw) == replaced_bytes and _LOOKS_REPLACED.fullmatch(raw):
        fits = False
    if fits and len(raw) <= room_bytes:
        return key
    digest = hashlib.blake2b(raw, digest_size=_HASH_BYTES).hexdigest()
    head_bytes = max(0, replaced_bytes - _HEX_BYTES - 1)
    head = raw[:head_bytes].decode(errors="ignore").encode()
    replaced = head + b"#" * (replaced_bytes - _HEX_BYTES - len(head)) + digest.encode()
    return ReplacedText(replaced.decode()) if isinstance(key, str) else ReplacedBytes(replaced)


def as_found(key: Key, before_bytes: int = 0) -> Key:
    """A key that is stored, so that `fitting` returns itself for it."""
    raw = key.encode() if isinstance(key, str) else key
    if len(raw) != _replaced_bytes(before_bytes) or not _LOOKS_REPLACED.fullmatch(raw):
        return key
    return ReplacedText(key) if isinstance(key, str) else ReplacedBytes(key)


def _replaced_bytes(before_bytes: int) -> int:
    """How long a key is that stands for another."""
    return KEY_BYTES_MAX - before_bytes - (before_bytes > 0)

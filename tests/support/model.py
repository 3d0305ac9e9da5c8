"""What the cache means: a dict with the client's operations, a clock, and no bound on memory.

It shares one thing with kvserve: the codec decides which values can be stored. All else is said
again here, in the plainest way, so that a mistake must be made twice to go unseen.
"""

from __future__ import annotations

import copy
import datetime
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import kvserve
from kvserve.errors import (
    CounterOverflow,
    InvalidArgument,
    InvalidKey,
    InvalidTTL,
    NotACounter,
    ValueTooLarge,
)
from kvserve.protocol import codec

Key = str | bytes
TTL = float | datetime.timedelta | None

KEY_BYTES_MAX = 1024
TTL_SECONDS_MAX = 100 * 366 * 86_400
COUNTERS = range(-(2**63), 2**63)


@dataclass
class Record:
    """A stored value."""

    key: Key
    value: Any
    version: int
    expiry: float
    tags: frozenset[str] = frozenset()


class Model:
    """The meaning of `kvserve.Client`.

    Args:
        clock: seconds, from any origin.
        value_bytes_max: the largest value as the codec writes it.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, value_bytes_max: int = 2**20
    ) -> None:
        self._clock = clock
        self._value_bytes_max = value_bytes_max
        self._records: dict[bytes, Record] = {}
        self._version = 0

    def get(self, key: Key, default: Any = None) -> Any:
        """The value, or the default."""
        return self.gets(key, default)[0]

    def gets(self, key: Key, default: Any = None) -> tuple[Any, int | None]:
        """The value and its version, or the default and None."""
        record = self._find(key)
        return (copy.deepcopy(record.value), record.version) if record else (default, None)

    def set(self, key: Key, value: Any, ttl: TTL = None) -> int:
        """Stores; returns the new version."""
        stored, expiry = self._check(value), self._expiry(ttl)
        return self._store(key, stored, expiry)

    def add(self, key: Key, value: Any, ttl: TTL = None) -> bool:
        """Stores only what is not there."""
        stored, expiry = self._check(value), self._expiry(ttl)
        return not self._find(key) and bool(self._store(key, stored, expiry))

    def get_record(self, key: Key) -> tuple[Any, float, int] | None:
        """The value, its seconds left, and its version."""
        record = self._find(key)
        if record is None:
            return None
        left = record.expiry - self._clock()
        return kvserve.Record(copy.deepcopy(record.value), left, record.version)

    def replace(self, key: Key, value: Any, ttl: TTL = None, *, keep_ttl: bool = False) -> bool:
        """Stores only over what is there."""
        stored, expiry = self._check(value), self._expiry(ttl, keep_ttl)
        record = self._find(key)
        if record is None:
            return False
        return bool(self._store(key, stored, record.expiry if keep_ttl else expiry))

    def cas(
        self, key: Key, value: Any, version: int, ttl: TTL = None, *, keep_ttl: bool = False
    ) -> bool:
        """Stores only over this version."""
        stored, expiry = self._check(value), self._expiry(ttl, keep_ttl)
        record = self._find(key)
        if record is None or record.version != version:
            return False
        return bool(self._store(key, stored, record.expiry if keep_ttl else expiry))

    def update(
        self, key: Key, function: Callable[[Any], Any], default: Any = None, ttl: TTL = None
    ) -> Any:
        """Stores what the function makes of the value."""
        self._expiry(ttl)
        while True:
            held, version = self.gets(key, copy.deepcopy(default))
            value = function(copy.deepcopy(held))
            if value is kvserve.UNCHANGED:
                return held
            if version is None:
                done = self.add(key, value, ttl)
            else:
                done = self.cas(key, value, version, ttl, keep_ttl=ttl is None)
            if done:
                return self.get(key)

    def expire_at(self, key: Key, when: Any) -> bool:
        """Gives what is there the time until a moment."""
        if isinstance(when, datetime.datetime) and when.tzinfo is not None:
            when = when.timestamp()
        if isinstance(when, bool) or not isinstance(when, (int, float)):
            raise InvalidArgument(f"{when!r}")
        left = when - time.time()
        return self.delete(key) if left <= 0 else self.touch(key, left)

    def delete(self, key: Key, version: int | None = None) -> bool:
        """Removes, if it has this version; says whether it did."""
        record = self._find(key)
        if record is None or version not in (None, record.version):
            return False
        return bool(self._records.pop(raw(key)))

    def tag(self, key: Key, tags: Iterable[str]) -> None:
        """Gives tags to what was just stored."""
        self._records[raw(key)].tags = frozenset(tags)

    def invalidate_tag(self, tag: str) -> None:
        """Removes what has a tag."""
        self._records = {key: at for key, at in self._records.items() if tag not in at.tags}

    def touch(self, key: Key, ttl: TTL) -> bool:
        """Gives what is there a new time to live. Its version stays."""
        expiry = self._expiry(ttl)
        record = self._find(key)
        if record is not None:
            record.expiry = expiry
        return record is not None

    def ttl(self, key: Key) -> float | None:
        """Seconds left; infinity for what never expires, None for what is not there."""
        record = self._find(key)
        return record.expiry - self._clock() if record else None

    def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """Adds to a counter. One that is missing begins at `initial`, unless that is None."""
        if type(delta) is not int or delta not in COUNTERS:
            raise InvalidArgument("delta")
        if initial is not None and (type(initial) is not int or initial not in COUNTERS):
            raise InvalidArgument("initial")
        expiry = self._expiry(ttl)
        record = self._find(key)
        if record is None:
            if initial is None:
                return None
            record = Record(key, initial, 0, expiry)
        if type(record.value) is not int:
            raise NotACounter(f"{key!r}")
        if record.value + delta not in COUNTERS:
            raise CounterOverflow(f"{key!r}")
        self._store(record.key, record.value + delta, record.expiry)
        self.tag(key, record.tags)
        return int(record.value + delta)

    def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None
    ) -> int | None:
        """Subtracts from a counter."""
        return self.incr(key, -delta, initial, ttl)

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Those that are there, by the caller's keys."""
        return {key: self.get(key) for key in keys if key in self}

    def set_many(self, mapping: Mapping[Key, Any], ttl: TTL = None) -> None:
        """Stores all, or, if one of them is wrong, none."""
        for key, value in mapping.items():
            raw(key)
            self._check(value)
        for key, value in mapping.items():
            self.set(key, value, ttl)

    def delete_many(self, keys: Iterable[Key]) -> int:
        """Removes all; returns how many were there."""
        return sum([self.delete(key) for key in keys])

    def scan(self, prefix: Key = "", match: Key | None = None) -> Iterator[Key]:
        """The keys that begin with the prefix and match the pattern."""
        start = prefix.encode() if isinstance(prefix, str) else prefix
        pattern = match.encode() if isinstance(match, str) else match
        return iter(
            [
                record.key
                for key, record in list(self._records.items())
                if key.startswith(start)
                and (pattern is None or matches(pattern, key))
                and self._find(key)
            ]
        )

    def delete_prefix(self, prefix: Key) -> int:
        """Removes the keys that begin with the prefix."""
        return self.delete_many(self.scan(prefix))

    def delete_matching(self, match: Key) -> int:
        """Removes the keys that match the pattern."""
        return self.delete_many(self.scan("", match))

    def flush(self) -> None:
        """Removes everything."""
        self._records.clear()

    def close(self) -> None:
        """Nothing to close."""

    def __contains__(self, key: Key) -> bool:
        return self._find(key) is not None

    def __getitem__(self, key: Key) -> Any:
        if key not in self:
            raise KeyError(key)
        return self.get(key)

    def __setitem__(self, key: Key, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: Key) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def _find(self, key: Key) -> Record | None:
        record = self._records.get(raw(key))
        if record is not None and record.expiry <= self._clock():
            del self._records[raw(key)]
            return None
        return record

    def _store(self, key: Key, value: Any, expiry: float) -> int:
        self._version += 1
        self._records[raw(key)] = Record(key, value, self._version, expiry)
        return self._version

    def _check(self, value: Any) -> Any:
        _, payload = codec.encode(value)
        if len(payload) > self._value_bytes_max:
            raise ValueTooLarge(f"{len(payload)} bytes")
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        return copy.deepcopy(value)

    def _expiry(self, ttl: TTL, keep_ttl: bool = False) -> float:
        if keep_ttl and ttl is not None:
            raise InvalidArgument("both")
        if ttl is None:
            return math.inf
        if isinstance(ttl, datetime.timedelta):
            ttl = ttl.total_seconds()
        if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
            raise InvalidTTL(f"{ttl!r}")
        if ttl in (math.inf, TTL_SECONDS_MAX):
            return math.inf
        if not 0 < ttl <= TTL_SECONDS_MAX:  # false for not-a-number, too
            raise InvalidTTL(f"{ttl!r}")
        return self._clock() + ttl


def matches(pattern: bytes, text: bytes) -> bool:
    """Redis's stringmatchlen: whether a text matches a pattern."""
    if not pattern:
        return not text
    first = pattern[:1]
    if first == b"*":
        return any(matches(pattern[1:], text[n:]) for n in range(len(text) + 1))
    if not text:
        return False
    if first == b"?":
        return matches(pattern[1:], text[1:])
    if first == b"[":
        is_in, rest = _in_brackets(pattern[1:], text[0])
        return is_in and matches(rest, text[1:])
    if first == b"\\" and len(pattern) > 1:
        pattern = pattern[1:]
    return pattern[0] == text[0] and matches(pattern[1:], text[1:])


def _in_brackets(rest: bytes, byte: int) -> tuple[bool, bytes]:
    """Whether the brackets have a byte, and what follows them."""
    is_not = rest.startswith(b"^")
    rest = rest[is_not:]
    found = False
    while rest and not rest.startswith(b"]"):
        if rest.startswith(b"\\") and len(rest) > 1:
            found, rest = found or rest[1] == byte, rest[2:]
        elif len(rest) > 2 and rest[1:2] == b"-":
            found = found or min(rest[0], rest[2]) <= byte <= max(rest[0], rest[2])
            rest = rest[3:]
        else:
            found, rest = found or rest[0] == byte, rest[1:]
    return found != is_not, rest[1:]


def raw(key: Key) -> bytes:
    """The bytes that a key is; `"a"` and `b"a"` are one key.

    Raises:
        InvalidKey: not 1 to 1024 bytes of str or bytes.
    """
    if not isinstance(key, (str, bytes)):
        raise InvalidKey(f"{key!r}")
    try:
        encoded = key.encode() if isinstance(key, str) else bytes(key)
    except UnicodeEncodeError:
        raise InvalidKey(f"{key!r}") from None
    if not 1 <= len(encoded) <= KEY_BYTES_MAX:
        raise InvalidKey(f"{len(encoded)} bytes")
    return encoded

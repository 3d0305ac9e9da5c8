"""Which keys of a call for many keys an error is about, as its caller named them. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kvserve.client.calls.operations import Key, Operations
from kvserve.client.calls.rules import Rules
from kvserve.errors import InvalidKey, KvserveError, MisuseError
from kvserve.protocol.codec import Value
from kvserve.table._core import check_key


@contextmanager
def naming(
    operations: Operations,
    names: Mapping[Key, Key],
    items: Mapping[Key, Value],
    unconfirmed: Callable[[], Iterable[Key]],
    marks_bytes: int = 0,
) -> Iterator[None]:
    """Tells the errors of a block their `key` and `failed`.

    Args:
        operations: what encodes the values.
        names: what the caller calls each key.
        items: what was to be stored.
        unconfirmed: returns the keys that are not known to be stored.
        marks_bytes: how many bytes of tags each value begins with.
    """
    try:
        yield
    except KvserveError as error:
        error.failed = [names[key] for key in unconfirmed()]
        if isinstance(error, MisuseError):
            _name(error, operations, names, items, marks_bytes)
        raise


def _name(
    error: MisuseError,
    operations: Operations,
    names: Mapping[Key, Key],
    items: Mapping[Key, Value],
    marks_bytes: int,
) -> None:
    """Finds the first item that is refused in this way."""
    for key, value in items.items():
        try:
            check_key(key)
            operations.encode(value, marks_bytes)
        except MisuseError as found:
            if type(found) is type(error):
                error.key = names[key]
                error.args = (f"{names[key]!r:.80}: {error}",)
                return


def failures(keys: Iterable[Key], results: Iterable[Any]) -> list[Key]:
    """The keys whose results are errors."""
    both = zip(keys, results, strict=True)
    return [key for key, result in both if isinstance(result, KvserveError)]


def full_names(rules: Rules, prefix: str, keys: Iterable[Key]) -> dict[Key, Key]:
    """A namespace's keys under those with the prefix; an error names the key it is about."""
    keys = list(keys)
    names = {}
    for key in keys:
        try:
            names[rules.full_key(prefix, key)] = key
        except InvalidKey as error:
            error.key, error.failed = key, keys
            raise
    return names

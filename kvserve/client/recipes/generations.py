"""A namespace's keys carry its generation; clearing the namespace changes that, in O(1).

No two generations are the same, whichever processes make them: nanoseconds of the clock and random
bits. So a namespace whose generation was evicted begins empty; old records never come back. They
stay in memory, out of reach, until they expire or are evicted. A scan over all keys leaves them
out: it recognises a key of a namespace by the form of its generation.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from kvserve.client.calls import globs
from kvserve.client.calls.operations import Key, Operation
from kvserve.client.calls.rules import Rules
from kvserve.client.recipes import key_layout
from kvserve.client.recipes.driver import Driver
from kvserve.errors import KvserveError, OutcomeUnknown
from kvserve.table._core import AskWorker

_RANDOM_BITS = 28
_BEHIND_NAMES = ":~"  # no other key is likely to have this
_LIMITER = f"(?:kvserve:(?:{'|'.join(key_layout.LIMITERS.values())}):)?"  # its key begins so
_STAMP = re.compile(_LIMITER + r"((?:[^:]+::)*[^:]+):((?:~[0-9a-f]{23})+):")
_STAMP_OF_BYTES = re.compile(_STAMP.pattern.encode())


def new_generation() -> str:
    """A generation that no namespace has had, in 24 characters."""
    return f"~{time.time_ns():016x}{secrets.randbits(_RANDOM_BITS):07x}"


async def living(driver: Driver, keys: Sequence[Key]) -> list[Key]:
    """The keys without those in namespaces, at any depth, that were cleared since."""
    stamps = [_stamp(key) for key in keys]
    cleared: dict[tuple[str, str] | None, bool] = {None: False}
    for stamp in stamps:
        if stamp is not None and stamp not in cleared:
            cleared[stamp] = await _is_cleared(driver, *stamp)
    return [key for key, stamp in zip(keys, stamps, strict=True) if not cleared[stamp]]


def are_in_namespaces(keys: Sequence[Key]) -> bool:
    """Whether some of these keys are in namespaces, so that `living` may leave some out."""
    return any(map(_stamp, keys))


def _stamp(key: Key) -> tuple[str, str] | None:
    """The names and the generations before a key; None if it is in no namespace."""
    if isinstance(key, str):
        found = _STAMP.match(key) if _BEHIND_NAMES in key else None
        return (found[1], found[2]) if found else None
    raw = _STAMP_OF_BYTES.match(key)
    if raw is None:
        return None
    with suppress(UnicodeDecodeError):  # then they are no names
        return raw[1].decode(), raw[2].decode()
    return None


async def _is_cleared(driver: Driver, names: str, generations: str) -> bool:
    parts = names.split("::")
    current = []
    for depth in range(len(parts)):
        try:
            found = await driver.get(key_layout.named_by_parts("generation", parts[: depth + 1]))
        except KvserveError:  # a store that does not answer, say: a scan goes on
            return False
        current.append(str(found))
    return "".join(current) != generations


async def begin(driver: Driver, generation_key: Key) -> Any:
    """The generation of a namespace that had none a moment ago, made here or by another process.

    Raises:
        ServerError: no worker answered in the client's time.
    """
    return await driver.within(driver.timeout, _begin, driver, generation_key)


async def _begin(driver: Driver, generation_key: Key) -> Any:
    while True:
        generation = new_generation()
        with suppress(OutcomeUnknown):  # then the next read shows it
            if await driver.add(generation_key, generation, math.inf):
                return generation
        found = await driver.get(generation_key)
        if found is not None:
            return found


class NamespacePath:
    """Where the keys of a namespace are.

    Args:
        path: the names of the namespaces around it, and its own.
    """

    def __init__(self, path: tuple[str, ...]) -> None:
        self.path = path
        # What stands before the generations in each key's prefix.
        self.names = "::".join(key_layout.quoted(name) for name in path)
        # The generations around it count too: clearing a namespace clears all that is in it.
        self.generation_keys = [
            key_layout.named("generation", path[:depth], name) for depth, name in enumerate(path)
        ]

    def prefix_here(self, get_here: Callable[[Key], Any]) -> str | AskWorker | None:
        """The prefix as shared memory shows it; None: nothing was ever stored in the namespace."""
        generations = []
        for key in self.generation_keys:
            generation = get_here(key)
            if generation is None or isinstance(generation, AskWorker):
                return generation
            generations.append(generation)
        return self.prefix(generations)

    def prefix(self, generations: Sequence[Any]) -> str:
        """The prefix of each key, given the generations of all levels."""
        return f"{self.names}:{''.join(map(str, generations))}:"


def full_terms(before: str, prefix: Key, match: Key | None) -> tuple[Key, Key | None]:
    """A prefix and a pattern of keys in a namespace, as those of the keys with `before`."""
    if match is not None:
        globs.parse(match)  # raises for what is none
        match = key_layout.joined(globs.literal(before), match)
    return key_layout.joined(before, prefix), match


def moved(operations: list[Operation], prefix: str, rules: Rules) -> list[Operation]:
    """The operations, on the same keys with the prefix."""
    return [
        operation._replace(
            arguments=(rules.full_key(prefix, operation.key), *operation.arguments[1:])
        )
        for operation in operations
    ]

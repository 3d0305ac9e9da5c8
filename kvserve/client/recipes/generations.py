"""Where a namespace's keys are: behind a generation, so that to clear it is to change a number.

A generation is used once in a lifetime, whoever makes it: nanoseconds of the clock and random bits.
So a namespace whose generation was evicted begins empty; old records never come back. They stay in
memory, out of reach, until they expire or are evicted.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kvserve.client.operations import Key, Operation
from kvserve.client.recipes import layout
from kvserve.client.recipes.ports import Port
from kvserve.errors import OutcomeUnknown

_RANDOM_BYTES = 4


def new_generation() -> str:
    """One that no namespace has had."""
    return f"{time.time_ns():x}{secrets.token_hex(_RANDOM_BYTES)}"


async def begin(port: Port, generation_key: Key) -> Any:
    """The generation of a namespace that had none a moment ago, whoever gave it one.

    Raises:
        ServerError: no worker answered in the client's time.
    """
    return await port.within(port.timeout, _begin, port, generation_key)


async def _begin(port: Port, generation_key: Key) -> Any:
    while True:
        generation = new_generation()
        with suppress(OutcomeUnknown):  # then the next look tells
            if await port.add(generation_key, generation, math.inf):
                return generation
        found = await port.get(generation_key)
        if found is not None:
            return found


class Place:
    """Where a namespace is.

    Args:
        path: the names of the namespaces around it, and its own.
    """

    def __init__(self, path: tuple[str, ...]) -> None:
        self.path = path
        self._names = [layout.quoted(name) for name in path]
        # Those around it count, too: to clear one clears all that is in it.
        self.generation_keys = [
            layout.named("generation", path[:depth], name) for depth, name in enumerate(path)
        ]

    def prefix(self, generations: Sequence[Any]) -> str:
        """What stands before each key, given the generations of all levels."""
        levels = zip(self._names, generations, strict=True)
        return "".join(f"{name}:{generation}:" for name, generation in levels)


def moved(operations: list[Operation], prefix: str) -> list[Operation]:
    """The operations, on the keys behind the prefix."""
    return [
        operation._replace(
            arguments=(layout.joined(prefix, operation.key), *operation.arguments[1:])
        )
        for operation in operations
    ]

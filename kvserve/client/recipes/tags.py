"""Tags: values that one write makes misses, wherever they are.

A tag has a record of its own, which holds its generation: a random number. A value that is stored
with tags carries their generations, and is a hit only while the tags' records still hold these. So
a tag is invalidated by deleting its record; the next value that is stored with it begins another
generation. No two are the same, so a record that was evicted makes its values misses, for ever.

The generations are read before a value is computed: one whose computation began before an
invalidation is stored out of reach. See kv_tag in table/core/layout.h for the bytes.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from kvserve.client.calls.rules import as_found
from kvserve.client.recipes import key_layout
from kvserve.client.recipes.driver import Driver
from kvserve.errors import InvalidArgument, OutcomeUnknown
from kvserve.limits import COUNTER_MIN, TAGS_MAX
from kvserve.table._core import check_key

_GENERATION_BITS = 64


class TagKeys(tuple[str, ...]):
    """The keys of the records of some tags."""

    __slots__ = ()


NO_TAGS = TagKeys()


def tag_keys(path: Sequence[str], tags: Any) -> TagKeys:
    """The keys of the records of tags.

    Args:
        path: the names of the namespaces around them.
        tags: their names, or what this returned for them.

    Raises:
        InvalidArgument: a name is no str, or empty; they are one str, or more than 15.
        InvalidKey: a name cannot be encoded as UTF-8.

    Example:
        >>> tag_keys(["eu"], ["user:7", "user:7"])
        ('kvserve:tag:eu:user%3A7',)
    """
    if isinstance(tags, TagKeys):
        return tags
    if isinstance(tags, (str, bytes)) or not isinstance(tags, Iterable):
        raise InvalidArgument(f"tags = {tags!r:.80}: use a list of names")
    keys = TagKeys(dict.fromkeys(_key(path, name) for name in tags))
    if len(keys) > TAGS_MAX:
        raise InvalidArgument(f"{len(keys)} tags: a value has at most {TAGS_MAX}")
    return keys


def _key(path: Sequence[str], name: str) -> str:
    """The same for all clients, also those that replace long keys."""
    key = key_layout.named("tag", path, name)
    check_key(key)
    found = as_found(key)
    return found if isinstance(found, str) else key


async def marks_of(driver: Driver, tags: TagKeys) -> bytes:
    """The generations of tags now, as a value with these tags begins. A tag that has none gets one.

    Raises:
        InvalidArgument: there is a store behind the table, which keeps no tags.
        ServerError: no worker answered in the client's time.
    """
    if not tags:
        return b""
    driver.mark((), ())  # raises where no value can have tags
    generations = [await _generation(driver, key) for key in tags]
    return driver.mark(tags, generations)


async def _generation(driver: Driver, key: str) -> int:
    found = await driver.get(key)
    if _is_generation(found):
        return int(found)
    begun: int = await driver.within(driver.timeout, _begin, driver, key)
    return begun


async def _begin(driver: Driver, key: str) -> int:
    """The generation of a tag that had none a moment ago, made here or by another process."""
    while True:
        generation = secrets.randbits(_GENERATION_BITS) + COUNTER_MIN
        with suppress(OutcomeUnknown):  # then the next read shows it
            if generation and await driver.add(key, generation, math.inf):
                return generation
        found = await driver.get(key)
        if _is_generation(found):
            return int(found)
        await driver.delete(key)  # what a tag's record never holds


def _is_generation(found: Any) -> bool:
    return type(found) is int and found != 0


async def invalidate(driver: Driver, key: str) -> None:
    """Makes all values with a tag misses, by one write.

    Args:
        key: of the tag's record.

    Raises:
        InvalidArgument: there is a store behind the table, which keeps no tags.
        ServerError: no worker answered in the client's time.
    """
    driver.mark((), ())
    await driver.delete(key)

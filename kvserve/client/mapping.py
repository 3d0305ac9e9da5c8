"""A client or a namespace as a mapping: brackets, `in` and `del`, over the methods that it has."""

from __future__ import annotations

from typing import Any

from kvserve.client.calls.operations import Key
from kvserve.client.contract import Keyed
from kvserve.protocol.codec import Value


class MappingMethods:
    """Mapping methods for what is `Keyed`.

    Example:
        >>> cache["user:1"] = "Ada"
        >>> cache["user:1"], "user:1" in cache
        ('Ada', True)
        >>> del cache["user:1"]
        >>> cache["user:1"]
        Traceback (most recent call last):
        KeyError: 'user:1'
    """

    def __contains__(self: Keyed, key: Key) -> bool:
        """See `Client.contains`."""
        return self.contains(key)

    def __getitem__(self: Keyed, key: Key) -> Any:
        """The value of a key; raises KeyError on a miss."""
        missing = object()
        value = self.get(key, missing)
        if value is missing:
            raise KeyError(key)
        return value

    def __setitem__(self: Keyed, key: Key, value: Value) -> None:
        """`set` without a time to live."""
        self.set(key, value)

    def __delitem__(self: Keyed, key: Key) -> None:
        """`delete`; raises KeyError on a miss."""
        if not self.delete(key):
            raise KeyError(key)

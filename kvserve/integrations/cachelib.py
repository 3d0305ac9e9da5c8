"""cachelib's cache, for Flask-Caching, Flask-Session, and code that takes a cachelib cache.

docs/flask.md has the settings. A timeout of 0 is for ever, as everywhere in cachelib.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any

from cachelib.base import BaseCache

from kvserve.errors import CounterOverflow, InvalidArgument, NotACounter, ValueTooLarge
from kvserve.integrations.shared import TOO_LARGE, open_namespace, set_many

Timeout = int | float | datetime.timedelta | None
_NO_COUNTER = (NotACounter, CounterOverflow, InvalidArgument)


class KvserveCache(BaseCache):
    """A cache of cachelib in a namespace of a kvserve instance.

    Args:
        name: the instance's; None is the default one.
        default_timeout: seconds, or a timedelta; 0: for ever.
        key_prefix: comes before each key, and `clear` then removes these keys alone; a function is
            called for each.
        ignore_delete_many_errors: see cachelib.
        options: of `kvserve.integrations.shared.open_namespace`; the namespace is `cachelib` if
            they do not say.

    Raises:
        InvalidArgument, InvalidName: an argument is wrong. The server is not asked.

    Example:
        >>> pages = KvserveCache(default_timeout=60)
        >>> pages.set("front", {"tea": 3}), pages.get("front"), pages.get("back")
        (True, {'tea': 3}, None)
    """

    def __init__(
        self,
        name: str | None = None,
        default_timeout: int | datetime.timedelta = 300,
        key_prefix: str | Callable[[], str] | None = None,
        ignore_delete_many_errors: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(default_timeout, ignore_delete_many_errors=ignore_delete_many_errors)
        self.key_prefix = key_prefix or ""
        self.serializer: Any = None  # one of cachelib's, instead of the codec; see docs/flask.md
        self._cache = open_namespace({"name": name, **options}, namespace="cachelib")

    def _full(self, key: Any) -> str:
        prefix = self.key_prefix
        return f"{prefix if isinstance(prefix, str) else prefix()}{key}"

    def _ttl(self, timeout: Timeout) -> float:
        return self._normalize_timeout(timeout) or math.inf

    def _dumped(self, value: Any) -> Any:
        serializer = self.serializer
        return value if serializer is None or type(value) is int else serializer.dumps(value)

    def _loaded(self, found: Any) -> Any:
        serializer = self.serializer
        return found if serializer is None or type(found) is not bytes else serializer.loads(found)

    def get(self, key: str) -> Any:
        """See cachelib."""
        return self._loaded(self._cache.get(self._full(key)))

    def get_many(self, *keys: str) -> list[Any]:
        """See cachelib."""
        made = [self._full(key) for key in keys]
        found = self._cache.get_many(made)
        return [self._loaded(found.get(key)) for key in made]

    def set(self, key: str, value: Any, timeout: Timeout = None) -> bool:
        """See cachelib; False for what is too large, or lost."""
        try:
            return bool(self._cache.set(self._full(key), self._dumped(value), self._ttl(timeout)))
        except ValueTooLarge as error:
            TOO_LARGE.tell(error)
            return False

    def add(self, key: str, value: Any, timeout: Timeout = None) -> bool:
        """See cachelib."""
        try:
            return self._cache.add(self._full(key), self._dumped(value), self._ttl(timeout))
        except ValueTooLarge as error:
            TOO_LARGE.tell(error)
            return False

    def set_many(self, mapping: dict[str, Any], timeout: Timeout = None) -> list[Any]:
        """See cachelib; without the keys whose values are too large."""
        values = {self._full(key): self._dumped(value) for key, value in mapping.items()}
        refused = set(set_many(self._cache, values, self._ttl(timeout)))
        return [key for key, full in zip(mapping, values, strict=True) if full not in refused]

    def delete(self, key: str) -> bool:
        """See cachelib."""
        return self._cache.delete(self._full(key))

    def delete_many(self, *keys: str) -> list[Any]:
        """See cachelib."""
        self._cache.delete_many([self._full(key) for key in keys])
        left = [key for key in keys if self.has(key)]
        if left and not self.ignore_delete_many_errors:
            raise RuntimeError(f"Failed to delete keys: {left}")
        return [key for key in keys if key not in left]

    def has(self, key: str) -> bool:
        """See cachelib."""
        return self._cache.contains(self._full(key))

    def clear(self) -> bool:
        """Removes what has the prefix, or, without one, all that is in the namespace at once."""
        if prefix := self._full(""):
            self._cache.delete_prefix(prefix)
        else:
            self._cache.clear()
        return True

    def inc(self, key: str, delta: int = 1) -> Any:
        """See cachelib; atomic. A new one has the default timeout, and keeps it."""
        full, ttl = self._full(key), self._ttl(None)
        try:
            return self._cache.incr(full, delta, ttl=ttl)
        except _NO_COUNTER:  # Python can add what a counter cannot
            return self._loaded(
                self._cache.update(full, lambda held: self._dumped(self._loaded(held) + delta))
            )

    def dec(self, key: str, delta: int = 1) -> Any:
        """See cachelib; atomic."""
        return self.inc(key, -delta)

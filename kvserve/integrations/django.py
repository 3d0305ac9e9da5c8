"""Django's cache backend: `"BACKEND": "kvserve.integrations.django.KvserveCache"`.

docs/django.md has the settings. The asyncio methods read hits in the event loop; all else they
leave to a thread, as Django's do. A client of asyncio would be quicker where the loop lives long,
and slower where it lives for one request, but it would not know which deletes were lost here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import (
    DEFAULT_TIMEOUT,
    MEMCACHE_MAX_KEY_LENGTH,
    BaseCache,
    memcached_error_chars_re,
)

from kvserve import ASK_WORKER
from kvserve.errors import (
    CounterOverflow,
    InvalidArgument,
    InvalidValue,
    NotACounter,
    ValueTooLarge,
)
from kvserve.integrations.shared import TOO_LARGE, open_namespace, set_many

_COUNT_ITEMS = ("MAX_ENTRIES", "CULL_FREQUENCY")  # options of other backends; Django reads them
_NO_COUNTER = (NotACounter, CounterOverflow, InvalidArgument)
_odd_characters = memcached_error_chars_re.search


class KvserveCache(BaseCache):
    """A cache of Django in a namespace of a kvserve instance.

    Args:
        server: the instance's name, `LOCATION` in the settings; "" is the default one.
        params: the rest of the settings; `OPTIONS` are those of
            `kvserve.integrations.shared.open_namespace`; the namespace is `django` if they do not
            say.

    Raises:
        InvalidArgument, InvalidName: a setting is wrong. The server is not asked.

    Example:
        >>> pages = KvserveCache("", {"TIMEOUT": 60, "OPTIONS": {"timeout": 0.5}})
        >>> pages.set("front", {"tea": 3})
        >>> pages.get("front"), pages.get("back", "none")
        ({'tea': 3}, 'none')
    """

    def __init__(self, server: str, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        options = params.get("OPTIONS") or {}
        options = {name: each for name, each in options.items() if name not in _COUNT_ITEMS}
        self._cache = open_namespace({"name": server, **options}, namespace="django")

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> Any:
        """Seconds as kvserve takes them; it knows what 0, less and more than a century mean."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return math.inf if timeout is None else timeout

    def validate_key(self, key: str) -> None:
        """Warns as Django does; it is sooner found out here that there is nothing to warn of."""
        if len(key) > MEMCACHE_MAX_KEY_LENGTH or _odd_characters(key):
            super().validate_key(key)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """See Django."""
        return self._cache.get(self.make_and_validate_key(key, version), default)

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """As `get`; a hit is read here."""
        found = self._cache.get_here(self.make_and_validate_key(key, version), default)
        return await super().aget(key, default, version) if found is ASK_WORKER else found

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        """As `has_key`; a hit is seen here."""
        missing = self._missing_key
        found = self._cache.get_here(self.make_and_validate_key(key, version), missing)
        return bool(
            await super().ahas_key(key, version) if found is ASK_WORKER else found is not missing
        )

    def set(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        """See Django. What is too large is not kept, nor is what the key had before."""
        made = self.make_and_validate_key(key, version)
        try:
            self._cache.set(made, value, self.get_backend_timeout(timeout))
        except ValueTooLarge as error:
            TOO_LARGE.tell(error)
        except InvalidValue as error:
            raise _as_django_says(error) from None

    def add(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """See Django."""
        made = self.make_and_validate_key(key, version)
        try:
            return self._cache.add(made, value, self.get_backend_timeout(timeout))
        except ValueTooLarge as error:
            TOO_LARGE.tell(error)
            return False
        except InvalidValue as error:
            raise _as_django_says(error) from None

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """See Django."""
        made = self.make_and_validate_key(key, version)
        return self._cache.touch(made, self.get_backend_timeout(timeout))

    def delete(self, key: Any, version: int | None = None) -> bool:
        """See Django."""
        return self._cache.delete(self.make_and_validate_key(key, version))

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """See Django."""
        return self._cache.contains(self.make_and_validate_key(key, version))

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """See Django."""
        made = {self.make_and_validate_key(key, version): key for key in keys}
        return {made[key]: value for key, value in self._cache.get_many(made).items()}

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """As `get_many`; hits are read here."""
        missing, here = self._missing_key, self._cache.get_here
        keys = list(keys)
        found = [here(self.make_and_validate_key(key, version), missing) for key in keys]
        if asked := [key for key, value in zip(keys, found, strict=True) if value is ASK_WORKER]:
            answers = await sync_to_async(self.get_many)(asked, version)
            found = [
                answers.get(key, missing) if value is ASK_WORKER else value
                for key, value in zip(keys, found, strict=True)
            ]
        return {key: value for key, value in zip(keys, found, strict=True) if value is not missing}

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """See Django; returns the keys whose values are too large."""
        made = {self.make_and_validate_key(key, version): key for key in data}
        values = {key: data[each] for key, each in made.items()}
        try:
            refused = set_many(self._cache, values, self.get_backend_timeout(timeout))
        except InvalidValue as error:
            raise _as_django_says(error) from None
        return [made[key] for key in refused]

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """As `set_many`."""
        failed: list[Any] = await sync_to_async(self.set_many)(data, timeout, version)
        return failed

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """See Django."""
        self._cache.delete_many([self.make_and_validate_key(key, version) for key in keys])

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """As `delete_many`."""
        await sync_to_async(self.delete_many)(keys, version)

    def incr(self, key: Any, delta: Any = 1, version: int | None = None) -> Any:
        """See Django; atomic, and the value keeps the time that it has left."""
        made = self.make_and_validate_key(key, version)
        try:
            total: Any = self._cache.incr(made, delta, initial=None)
        except _NO_COUNTER:  # Python can add what a counter cannot
            return self._cache.update(made, lambda value: value + delta)
        if total is None:
            raise ValueError(f"Key '{key}' not found")
        return total

    async def aincr(self, key: Any, delta: Any = 1, version: int | None = None) -> Any:
        """As `incr`."""
        return await sync_to_async(self.incr)(key, delta, version)

    def clear(self) -> None:
        """Removes all that is in the namespace, of every prefix and version."""
        self._cache.clear()


def _as_django_says(error: InvalidValue) -> BaseException:
    """What the pickler raised, as other backends raise it."""
    return error.__cause__ or error

"""Flask-Caching's backend: `CACHE_TYPE = "kvserve.integrations.flask_caching.KvserveCache"`."""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask_caching.backends.base import BaseCache

from kvserve.integrations import cachelib


class KvserveCache(cachelib.KvserveCache, BaseCache):
    """What Flask-Caching makes of an application's settings.

    `CACHE_KVSERVE_NAME` is the instance's name; `CACHE_KEY_PREFIX`, `CACHE_DEFAULT_TIMEOUT` and
    `CACHE_IGNORE_ERRORS` are Flask-Caching's; `CACHE_OPTIONS` has further arguments of
    `kvserve.integrations.cachelib.KvserveCache`, whose namespace is `flask-caching` here.

    Example:
        >>> from flask import Flask
        >>> from flask_caching import Cache
        >>> path = "kvserve.integrations.flask_caching.KvserveCache"
        >>> pages = Cache(Flask("shop"), config={"CACHE_TYPE": path})
        >>> pages.set("front", {"tea": 3}), pages.get("front")
        (True, {'tea': 3})
    """

    @classmethod
    def factory(
        cls, app: Flask, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]
    ) -> KvserveCache:
        """The cache of an application; Flask-Caching calls it."""
        del app  # its settings are the configuration
        return cls(
            *args,
            **{
                "name": config.get("CACHE_KVSERVE_NAME"),
                "key_prefix": config.get("CACHE_KEY_PREFIX"),
                "namespace": "flask-caching",
                **kwargs,
            },
        )

    def unlink(self, *keys: str) -> list[Any]:
        """As `delete_many`: nothing is freed later here."""
        return self.delete_many(*keys)

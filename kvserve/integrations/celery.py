"""kvserve as Celery's result backend: `result_backend = "kvserve://NAME"`; docs/celery.md."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from celery.backends.base import KeyValueStoreBackend

from kvserve.errors import OutcomeUnknown, ServerError
from kvserve.integrations.shared import open_namespace
from kvserve.integrations.urls import options_of

__all__ = ["KvserveBackend"]

_NAMESPACE = "celery"
# Who waits for a result looks for it so often: a look into shared memory, of microseconds.
POLL_SECONDS = 0.005
# A result that is lost is a failure, which Celery tries to repair.
_DEFAULTS = {"on_error": "raise", "codec": None}


class KvserveBackend(KeyValueStoreBackend):
    """Results of tasks, for all processes of the host; made by Celery.

    Args:
        app: Celery's application. `result_backend_transport_options` has further options of
            `kvserve.connect`.
        url: `kvserve://NAME?OPTION=VALUE`, or with this class's own path in place of `kvserve`.
        expires: seconds that results are kept; None: as `result_expires` says.

    Example:
        >>> application = Celery(backend="kvserve.integrations.celery.KvserveBackend://")
        >>> application.backend.store_result("an id", 42, "SUCCESS")
        42
        >>> application.AsyncResult("an id").get(timeout=5)
        42
    """

    supports_autoexpire = True
    supports_native_join = True
    implements_incr = True

    def __init__(
        self, app: Any, expires: Any = None, url: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(app, url=url or "kvserve://", **kwargs)
        self.expires = self.prepare_expires(expires, type=int)
        transport = dict(app.conf.get("result_backend_transport_options") or {})
        for name in _OF_CELERY:
            transport.pop(name, None)
        chosen = {**_DEFAULTS, **options_of(self.url), **transport}
        self._keys = open_namespace(chosen, namespace=_NAMESPACE)

    def get(self, key: bytes) -> Any:
        """The bytes of a result; None: there is none."""
        return self._keys.get(key)

    def mget(self, keys: Iterable[bytes]) -> list[Any]:
        """Those of several, in their order."""
        keys = list(keys)
        found = self._keys.get_many(keys)
        return [found.get(key) for key in keys]

    def set(self, key: bytes, value: Any) -> None:
        """Stores a result until it expires."""
        self._keys.set(key, value, ttl=_seconds(self.expires))

    def delete(self, key: bytes) -> None:
        """Removes a result."""
        self._keys.delete(key)

    def incr(self, key: bytes) -> int:
        """Counts the finished tasks of a chord; exactly once each."""
        return self._keys.incr(key, ttl=_seconds(self.chord_expires)) or 0

    def expire(self, key: bytes, value: float | None) -> None:
        """Gives a result another time to live."""
        self._keys.touch(key, ttl=_seconds(value))

    def wait_for(
        self, task_id: str, timeout: Any = None, interval: float = 0.5, **kwargs: Any
    ) -> Any:
        """See Celery; it looks more often, for a look costs microseconds here."""
        return super().wait_for(task_id, timeout, min(interval, POLL_SECONDS), **kwargs)

    def get_many(
        self, task_ids: Any, timeout: Any = None, interval: Any = 0.5, **kwargs: Any
    ) -> Any:
        """See Celery; it looks more often."""
        interval = min(0.5 if interval is None else interval, POLL_SECONDS)
        return super().get_many(task_ids, timeout, interval, **kwargs)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether another attempt can help, and do no harm; for `result_backend_always_retry`."""
        return isinstance(exc, ServerError) and not isinstance(exc, OutcomeUnknown)

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires})


# What Celery itself reads from `result_backend_transport_options`.
_OF_CELERY = frozenset({"global_keyprefix", "retry_policy", "master_name", "visibility_timeout"})


def _seconds(expires: float | None) -> float:
    """Celery means for ever by None and 0."""
    return expires or math.inf

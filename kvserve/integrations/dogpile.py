"""dogpile.cache's backend: `make_region().configure("kvserve")`, with a lock between processes.

docs/dogpile.md has the arguments. dogpile serializes the values, so that bytes come here.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dogpile.cache.api import NO_VALUE, BytesBackend

from kvserve.client.blocking.locks import Lock
from kvserve.client.recipes.locks import LOCK_SECONDS_DEFAULT
from kvserve.errors import KvserveError, ServerError
from kvserve.integrations.shared import OPTIONS, open_namespace

_OWN = {"kvserve_expiration_time", "distributed_lock", "lock_timeout"}
_LOG = logging.getLogger("kvserve.integrations.dogpile")


class KvserveBackend(BytesBackend):
    """A backend of dogpile.cache in a namespace of a kvserve instance.

    Args:
        arguments: those of `kvserve.integrations.shared.open_namespace`, whose namespace is
            `dogpile` if they do not say; besides `kvserve_expiration_time` (seconds after which a
            record is dropped, longer than the region's expiration; default: never),
            `distributed_lock` (True: one process of all creates a value; False: one thread of each
            process) and `lock_timeout` (seconds after which the lock of a process that died is
            free, 30). Others are ignored, as dogpile's own backends do, with a line in the log.

    Raises:
        InvalidArgument, InvalidName: an argument is wrong. The server is not asked.

    Example:
        >>> from dogpile.cache import make_region
        >>> region = make_region().configure("kvserve", expiration_time=60)
        >>> region.get_or_create("front", lambda: {"tea": 3})
        {'tea': 3}
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        options = {name: each for name, each in arguments.items() if name in OPTIONS}
        if unknown := sorted(map(str, set(arguments) - set(options) - _OWN)):
            _LOG.warning("arguments that kvserve's backend does not know: %s", ", ".join(unknown))
        self._cache = open_namespace(options, namespace="dogpile", codec=None)
        self._ttl = arguments.get("kvserve_expiration_time") or math.inf
        self._lock_seconds = arguments.get("lock_timeout") or LOCK_SECONDS_DEFAULT
        self._distributed = arguments.get("distributed_lock", True)

    def get_mutex(self, key: str) -> Mutex | None:
        """The lock under which the value of a key is created."""
        if not self._distributed:
            return None
        return Mutex(self._cache.lock(key, self._lock_seconds, thread_bound=False))

    def get_serialized(self, key: str) -> Any:
        return self._cache.get(key, NO_VALUE)

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[Any]:
        keys = list(keys)
        found = self._cache.get_many(keys)
        return [found.get(key, NO_VALUE) for key in keys]

    def set_serialized(self, key: str, value: bytes) -> None:
        self._cache.set(key, value, self._ttl)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        self._cache.set_many(mapping, self._ttl)

    def delete(self, key: str) -> None:
        self._cache.delete(key)

    def delete_multi(self, keys: Iterable[str]) -> None:
        self._cache.delete_many(list(keys))


class Mutex:
    """A lock between threads, and, as long as the server answers, between processes.

    While it does not, each process creates the values that it lacks: the cache's end stops nobody.

    Args:
        lock: of the cache, not bound to a thread.

    Example:
        >>> mutex = Mutex(cache.lock("front", thread_bound=False))
        >>> mutex.acquire(), mutex.acquire(False), mutex.locked()
        (True, False, True)
        >>> mutex.release()
    """

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._threads = threading.Lock()  # held around the other, also where that is out of reach
        self._shared = False  # whether the holder has the other one, too

    def acquire(self, wait: bool = True) -> bool:
        """Takes it; whether it did, which without waiting it may not."""
        if not self._threads.acquire(wait):
            return False
        try:
            self._shared = taken = self._lock.acquire(blocking=wait)
        except ServerError as error:
            _LOG.warning("created without a lock between processes: %s", error)
            self._shared, taken = False, True
        except BaseException:
            self._threads.release()
            raise
        if not taken:
            self._threads.release()
        return taken

    def release(self) -> None:
        """Gives it back, from whichever thread."""
        shared, self._shared = self._shared, False
        try:
            if shared:
                self._lock.release()
        except KvserveError as error:  # the value was created, and the lock ends by itself
            _LOG.warning("a lock was not given back: %s", error)
        finally:
            self._threads.release()

    def locked(self) -> bool:
        """Whether anybody has it."""
        try:
            return self._threads.locked() or self._lock.locked()
        except ServerError:
            return False

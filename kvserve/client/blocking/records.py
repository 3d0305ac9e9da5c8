"""Methods that look at, or change, all that a key holds: of the blocking client and namespaces."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable
from typing import Any

from kvserve.client.blocking.recipes import Recipes
from kvserve.client.calls.operations import TTL, Key, Operations, Record, record_of
from kvserve.client.recipes.driver import Driver, run_to_end
from kvserve.client.recipes.updates import update
from kvserve.errors import InvalidArgument, KvserveError
from kvserve.table._core import AskWorker


class Records(Recipes):
    """See above."""

    _operations: Operations

    def get_record(self, key: Key) -> Record | None:
        """The value of a key, how long it has to live, and its version, all of one moment.

        Returns:
            A `kvserve.Record`, or None on a miss.

        Raises:
            UnreadableValue: as `get`.

        Example:
            >>> cache.set("draft", "first", ttl=60) > 0
            True
            >>> value, ttl, version = cache.get_record("draft")
            >>> value, 59 < ttl <= 60, cache.delete("draft", version)
            ('first', True, True)
        """
        root, full_key = self._root, self._full_key(key)
        found = root._record_here(full_key)
        if isinstance(found, AskWorker):
            return root._record_from_worker(full_key)
        return None if found is None else record_of(*found)

    def _record_from_worker(self, full_key: Key) -> Record | None:
        self._root._follow_table()
        record: Record | None = self._root._run(self._operations.get_record(full_key))
        return record

    def update(
        self, key: Key, function: Callable[[Any], Any], default: Any = None, ttl: TTL = None
    ) -> Any:
        """Changes a value by a function of it, so that no change is lost.

        If another process, thread or task changes the key while the function runs, the function is
        called again, with the new value: it should be quick, and do nothing else.

        Args:
            function: gets the value, or `default` on a miss, and returns the new one, which is
                stored; or `kvserve.UNCHANGED`, to leave the key as it is. If it raises, nothing is
                stored, and its exception comes out here. For an asyncio client it may be a
                coroutine function.
            default: what the function gets on a miss; a copy of it each time.
            ttl: as for `set`; None: a key that is there keeps its own, a new one gets the server's
                `default_ttl`.

        Returns:
            The value that was stored, as `get` returns it; after `UNCHANGED` the one that was
            there, or `default`.

        Raises:
            InvalidValue, ValueTooLarge, InvalidTTL: as `set`.
            ServerBusy: the key was changed during each of 1,000 attempts; nothing was stored.
            OutcomeUnknown: a worker died; the new value was stored or not.

        Example:
            >>> cache.delete("basket:7"), cache.update("basket:7", lambda had: [*had, "tea"], [])
            (False, ['tea'])
            >>> cache.update("basket:7", lambda had: kvserve.UNCHANGED if "tea" in had else had)
            ['tea']
        """
        if inspect.iscoroutinefunction(function):
            raise InvalidArgument("this function is for an asyncio client: it is a coroutine's")

        async def call(value: Any) -> Any:
            return function(value)

        full_key = self._full_key(key)
        return run_to_end(
            update(Driver.of(self._root), self._operations, full_key, call, default, ttl)
        )

    def expire_at(self, key: Key, when: datetime.datetime | float) -> bool:
        """Lets a key expire at a time of the wall clock; returns whether the key was there.

        The remaining time is counted from this call on. If the wall clock is set later, the key
        does not expire sooner or later for that.

        Args:
            when: a datetime with a time zone, or seconds since 1970 (`time.time()`). If that is
                past, the key is removed now.

        Raises:
            InvalidArgument: a datetime without a time zone.
            InvalidTTL: more than a century ahead, or not a number.

        Example:
            >>> import time
            >>> cache.set("offer", 9) > 0, cache.expire_at("offer", time.time() + 60)
            (True, True)
            >>> cache.expire_at("offer", 0), "offer" in cache
            (True, False)
        """
        operation = self._operations.expire_at(self._full_key(key), when)
        (done,) = self._root._run_batch([operation])
        if isinstance(done, KvserveError):
            raise done
        return bool(done)

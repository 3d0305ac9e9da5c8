"""Keeps a near cache coherent with a store that other hosts change: what is dropped, and until when
the rest may be served.

Two things could make a value stale: a message that comes too late, and one that comes while its key
is being loaded. Against the first there is freshness, in the table, that runs out by itself: no
reader serves a hit after it, whatever became of this worker, the connection or the store. Against
the second, a key that was named while a call about it was under way is not filled after it, and
later requests for it do not wait for that call's answer.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

from kvserve.errors import InvalidKey
from kvserve.store.base import Key
from kvserve.store.negative_cache import NegativeCache
from kvserve.table.table import Table

_log = logging.getLogger(__name__)


class StoreCall:
    """A call of the store about a key."""

    __slots__ = ("is_outdated", "raw_key")

    def __init__(self, raw_key: bytes) -> None:
        self.raw_key = raw_key
        self.is_outdated = False  # its key was named meanwhile


class Coherence:
    """Tracks whether this worker's shards may be served (within the staleness bound).

    Args:
        table: this process's.
        shards: those that this worker serves.
        index: which worker this is.
        negative_cache: what the store is known not to have.
        is_shared: whether other hosts change the store; if not, all may always be served.
    """

    def __init__(
        self,
        table: Table,
        shards: range,
        index: int,
        negative_cache: NegativeCache,
        *,
        is_shared: bool,
    ) -> None:
        self._table = table
        self._shards = shards
        self._index = index
        self._negative_cache = negative_cache
        self._is_shared = is_shared
        self._fresh_until_ms = 0
        self._under_way: dict[bytes, list[StoreCall]] = {}  # the calls about each key
        self.detach: Callable[[bytes], object] = id  # see `KeyQueues.detach`; until then nothing
        # For how long a request may share a load that is under way: it may have read the value
        # when it began, and wait since for another node's answer that never comes.
        self.share_seconds = math.inf
        self.invalidations = 0
        self.losses = 0

    @property
    def may_serve(self) -> bool:
        """Whether what the table holds may be served."""
        return not self._is_shared or time.monotonic_ns() < self._fresh_until_ms * 1_000_000

    def begin(self, raw_key: bytes) -> StoreCall:
        """Notes that a call about this key is about to be made; `end` it."""
        call = StoreCall(raw_key)
        if self._is_shared:
            calls = self._under_way.get(raw_key)
            if calls is None:
                self._under_way[raw_key] = [call]
            else:
                calls.append(call)
        return call

    def may_fill(self, call: StoreCall) -> bool:
        """Whether what the call brought may be kept: its key was not named since it began."""
        return self.may_serve and not call.is_outdated

    def end(self, call: StoreCall) -> None:
        """Notes that what the call brought has been dealt with."""
        calls = self._under_way.get(call.raw_key)
        if calls is not None and call in calls:
            calls.remove(call)
            if not calls:
                del self._under_way[call.raw_key]

    def outdate(self, raw_key: bytes) -> None:
        """Marks calls about a key that may bring the old value: only those that wait get it."""
        for call in self._under_way.pop(raw_key, ()):
            call.is_outdated = True
        self.detach(raw_key)

    def on_invalid(self, keys: Sequence[Key] | None) -> None:
        """Drops keys that other hosts changed; None: all."""
        if keys is None:
            self.losses += 1
            self._fresh_until_ms = 0
            self.drop_all()
            return
        for key in keys:
            raw_key = key.encode() if isinstance(key, str) else key
            if raw_key in self._under_way:
                self.outdate(raw_key)
            try:
                shard = self._table.shard_of(key)
            except InvalidKey:  # another program's: none of ours can be such
                continue
            if shard % self._shards.step == self._index:
                self._negative_cache.forget(raw_key)
                self.invalidations += self._table.delete(key)

    def on_fresh(self, until_ms: int) -> None:
        """All earlier changes were named: what is left may be served until then."""
        if not self._fresh_until_ms:
            _log.info("the near cache follows its store")
        self._fresh_until_ms = until_ms
        self._table.extend_freshness(self._index, until_ms)

    def drop_all(self) -> None:
        """Drops everything; what is being loaded just now is not kept, either."""
        for raw_key in list(self._under_way):
            self.outdate(raw_key)
        self._negative_cache.clear()
        self._table.extend_freshness(self._index, 0)
        for shard in self._shards:
            self._table.flush(shard)

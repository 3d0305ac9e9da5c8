"""A near cache is kept true to a store that other hosts change: what is dropped, and until when
what is left may be served.

Two things could make a stale value: a message that comes too late, and one that comes while its
key is being loaded. Against the first there is a lease, in the table, that runs out by itself: no
reader serves a hit after it, whatever became of this worker, the connection or the store. Against
the second, a key that was named while a call about it was under way is not filled after it, and who
asks for it from then on does not wait for that call's answer.
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


class Call:
    """A call of the store about a key."""

    __slots__ = ("is_outdated", "name")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.is_outdated = False  # its key was named meanwhile


class Coherence:
    """The truth of one worker's shards.

    Args:
        table: this process's.
        shards: those that this worker serves.
        index: which worker this is.
        negative_cache: what the store is known not to have.
        is_shared: whether others change the store; if not, everything here is always true.
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
        self._under_way: dict[bytes, list[Call]] = {}  # the calls about each key
        self.detach: Callable[[bytes], object] = id  # see `KeyQueues.detach`; until then nothing
        # For how long who asks may share a load that is under way: it may have read the value
        # when it began, and wait since for another node's answer that never comes.
        self.share_seconds = math.inf
        self.invalidations = 0
        self.losses = 0

    @property
    def may_serve(self) -> bool:
        """Whether what the table holds is true."""
        return not self._is_shared or time.monotonic_ns() < self._fresh_until_ms * 1_000_000

    def begin(self, name: bytes) -> Call:
        """A call about this key is about to be made; `end` it."""
        call = Call(name)
        if self._is_shared:
            calls = self._under_way.get(name)
            if calls is None:
                self._under_way[name] = [call]
            else:
                calls.append(call)
        return call

    def may_fill(self, call: Call) -> bool:
        """Whether what the call brought may be kept: nobody named its key since it began."""
        return self.may_serve and not call.is_outdated

    def end(self, call: Call) -> None:
        """What the call brought has been dealt with."""
        calls = self._under_way.get(call.name)
        if calls is not None and call in calls:
            calls.remove(call)
            if not calls:
                del self._under_way[call.name]

    def outdate(self, name: bytes) -> None:
        """What is under way about a key may bring the old value: only those who wait get it."""
        for call in self._under_way.pop(name, ()):
            call.is_outdated = True
        self.detach(name)

    def on_invalid(self, keys: Sequence[Key] | None) -> None:
        """Drops keys that changed elsewhere; None: all."""
        if keys is None:
            self.losses += 1
            self._fresh_until_ms = 0
            self.drop_all()
            return
        for key in keys:
            name = key.encode() if isinstance(key, str) else key
            if name in self._under_way:
                self.outdate(name)
            try:
                shard = self._table.shard_of(key)
            except InvalidKey:  # another program's, such as none of ours can be
                continue
            if shard % self._shards.step == self._index:
                self._negative_cache.forget(name)
                self.invalidations += self._table.delete(key)

    def on_fresh(self, until_ms: int) -> None:
        """Everything that changed before was named: what is left is true until then."""
        if not self._fresh_until_ms:
            _log.info("the near cache follows its store")
        self._fresh_until_ms = until_ms
        self._table.extend_freshness(self._index, until_ms)

    def drop_all(self) -> None:
        """Drops everything; what is being loaded just now is not kept, either."""
        for name in list(self._under_way):
            self.outdate(name)
        self._negative_cache.clear()
        self._table.extend_freshness(self._index, 0)
        for shard in self._shards:
            self._table.flush(shard)

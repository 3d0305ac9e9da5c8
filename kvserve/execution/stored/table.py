"""The table and the store behind it as one: what a key holds, and how it is written.

The order of a write is: out of the table, into the store, into the table, acknowledged. Meanwhile
no reader finds the key in the table, so a request for it waits for the outcome; and a worker that
is killed at any moment leaves nothing in the table that the store does not have. With write-behind
the write goes into the table and is acknowledged, and the store gets it later.

This class keeps no order: one key's calls must come one after the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from kvserve.errors import StoreUnavailable, UnreadableValue, ValueTooLarge
from kvserve.execution.executor import Executor
from kvserve.execution.stored.coherence import Coherence, StoreCall
from kvserve.execution.stored.entry import (
    Entry,
    Held,
    alive,
    content_version,
    expiry_of,
    raw_key_of,
    ttl_ms_of,
)
from kvserve.protocol import codec
from kvserve.store.base import Key, Record, SharedStore
from kvserve.store.guard import GuardedStore
from kvserve.store.negative_cache import NegativeCache
from kvserve.store.write_behind import WriteBehind
from kvserve.table.table import Table

Answer = TypeVar("Answer")


class StoredTable:
    """One worker's table, over its store.

    Args:
        table: this process's.
        executor: checks values, and knows the default ttl.
        store: the database.
        behind: where writes wait; None: they go through.
        negative_cache: what the store is known not to have.
        coherence: whether the table may be believed.
        value_bytes_max: the largest value that fits in a frame.
    """

    def __init__(
        self,
        table: Table,
        executor: Executor,
        store: GuardedStore,
        behind: WriteBehind | None,
        negative_cache: NegativeCache,
        coherence: Coherence,
        value_bytes_max: int,
    ) -> None:
        self._table = table
        self._executor = executor
        self._store = store
        self._behind = behind
        self._negative_cache = negative_cache
        self._coherence = coherence
        self._value_bytes_max = value_bytes_max

    async def entry(self, key: Key) -> Entry | None:
        """What the key holds; from the store if the table does not have it."""
        found = self._table.read(key) if self._coherence.may_serve else None
        if found is not None:
            return Entry(*found[:3])
        call = self._coherence.begin(raw_key_of(key))
        try:
            record = await self._load(key, call)
            return None if record is None else self.fill(record, call)
        finally:
            self._coherence.end(call)

    async def held(self, key: Key) -> Held | None:
        """As `entry`, and how long the key has to live, of the same moment."""
        found = self._table.read_record(key) if self._coherence.may_serve else None
        if found is not None:
            return Held(*found)
        call = self._coherence.begin(raw_key_of(key))
        try:
            record = await self._load(key, call)
            return None if record is None else Held(*self.fill(record, call), ttl_ms_of(record))
        finally:
            self._coherence.end(call)

    async def load(self, key: Key) -> Record | None:
        """What the store has, or will have once what waits is written."""
        call = self._coherence.begin(raw_key_of(key))
        try:
            return await self._load(key, call)
        finally:
            self._coherence.end(call)

    async def _load(self, key: Key, call: StoreCall) -> Record | None:
        raw_key = call.raw_key
        if self._behind is not None:
            waits, record = self._behind.find(raw_key)
            if waits:
                return alive(record)
        # The negative cache is believed for no longer than the table is.
        if self._coherence.may_serve and raw_key in self._negative_cache:
            return None
        return self.loaded(await self._store.load(key), call)

    def loaded(self, found: Record | None, call: StoreCall) -> Record | None:
        """What a load found, if it can be used; the negative cache notes a miss.

        Raises:
            ValueTooLarge, UnreadableValue.
        """
        record = alive(found)
        if record is None:
            if self._coherence.may_fill(call):
                self._negative_cache.note(call.raw_key)
        elif len(record.payload) > self._value_bytes_max:
            raise ValueTooLarge(
                f"the store holds {len(record.payload)} bytes; "
                f"at most {self._value_bytes_max} are allowed here"
            )
        elif not codec.is_readable(record.codec, record.payload):
            raise UnreadableValue(
                f"the store's record of {record.key!r:.80} cannot be read: its "
                f"{len(record.payload)} bytes do not follow codec {record.codec}, or a newer one "
                "wrote it; set or delete it"
            )
        return record

    async def ttl(self, key: Key) -> int | None:
        """How long a key has to live, in milliseconds; 0: for ever, None: it is not there."""
        if self._coherence.may_serve and (ttl_ms := self._table.ttl_ms(key)) is not None:
            return ttl_ms
        call = self._coherence.begin(raw_key_of(key))
        try:
            record = await self._load(key, call)
            if record is None:
                return None
            self.fill(record, call)
            return ttl_ms_of(record)
        finally:
            self._coherence.end(call)

    async def expiry(self, key: Key) -> int:
        """When a key that is there expires: Unix time in milliseconds, 0: never."""
        ttl_ms = self._table.ttl_ms(key) if self._coherence.may_serve else None
        if ttl_ms is not None:
            return expiry_of(ttl_ms)
        record = await self.load(key)
        return record.expires_at_ms if record else 0

    def fill(self, record: Record, call: StoreCall) -> Entry:
        """Puts what the store has into the table, unless it may have changed since the call."""
        key, codec_id, payload = record.key, record.codec, record.payload
        if self._coherence.may_fill(call):
            version = self._table.set(key, codec_id, payload, ttl_ms_of(record))
        else:
            version = content_version(codec_id, payload)
        return Entry(codec_id, payload, version)

    def record(self, key: Key, codec_id: int, payload: bytes, ttl_ms: int) -> Record:
        """What a request asks to store.

        Raises:
            InvalidValue, ValueTooLarge, InvalidTTL.
        """
        self._executor.check_value(codec_id, payload)
        return Record(key, codec_id, payload, self.expiry_of(ttl_ms))

    def expiry_of(self, ttl_ms: int) -> int:
        """When what is written now expires: Unix time in milliseconds, 0: never."""
        return expiry_of(self._executor.life_ms(ttl_ms))

    def forget_negative(self, raw_key: bytes) -> None:
        """Drops a key from the negative cache: the store may have it from now on."""
        self._negative_cache.forget(raw_key)

    async def write(self, record: Record) -> int:
        """Writes a record through or behind; returns its version."""
        raw_key = raw_key_of(record.key)
        self._negative_cache.forget(raw_key)
        if self._behind is None:
            # Before the table is touched: hits go on while calls of the store are refused.
            self._store.check(record.key)
        call = self._coherence.begin(raw_key)
        try:
            if self._behind is not None:
                await self._behind.put(raw_key, record.key, record)
            else:
                if not self._store.is_shared:
                    self._table.withdraw(record.key)
                await self._store.save(record)
                self._negative_cache.forget(raw_key)
            return self.fill(record, call).version
        finally:
            self._coherence.end(call)

    async def change(
        self,
        raw_key: bytes,
        change: Callable[[SharedStore], Awaitable[Answer]],
        kept: Callable[[Answer], Record | None] = lambda _: None,
    ) -> tuple[Answer, int]:
        """Makes a change that the shared store decides, after the writes that wait for this key.

        Args:
            raw_key: of the key.
            change: of the store.
            kept: returns, from the answer, what the key holds then, if that is known.

        Returns:
            The answer, and the version of what is kept; 0: nothing is.
        """
        if self._behind is not None and self._behind.find(raw_key)[0]:
            await self._behind.flush(raw_key)
            if self._behind.find(raw_key)[0]:
                raise StoreUnavailable("an earlier write of this key has not reached the store yet")
        self._negative_cache.forget(raw_key)
        call = self._coherence.begin(raw_key)
        try:
            answer = await self._store.change(raw_key, change)
            record = kept(answer)
            if record is None and answer:  # it was changed, and what it holds now is not known
                self._table.delete(raw_key)
            return answer, 0 if record is None else self.fill(record, call).version
        finally:
            self._coherence.end(call)

    # Operations that are the same for own and shared changes.

    async def set(self, key: Key, codec_id: int, payload: bytes, ttl_ms: int) -> int:
        return await self.write(self.record(key, codec_id, payload, ttl_ms))

    async def delete(self, key: Key) -> bool:
        raw_key = raw_key_of(key)
        if self._behind is not None:
            there = await self.entry(key) is not None
            await self._behind.put(raw_key, key, None)
            self._table.delete(key)
            return there
        self._store.check(key)  # as in write
        was_here = self._table.delete(key)
        return await self._store.delete(key) or was_here

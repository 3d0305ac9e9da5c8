"""A store in memory that is slow and fails when the test says so; it keeps what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from kvserve.errors import NotACounter, StoreUnavailable
from kvserve.protocol import codec
from kvserve.store.base import EXPIRY_KEPT, Key, Record, SharedStore, Store


class MemoryStore(Store):
    """A dictionary behind a pause.

    Args:
        pause_seconds: how long each call takes.
    """

    is_shared = False

    def __init__(self, pause_seconds: float = 0.0) -> None:
        self.records: dict[bytes, Record] = {}
        self.calls: list[tuple[str, int]] = []
        self.pause_seconds = pause_seconds
        self.is_broken = False
        self.closed = False

    async def _work(self, kind: str, items: int) -> None:
        self.calls.append((kind, items))
        await asyncio.sleep(self.pause_seconds)
        if self.is_broken:
            raise StoreUnavailable("the test broke it")

    async def open(self) -> None:
        """Nothing to connect to."""

    async def load_many(self, keys: Sequence[Key]) -> list[Record | None]:
        await self._work("load", len(keys))
        return [self.records.get(name_of(key)) for key in keys]

    async def save_many(self, records: Sequence[Record]) -> None:
        await self._work("save", len(records))
        self.records |= {name_of(record.key): record for record in records}

    async def delete_many(self, keys: Sequence[Key]) -> list[bool]:
        await self._work("delete", len(keys))
        return [self.records.pop(name_of(key), None) is not None for key in keys]

    async def flush(self) -> None:
        """Nothing is buffered."""

    async def close(self) -> None:
        self.closed = True


class SharedMemory(MemoryStore, SharedStore):
    """As if other hosts wrote there, too: what depends on what is there is decided here."""

    is_shared = True

    async def _work(self, kind: str, items: int) -> None:
        await super()._work(kind, items)
        self.has_news = self.has_news or kind != "load"  # to be named before all is fresh again

    has_news = False

    def _record(self, key: Key) -> Record | None:
        return self.records.get(name_of(key))

    async def add(self, record: Record) -> bool:
        await self._work("add", 1)
        return self.records.setdefault(name_of(record.key), record) is record

    async def replace(self, record: Record) -> bool:
        await self._work("replace", 1)
        return self._put_if(self._record(record.key) is not None, record)

    async def compare_and_set(self, seen: Record, record: Record) -> bool:
        await self._work("compare_and_set", 1)
        return self._put_if(self._record(record.key) is seen, record)

    def _put_if(self, is_so: bool, record: Record) -> bool:
        if is_so:
            name = name_of(record.key)
            if record.expires_at_ms == EXPIRY_KEPT:
                record = record._replace(expires_at_ms=self.records[name].expires_at_ms)
            self.records[name] = record
        return is_so

    async def compare_and_delete(self, seen: Record) -> bool:
        await self._work("compare_and_delete", 1)
        is_so = self._record(seen.key) is seen
        if is_so:
            del self.records[name_of(seen.key)]
        return is_so

    async def increment(
        self, key: Key, delta: int, initial: int | None, expires_at_ms: int
    ) -> Record | None:
        await self._work("increment", 1)
        there = self._record(key)
        if there is None and initial is None:
            return None
        if there is None:
            total = (initial or 0) + delta
        elif there.codec != codec.COUNTER:
            raise NotACounter("another value is there")
        else:
            total = codec.decode(there.codec, there.payload) + delta
            expires_at_ms = there.expires_at_ms
        record = Record(key, *codec.encode(total), expires_at_ms)
        self.records[name_of(key)] = record
        return record

    async def touch(self, key: Key, expires_at_ms: int) -> bool:
        await self._work("touch", 1)
        there = self._record(key)
        return there is not None and self._put_if(True, there._replace(expires_at_ms=expires_at_ms))

    def follow(self, on_invalid: Any, on_fresh: Any) -> None:
        """The test calls the rig's coherence itself."""


def name_of(key: Key) -> bytes:
    """What keys are compared by."""
    return key.encode() if isinstance(key, str) else key

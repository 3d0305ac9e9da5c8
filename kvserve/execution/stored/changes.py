"""Changes that depend on what is there: decided here, or by a store that other hosts write, too."""

from __future__ import annotations

from kvserve import limits
from kvserve.errors import CounterOverflow, NotACounter
from kvserve.execution.executor import life_ms_of
from kvserve.execution.stored.entry import Held, expiry_of, is_version, raw_key_of
from kvserve.execution.stored.table import StoredTable
from kvserve.protocol import codec
from kvserve.store.base import EXPIRY_KEPT, Key, Record


class OwnChanges:
    """Changes that depend on what is there, where no other host writes the store."""

    def __init__(self, stored: StoredTable) -> None:
        self._stored = stored

    async def add(self, key: Key, codec_id: int, payload: bytes, ttl_ms: int) -> int:
        if await self._stored.entry(key) is not None:
            return 0
        return await self._stored.set(key, codec_id, payload, ttl_ms)

    async def replace(self, key: Key, codec_id: int, payload: bytes, ttl_ms: int) -> int:
        held = await self._stored.held(key)
        if held is None:
            return 0
        return await self._set_over(held, key, codec_id, payload, ttl_ms)

    async def cas(self, key: Key, codec_id: int, payload: bytes, ttl_ms: int, version: int) -> int:
        held = await self._stored.held(key)
        if held is None or held.version != version:
            return 0
        return await self._set_over(held, key, codec_id, payload, ttl_ms)

    async def _set_over(
        self, held: Held, key: Key, codec_id: int, payload: bytes, ttl_ms: int
    ) -> int:
        if ttl_ms == limits.LIFE_MS_KEPT:
            ttl_ms = held.ttl_ms or limits.TTL_MS_MAX
        return await self._stored.set(key, codec_id, payload, ttl_ms)

    async def delete_version(self, key: Key, version: int) -> bool:
        entry = await self._stored.entry(key)
        return entry is not None and entry.version == version and await self._stored.delete(key)

    async def touch(self, key: Key, ttl_ms: int) -> bool:
        entry = await self._stored.entry(key)
        if entry is None:
            return False
        await self._stored.write(
            Record(key, entry.codec, entry.payload, expiry_of(life_ms_of(ttl_ms)))
        )
        return True

    async def incr(self, key: Key, delta: int, initial: int | None, ttl_ms: int) -> int | None:
        entry = await self._stored.entry(key)
        if entry is None:
            if initial is None:
                return None
            expires_at_ms = self._stored.expiry_of(ttl_ms)
            total = initial + delta
        else:
            if entry.codec != codec.COUNTER:
                raise NotACounter(
                    "the value of this key is no counter: an int of 64 bits with its sign"
                )
            expires_at_ms = await self._stored.expiry(key)
            total = codec.decode(entry.codec, entry.payload) + delta
        if not limits.COUNTER_MIN <= total <= limits.COUNTER_MAX:
            raise CounterOverflow("the sum does not fit in a signed 64-bit integer")
        await self._stored.write(Record(key, *codec.encode(total), expires_at_ms))
        return total


class SharedChanges:
    """Changes that depend on what is there, decided by a store that other hosts write, too."""

    def __init__(self, stored: StoredTable) -> None:
        self._stored = stored

    async def add(self, key: Key, codec_id: int, payload: bytes, ttl_ms: int) -> int:
        record = self._stored.record(key, codec_id, payload, ttl_ms)
        _, version = await self._stored.change(
            raw_key_of(key), lambda store: store.add(record), lambda done: record if done else None
        )
        return version

    async def replace(self, key: Key, codec_id: int, payload: bytes, ttl_ms: int) -> int:
        record = self._replacement(key, codec_id, payload, ttl_ms)
        done, version = await self._stored.change(
            raw_key_of(key),
            lambda store: store.replace(record),
            lambda done: _known(record) if done else None,
        )
        return version or int(done)

    def _replacement(self, key: Key, codec_id: int, payload: bytes, ttl_ms: int) -> Record:
        if ttl_ms != limits.LIFE_MS_KEPT:
            return self._stored.record(key, codec_id, payload, ttl_ms)
        record = self._stored.record(key, codec_id, payload, limits.TTL_MS_MAX)
        return record._replace(expires_at_ms=EXPIRY_KEPT)

    async def cas(self, key: Key, codec_id: int, payload: bytes, ttl_ms: int, version: int) -> int:
        record = self._replacement(key, codec_id, payload, ttl_ms)
        seen = await self._seen(key, version)
        if seen is None:
            return 0
        done, version = await self._stored.change(
            raw_key_of(key),
            lambda store: store.compare_and_set(seen, record),
            lambda done: _known(record) if done else None,
        )
        return version or int(done)

    async def delete_version(self, key: Key, version: int) -> bool:
        seen = await self._seen(key, version)
        if seen is None:
            return False
        done, _ = await self._stored.change(
            raw_key_of(key), lambda store: store.compare_and_delete(seen)
        )
        return done

    async def _seen(self, key: Key, version: int) -> Record | None:
        """The store's record of this version, with the stamp that no other write has."""
        entry = await self._stored.entry(key)
        if entry is None or not is_version(entry, version):
            return None
        record = await self._stored.load(key)
        if record is None or (record.codec, record.payload) != codec.plain(
            entry.codec, entry.payload
        ):
            return None
        return record

    async def touch(self, key: Key, ttl_ms: int) -> bool:
        expires_at_ms = expiry_of(life_ms_of(ttl_ms))
        done, _ = await self._stored.change(
            raw_key_of(key), lambda store: store.touch(key, expires_at_ms)
        )
        return done

    async def incr(self, key: Key, delta: int, initial: int | None, ttl_ms: int) -> int | None:
        expires_at_ms = self._stored.expiry_of(ttl_ms)
        record, _ = await self._stored.change(
            raw_key_of(key),
            lambda store: store.increment(key, delta, initial, expires_at_ms),
            lambda found: found,
        )
        if record is None:
            return None
        total: int = codec.decode(record.codec, record.payload)
        return total


def _known(record: Record) -> Record | None:
    """A record that was stored; None if only the store knows when it expires."""
    return None if record.expires_at_ms == EXPIRY_KEPT else record

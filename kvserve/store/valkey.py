"""A store in Valkey or Redis, alone or a cluster, that many hosts share.

Every operation on a key is one command or one script, so conditions are decided in the server. How
values look there is in `valkey_format`; how changes of others are learned, in `valkey_follow`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from redis.exceptions import ResponseError

from kvserve.errors import CounterOverflow, NotACounter, OutcomeUnknown, StoreUnavailable
from kvserve.limits import COUNTER_MAX, COUNTER_MIN
from kvserve.store import valkey_address, valkey_check, valkey_format, valkey_scripts
from kvserve.store.base import Key, Record, SharedStore
from kvserve.store.valkey_follow import Follower
from kvserve.store.valkey_nodes import Nodes
from kvserve.store.valkey_pool import Reply
from kvserve.store.valkey_routes import Command, run
from kvserve.store.valkey_wire import Words

_CHECK_SECONDS = 5.0
_KEYS_A_SCRIPT = 128  # a script holds up the server: 128 keys take it about 0.1 ms


class ValkeyStore(SharedStore):
    """See above.

    Args:
        url: see `valkey_address.parse`.
        timeout_seconds: how long a call may take.
        staleness_seconds: how old what a near cache serves may be, see `follow`.

    Raises:
        ConfigError: a bad URL.

    Example:
        store = ValkeyStore("valkey://127.0.0.1", timeout_seconds=2.0, staleness_seconds=1.0)
        await store.open()
        await store.save_many([Record("greeting", *codec.encode("hello"), 0)])
    """

    def __init__(self, url: str, timeout_seconds: float, staleness_seconds: float) -> None:
        address = valkey_address.parse(url)
        self._prefix = address.prefix
        self._nodes = Nodes(address, timeout_seconds)
        self._staleness_seconds = staleness_seconds
        self._follower: Follower | None = None
        self._following: asyncio.Task[None] | None = None

    @staticmethod
    def check(url: str) -> None:
        """Connects to the store once.

        Raises:
            ConfigError: a bad URL, a wrong password, a server that is no Valkey, a cluster that is
                not ready.
            StoreUnavailable: nothing answers.
        """
        asyncio.run(valkey_check.check(valkey_address.parse(url), _CHECK_SECONDS))

    def tune(self, timeout_seconds: float, staleness_seconds: float) -> None:
        """Changes both limits, from the next call and the next beat on."""
        self._nodes.timeout_seconds = timeout_seconds
        self._staleness_seconds = staleness_seconds
        if self._follower is not None:
            self._follower.staleness_seconds = staleness_seconds

    async def open(self) -> None:
        """Connects, if the store answers; else the first call does. A worker starts without it."""
        with suppress(StoreUnavailable):
            await self._nodes.ready()

    async def load_many(self, keys: Sequence[Key]) -> list[Record | None]:
        """See `Store.load_many`. A value of another type, a list for example, is not there."""
        if not keys:
            return []
        await self._nodes.ready()
        names = [self._name(key) for key in keys]
        # A script may take many keys only where all are sure to be on one server.
        step = 1 if self._nodes.is_cluster else _KEYS_A_SCRIPT
        parts = [tuple(names[start : start + step]) for start in range(0, len(names), step)]
        sent_ms = _now_ms()
        replies = await self._read(
            [Command(part, valkey_scripts.LOAD, len(part)) for part in parts]
        )
        flat = [item for reply in replies for item in reply]
        return [
            _loaded(key, stored, ttl_ms, sent_ms)
            for key, stored, ttl_ms in zip(keys, flat[::2], flat[1::2], strict=True)
        ]

    async def save_many(self, records: Sequence[Record]) -> None:
        """See `Store.save_many`. Not all or none: other hosts may see some before the others."""
        last = {self._name(record.key): record for record in records}
        await self._change([("SET", name, *_stored(record)) for name, record in last.items()])

    async def delete_many(self, keys: Sequence[Key]) -> list[bool]:
        """See `Store.delete_many`."""
        replies = await self._change([("DEL", self._name(key)) for key in keys])
        return [reply == 1 for reply in replies]

    async def add(self, record: Record) -> bool:
        """See `SharedStore.add`."""
        return await self._set_if(record, "NX")

    async def replace(self, record: Record) -> bool:
        """See `SharedStore.replace`."""
        return await self._set_if(record, "XX")

    async def compare_and_set(self, seen: Record, record: Record) -> bool:
        """See `SharedStore.compare_and_set`. `seen` is as this store returned it."""
        words = (self._name(record.key), *valkey_format.expected(seen), *_stored(record))
        return await self._decide(words, valkey_scripts.COMPARE_AND_SET)

    async def compare_and_delete(self, seen: Record) -> bool:
        """See `SharedStore.compare_and_delete`. `seen` is as this store returned it."""
        words = (self._name(seen.key), *valkey_format.expected(seen))
        return await self._decide(words, valkey_scripts.COMPARE_AND_DELETE)

    async def increment(
        self, key: Key, delta: int, initial: int | None, expires_at_ms: int
    ) -> Record | None:
        """See `SharedStore.increment`. A counter that is there keeps its expiry."""
        words: Words = (self._name(key), delta)
        if initial is not None:
            first = initial + delta
            in_range = COUNTER_MIN <= first <= COUNTER_MAX
            words += (first if in_range else "", *_expiry(expires_at_ms))
        sent_ms = _now_ms()
        (reply,) = await self._run_change([Command(words, valkey_scripts.INCREMENT)])
        if isinstance(reply, ResponseError):
            raise _uncounted(reply)
        return None if reply is None else _loaded(key, reply[0], reply[1], sent_ms)

    async def touch(self, key: Key, expires_at_ms: int) -> bool:
        """See `SharedStore.touch`."""
        name = self._name(key)
        if expires_at_ms:
            (found,) = await self._change([("PEXPIRE", name, _remaining_ms(expires_at_ms))])
        else:
            _, found = await self._change([("PERSIST", name), ("EXISTS", name)])
        return bool(found)

    def follow(
        self,
        on_invalid: Callable[[Sequence[Key] | None], None],
        on_fresh: Callable[[int], None],
    ) -> None:
        """See `SharedStore.follow`.

        Everything is declared invalid once when listening begins, once when it breaks off, and
        again before anything is fresh anew. Keys are bytes; one's own changes are told as well.
        A load that is under way while its key is declared invalid may bring the old value: it must
        not be kept.
        """
        self._follower = Follower(self._nodes, self._staleness_seconds, on_invalid, on_fresh)
        self._following = asyncio.get_running_loop().create_task(self._follower.run())

    async def flush(self) -> None:
        """Nothing is buffered."""

    async def close(self) -> None:
        """Stops to follow, and closes all connections."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
        await self._nodes.close()

    def _name(self, key: Key) -> bytes:
        return self._prefix + (key.encode() if isinstance(key, str) else key)

    async def _set_if(self, record: Record, condition: str) -> bool:
        words = ("SET", self._name(record.key), *_stored(record), condition)
        (reply,) = await self._change([words])
        return reply is not None

    async def _decide(self, words: Words, script: valkey_scripts.Script) -> bool:
        (reply,) = _refused_none(await self._run_change([Command(words, script)]))
        return bool(reply)

    async def _read(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            return _refused_none(await run(self._nodes, commands))
        except OutcomeUnknown as error:  # nothing was to be changed
            raise StoreUnavailable(str(error)) from None

    async def _change(self, commands: Sequence[Words]) -> list[Reply]:
        return _refused_none(await self._run_change([Command(words) for words in commands]))

    async def _run_change(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            return await run(self._nodes, commands)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(f"{error}; the change may have been made") from None


def _refused_none(replies: list[Reply]) -> list[Reply]:
    """The replies, of which none is a refusal; else the error that says so."""
    refusals = [reply for reply in replies if isinstance(reply, ResponseError)]
    if not refusals:
        return replies
    text = f"the store refused: {refusals[0]}"
    if len(refusals) < len(replies):
        raise OutcomeUnknown(f"{text}; other keys of this call were changed")
    raise StoreUnavailable(text)


def _uncounted(refusal: ResponseError) -> Exception:
    text = str(refusal)
    if "overflow" in text:
        return CounterOverflow("the counter would leave the range of a signed 64-bit integer")
    if "not an integer" in text or "WRONGTYPE" in text:
        return NotACounter("the value is not a counter")
    return StoreUnavailable(f"the store refused: {text}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _loaded(key: Key, stored: bytes | None, ttl_ms: int, sent_ms: int) -> Record | None:
    """The record of a value and of the time it has left, which began after `sent_ms`.

    What is left is counted by the server and added to our clock, so that hosts whose clocks differ
    agree on how long a value lives.
    """
    if stored is None:
        return None
    expires_at_ms = sent_ms + ttl_ms if ttl_ms >= 0 else 0
    if expires_at_ms and expires_at_ms <= _now_ms():
        return None
    return valkey_format.from_stored(key, stored, expires_at_ms)


def _stored(record: Record) -> Words:
    """What SET is given after the key."""
    return (valkey_format.to_stored(record), *_expiry(record.expires_at_ms))


def _expiry(expires_at_ms: int) -> Words:
    return ("PX", _remaining_ms(expires_at_ms)) if expires_at_ms else ()


def _remaining_ms(expires_at_ms: int) -> int:
    """At least 1: what expired on its way here must not last forever."""
    return max(1, expires_at_ms - _now_ms())

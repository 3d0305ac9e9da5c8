"""A store in Valkey or Redis, a single server or a cluster, that many hosts share.

Every operation on a key is one command or one script, so the server decides conditions. `format.py`
describes how values are stored; `follow.py`, how changes by other hosts are learned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, cast

from kvserve.errors import (
    CounterOverflow,
    KvserveError,
    NotACounter,
    OutcomeUnknown,
    StoreUnavailable,
)
from kvserve.limits import COUNTER_MAX, COUNTER_MIN
from kvserve.store.base import EXPIRY_KEPT, CallAgain, Key, Record, SharedStore, StoreRefusal
from kvserve.store.valkey import check, format, scripts
from kvserve.store.valkey.address import Node, parse
from kvserve.store.valkey.follow import Follower
from kvserve.store.valkey.line import Reply
from kvserve.store.valkey.nodes import Nodes
from kvserve.store.valkey.pool import NoAnswer, NotSent
from kvserve.store.valkey.routes import Command, goes_on, run
from kvserve.store.valkey.wire import Refused, Words

_CHECK_SECONDS = 5.0
_EXPIRED = -2  # PTTL of a key that is not there
# A server that replies this serves no client just now. Nothing was executed.
_NOT_SERVING = {
    "CLUSTERDOWN": "the store refused: its cluster is down",
    "LOADING": "the store is still reading its data from disk",
}


class ValkeyStore(SharedStore):
    """See above.

    Args:
        url: see `address.parse`.
        timeout_seconds: how long a call may take.
        staleness_seconds: how old a value from the near cache may be, see `follow`.

    Raises:
        ConfigError: a bad URL.

    Example:
        store = ValkeyStore("valkey://127.0.0.1", timeout_seconds=2.0, staleness_seconds=1.0)
        await store.open()
        await store.save_many([Record("greeting", *codec.encode("hello"), 0)])
    """

    can_probe = True
    keeps_time = True

    def __init__(self, url: str, timeout_seconds: float, staleness_seconds: float) -> None:
        address = parse(url)
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
            StoreUnavailable: no server answers.
        """
        asyncio.run(check.check(parse(url), _CHECK_SECONDS))

    def tune(self, timeout_seconds: float, staleness_seconds: float) -> None:
        """Changes both limits, from the next call and the next beat on."""
        self._nodes.timeout_seconds = timeout_seconds
        self._staleness_seconds = staleness_seconds
        if self._follower is not None:
            self._follower.staleness_seconds = staleness_seconds

    async def open(self) -> None:
        """Connects if the store answers, else the first call does: a worker starts without it."""
        with suppress(StoreUnavailable):
            await self._nodes.ready()

    def part(self, key: Key) -> Hashable:
        """See `Store.part`: the node that has the key, as far as is known."""
        return self._nodes.owner(self._name(key))

    async def probe(self, part: Hashable) -> None:
        """See `Store.probe`."""
        if not isinstance(part, Node):
            await self._nodes.refresh()  # no node was known
            return
        self._nodes.suspect(part)  # another node may have replaced it by now
        words = ("CLUSTER", "INFO") if self._nodes.is_cluster else ("PING",)
        try:
            (reply,) = await self._nodes.pool(part).exchange([words], self._nodes.deadline())
        except (NotSent, NoAnswer) as error:
            raise StoreUnavailable(str(error)) from None
        if isinstance(reply, Refused):
            if reply.code in _NOT_SERVING:
                raise StoreUnavailable(_NOT_SERVING[reply.code])
            return  # it answers
        if self._nodes.is_cluster and b"cluster_state:fail" in bytes(reply):
            raise StoreUnavailable(f"{part} says that its cluster is down")

    def parts(self) -> dict[Hashable, dict[str, Any]]:
        """See `Store.parts`: the primaries."""
        ages = {} if self._follower is None else self._follower.ages()
        told: dict[Hashable, dict[str, Any]] = {}
        for node in sorted(self._nodes.primaries):
            told[node] = {"connections": self._nodes.connections(node)}
            if node in ages:
                told[node]["heard_seconds"] = round(ages[node], 3)
        return told

    async def load_many(self, keys: Sequence[Key]) -> list[Record | None]:
        """See `Store.load_many`. A value of another type, a list for example, counts as missing."""
        outcomes = await self.load_each(keys)
        for outcome in outcomes:
            _answered(outcome)
        return cast(list[Record | None], outcomes)

    def load_at_once(self, key: Key, done: Callable[[Record | KvserveError | None], None]) -> bool:
        """See `Store.load_at_once`."""
        name = self._name(key)
        node = self._nodes.owner(name)
        if node is None or self._nodes.is_suspected:
            return False
        sent_ms = _now_ms()

        def received(replies: list[Reply] | NoAnswer) -> None:
            if isinstance(replies, NoAnswer):
                self._nodes.suspect(node)
                done(StoreUnavailable(str(replies)))
            elif any(map(goes_on, replies)):
                done(CallAgain())
            else:
                done(_found(key, tuple(replies), sent_ms))

        commands = (("GET", name), ("PTTL", name))
        return self._nodes.pool(node).send_at_once(commands, self._nodes.deadline(), received)

    def save_at_once(self, record: Record, done: Callable[[KvserveError | None], None]) -> bool:
        """See `Store.save_at_once`."""
        name = self._name(record.key)
        node = self._nodes.owner(name)
        if node is None or self._nodes.is_suspected:
            return False

        def received(replies: list[Reply] | NoAnswer) -> None:
            if isinstance(replies, NoAnswer):
                self._nodes.suspect(node)
                done(cast(KvserveError, _changed(replies)))
            elif goes_on(replies[0]):
                done(CallAgain())
            else:
                outcome = _changed(replies[0])
                done(outcome if isinstance(outcome, KvserveError) else None)

        commands = (("SET", name, *_stored(record)),)
        return self._nodes.pool(node).send_at_once(commands, self._nodes.deadline(), received)

    async def load_each(self, keys: Sequence[Key]) -> list[Record | KvserveError | None]:
        """See `Store.load_each`."""
        if not keys:
            return []
        sent_ms = _now_ms()
        names = [self._name(key) for key in keys]
        # GET and PTTL see two moments, but a change between them is pushed, so the table does not
        # keep the result.
        commands = [Command(("GET", name), then=("PTTL", name)) for name in names]
        replies = await run(self._nodes, commands)
        return [_found(key, reply, sent_ms) for key, reply in zip(keys, replies, strict=True)]

    async def save_many(self, records: Sequence[Record]) -> None:
        """See `Store.save_many`. Not atomic: other hosts may see some records before the others."""
        _all_of(await self.save_each(records))

    async def save_each(self, records: Sequence[Record]) -> list[KvserveError | None]:
        """See `Store.save_each`."""
        last = {self._name(record.key): record for record in records}
        words = [("SET", name, *_stored(record)) for name, record in last.items()]
        outcomes = dict(zip(last, await self._change(words), strict=True))
        ended = [outcomes[self._name(record.key)] for record in records]
        return [each if isinstance(each, KvserveError) else None for each in ended]

    async def delete_many(self, keys: Sequence[Key]) -> list[bool]:
        """See `Store.delete_many`."""
        return _all_of(await self.delete_each(keys))

    async def delete_each(self, keys: Sequence[Key]) -> list[bool | KvserveError]:
        """See `Store.delete_each`."""
        replies = await self._change([("DEL", self._name(key)) for key in keys])
        return [each if isinstance(each, KvserveError) else each == 1 for each in replies]

    async def add(self, record: Record) -> bool:
        """See `SharedStore.add`."""
        return await self._set_if(record, "NX")

    async def replace(self, record: Record) -> bool:
        """See `SharedStore.replace`."""
        return await self._set_if(record, "XX")

    async def compare_and_set(self, seen: Record, record: Record) -> bool:
        """See `SharedStore.compare_and_set`. `seen` is as this store returned it."""
        words = (self._name(record.key), *format.expected(seen), *_stored(record))
        return await self._decide(words, scripts.COMPARE_AND_SET)

    async def compare_and_delete(self, seen: Record) -> bool:
        """See `SharedStore.compare_and_delete`. `seen` is as this store returned it."""
        words = (self._name(seen.key), *format.expected(seen))
        return await self._decide(words, scripts.COMPARE_AND_DELETE)

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
        (reply,) = await run(self._nodes, [Command(words, scripts.INCREMENT)])
        if isinstance(reply, Refused):
            raise _uncounted(reply)
        reply = _answered(_changed(reply))
        return None if reply is None else _loaded(key, reply[0], reply[1], sent_ms)

    async def touch(self, key: Key, expires_at_ms: int) -> bool:
        """See `SharedStore.touch`."""
        name = self._name(key)
        words: list[Words] = [("PEXPIRE", name, _remaining_ms(expires_at_ms))]
        if not expires_at_ms:
            words = [("PERSIST", name), ("EXISTS", name)]
        return bool(_all_of(await self._change(words))[-1])

    def follow(
        self,
        on_invalid: Callable[[Sequence[Key] | None], None],
        on_fresh: Callable[[int], None],
    ) -> None:
        """See `SharedStore.follow`.

        All keys are declared invalid once when listening begins, once when it breaks off, and again
        before anything is fresh again. Keys are bytes; this host's own changes are reported, too.
        A load that is under way while its key is declared invalid may bring the old value: the
        caller must not keep it.
        """
        self._follower = Follower(self._nodes, self._staleness_seconds, on_invalid, on_fresh)
        self._following = asyncio.get_running_loop().create_task(self._follower.run())

    async def flush(self) -> None:
        """Nothing is buffered."""

    async def close(self) -> None:
        """Stops following, and closes all connections."""
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
        return _answered(reply) is not None

    async def _decide(self, words: Words, script: scripts.Script) -> bool:
        (reply,) = await run(self._nodes, [Command(words, script)])
        return bool(_answered(_changed(reply)))

    async def _change(self, commands: Sequence[Words]) -> list[Any]:
        """The outcome of each change: the server's reply, or an error that says why there is
        none."""
        replies = await run(self._nodes, [Command(words) for words in commands])
        return [_changed(reply) for reply in replies]


def _found(key: Key, reply: Reply, sent_ms: int) -> Record | KvserveError | None:
    """The outcome of a load; it changes nothing, so its outcome is never unknown."""
    if isinstance(reply, NoAnswer):
        return StoreUnavailable(str(reply))
    reply = _changed(reply)
    if isinstance(reply, KvserveError):
        return reply
    stored, ttl_ms = reply
    if isinstance(stored, Refused) and stored.code == "WRONGTYPE":
        return None
    for each in (stored, ttl_ms):
        if isinstance(each, Refused):
            return cast(KvserveError, _changed(each))
    return _loaded(key, stored, ttl_ms, sent_ms)


def _changed(reply: Reply) -> Any:
    """A reply to a change, or the error to raise if there is none."""
    if isinstance(reply, NotSent):
        return StoreUnavailable(str(reply))
    if isinstance(reply, NoAnswer):
        return OutcomeUnknown(f"{reply}; the change may have been made")
    if isinstance(reply, Refused):
        if reply.code in _NOT_SERVING:
            return StoreUnavailable(_NOT_SERVING[reply.code])
        return StoreRefusal(f"the store refused: {reply}")
    return reply


def _answered(outcome: Any) -> Any:
    """An outcome; raises it if it is an error."""
    if isinstance(outcome, KvserveError):
        raise outcome
    return outcome


def _all_of(outcomes: Sequence[Any]) -> list[Any]:
    """The outcomes of one call; if any is an error, raises one error for the whole call."""
    errors = [each for each in outcomes if isinstance(each, KvserveError)]
    if not errors:
        return list(outcomes)
    unknown = [each for each in errors if isinstance(each, OutcomeUnknown)]
    if unknown:
        raise unknown[0]
    if len(errors) < len(outcomes):
        raise OutcomeUnknown(f"{errors[0]}; other keys of this call were changed")
    raise errors[0]


def _uncounted(refusal: Refused) -> Exception:
    text = str(refusal)
    if "overflow" in text:
        return CounterOverflow("the counter would leave the range of a signed 64-bit integer")
    if "not an integer" in text or "WRONGTYPE" in text:
        return NotACounter("the value is not a counter")
    error: Exception = _changed(refusal)
    return error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _loaded(key: Key, stored: bytes | None, ttl_ms: int, sent_ms: int) -> Record | None:
    """The record of a value and its remaining time, which the server counted after `sent_ms`.

    The server counts the remaining time and we add it to our clock, so that hosts whose clocks
    differ agree on how long a value lives.
    """
    if stored is None or ttl_ms == _EXPIRED:
        return None
    expires_at_ms = sent_ms + ttl_ms if ttl_ms >= 0 else 0
    if expires_at_ms and expires_at_ms <= _now_ms():
        return None
    return format.from_stored(key, stored, expires_at_ms)


def _stored(record: Record) -> Words:
    """SET's arguments after the key."""
    return (format.to_stored(record), *_expiry(record.expires_at_ms))


def _expiry(expires_at_ms: int) -> Words:
    if expires_at_ms == EXPIRY_KEPT:
        return ("KEEPTTL",)
    return ("PX", _remaining_ms(expires_at_ms)) if expires_at_ms else ()


def _remaining_ms(expires_at_ms: int) -> int:
    """At least 1: a record that expired on its way here must not last forever."""
    return max(1, expires_at_ms - _now_ms())

"""A store as the worker calls it: single keys, a time limit, circuit breakers, and counters.

Each part of the store, a node of a cluster for example, has a breaker of its own, and no call
concerns two parts: a dead part fails only its own keys.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, TypeVar

from kvserve import limits
from kvserve.errors import (
    InternalError,
    KvserveError,
    MisuseError,
    OutcomeUnknown,
    StoreUnavailable,
)
from kvserve.store.base import CallAgain, Key, Record, SharedStore, Store, StoreRefusal
from kvserve.store.batcher import Batcher
from kvserve.store.breaker import Breaker, State
from kvserve.store.probing import Probing
from kvserve.store.window import LoadSizes, Window, key_bytes, record_bytes

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_GRACE = 1.1
_BREAKERS_MAX = 256  # then breakers of nodes that left their cluster are dropped


class GuardedStore:
    """One worker's store.

    Args:
        store: the database, not opened yet.
        loop: the worker's.
        timeout_seconds: how long a call may take.
        value_bytes_max: the largest value.
        call_bytes_max: the bytes that may be under way, for each kind of call; see `resize`.
    """

    def __init__(
        self,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        timeout_seconds: float,
        value_bytes_max: int = limits.VALUE_BYTES_DEFAULT,
        call_bytes_max: int = limits.FRAME_BYTES_MIN,  # of the smallest table
    ) -> None:
        self._store = store
        self._breakers: dict[Hashable, Breaker] = {}
        self._probing = Probing(store, loop)
        self._timeout_seconds = timeout_seconds
        self._calls = dict.fromkeys(("load", "save", "delete", "change"), 0)
        self._seconds = dict.fromkeys(self._calls, 0.0)
        self._is_open = asyncio.Event()
        self._why_closed = ""  # why the last attempt to open the store failed
        self._failures = 0
        self._refused = 0
        self._load_hits = 0
        self._load_sizes = LoadSizes(value_bytes_max)
        loads = Window(call_bytes_max, self._load_sizes.size_of)
        saves, deletes = Window(call_bytes_max, record_bytes), Window(call_bytes_max, key_bytes)
        self._loads, self._saves = loads, saves
        self._windows = (loads, saves, deletes)
        part = store.part
        self.load: Batcher[Key, Record | None] = Batcher(
            loop, part, self._load, loads, self._patience_seconds
        )
        self.save: Batcher[Record, None] = Batcher(
            loop, lambda record: part(record.key), self._save, saves, self._patience_seconds
        )
        self.delete: Callable[[Key], asyncio.Future[bool]] = Batcher(
            loop, part, self._delete, deletes, self._patience_seconds
        )

    def _patience_seconds(self) -> float:
        return self._timeout_seconds

    @property
    def load_bytes(self) -> int:
        """The expected bytes of one load."""
        return self._load_sizes.expected_bytes

    def resize(self, call_bytes_max: int) -> None:
        """Sets a new bound for the bytes under way, from the next call on."""
        for window in self._windows:
            window.bytes_max = call_bytes_max

    @property
    def call_bytes(self) -> int:
        """The approximate memory of the calls under way."""
        return sum(window.taken_bytes for window in self._windows)

    @property
    def is_shared(self) -> bool:
        """Whether other hosts write to the store, too."""
        return self._store.is_shared

    @property
    def shared(self) -> SharedStore:
        """The store, for what only a shared one can do; call it through `change`."""
        assert isinstance(self._store, SharedStore)
        return self._store

    async def open(self) -> None:
        """Opens the store; until then, or until one attempt fails, calls wait up to their limit."""
        try:
            await self._store.open()
        except KvserveError as error:
            self._why_closed = str(error)
            raise
        self._why_closed = ""
        self._is_open.set()

    def tune(self, timeout_seconds: float, staleness_seconds: float) -> None:
        """Takes new limits, from the next call on."""
        self._timeout_seconds = timeout_seconds
        self._store.tune(timeout_seconds, staleness_seconds)

    def load_at_once(self, key: Key, done: Callable[[Record | KvserveError | None], None]) -> bool:
        """See `Store.load_at_once`; here `done` gets the final outcome, never `CallAgain`."""
        part = self._store.part(key)
        breaker = self._breaker(part)
        if breaker.state is not State.CLOSED or not self._is_open.is_set():
            return False
        size_bytes = self._load_sizes.expected_bytes
        if not self._loads.take(part, size_bytes):
            return False  # then `load` lets it wait until there is room
        started = time.monotonic()

        def received(outcome: Record | KvserveError | None) -> None:
            self._loads.give_back(part, size_bytes)
            self.load.go_on()
            if isinstance(outcome, CallAgain):
                self.load(key).add_done_callback(lambda loaded: done(_outcome_of(loaded)))
                return
            records = [outcome] if isinstance(outcome, Record) else []
            self._load_sizes.learn(records)
            self._load_hits += len(records)
            self._note("load", part, breaker, (outcome,))
            self._seconds["load"] += time.monotonic() - started
            done(outcome)

        if self._store.load_at_once(key, received):
            return True
        self._loads.give_back(part, size_bytes)
        return False

    def save_at_once(self, record: Record, done: Callable[[KvserveError | None], None]) -> bool:
        """See `Store.save_at_once`; here `done` gets the final outcome, never `CallAgain`."""
        part = self._store.part(record.key)
        breaker = self._breaker(part)
        if breaker.state is not State.CLOSED or not self._is_open.is_set():
            return False
        size_bytes = record_bytes(record)
        if not self._saves.take(part, size_bytes):
            return False  # then `save` lets it wait until there is room
        started = time.monotonic()

        def received(outcome: KvserveError | None) -> None:
            self._saves.give_back(part, size_bytes)
            self.save.go_on()
            if isinstance(outcome, CallAgain):
                self.save(record).add_done_callback(lambda saved: done(_error_of(saved)))
                return
            self._note("save", part, breaker, (outcome,))
            self._seconds["save"] += time.monotonic() - started
            done(outcome)

        if self._store.save_at_once(record, received):
            return True
        self._saves.give_back(part, size_bytes)
        return False

    async def save_each(self, records: Sequence[Record]) -> list[KvserveError | None]:
        """Stores records; returns the error of each, or None."""
        return await _settle([self.save(record) for record in records])

    async def delete_each(self, keys: Sequence[Key]) -> list[KvserveError | None]:
        """Removes keys; returns the error of each, or None."""
        return await _settle([self.delete(key) for key in keys])

    async def _load(
        self, part: Hashable, keys: Sequence[Key]
    ) -> Sequence[Record | KvserveError | None]:
        answers = await self._call("load", part, keys, self._store.load_each)
        records = [answer for answer in answers if isinstance(answer, Record)]
        self._load_hits += len(records)
        self._load_sizes.learn(records)
        return answers

    async def _save(
        self, part: Hashable, records: Sequence[Record]
    ) -> Sequence[KvserveError | None]:
        return await self._call("save", part, records, self._store.save_each)

    async def _delete(self, part: Hashable, keys: Sequence[Key]) -> Sequence[bool | KvserveError]:
        return await self._call("delete", part, keys, self._store.delete_each)

    async def change(self, key: Key, call: Callable[[SharedStore], Awaitable[Answer]]) -> Answer:
        """Makes a conditional change of a key; the shared store decides the condition."""

        async def one(_: Sequence[Key]) -> Sequence[Answer]:
            return [await call(self.shared)]

        return (await self._call("change", self._store.part(key), [key], one))[0]

    async def _call(
        self,
        kind: str,
        part: Hashable,
        items: Sequence[Item],
        call: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
    ) -> Sequence[Answer]:
        """Makes a call about one part of the store; counts it, and informs the part's breaker."""
        self._require_openable(len(items))
        breaker = self._breaker(part)
        if not self._may_try(breaker):
            self._refused += len(items)
            raise _left_alone(part)
        started = time.monotonic()
        try:
            if self._store.keeps_time and self._is_open.is_set():
                answers = await call(items)
            else:
                # The store may keep the limit, too, and knows what was sent: it must raise first.
                async with asyncio.timeout(self._timeout_seconds * _GRACE):
                    await self._is_open.wait()
                    answers = await call(items)
        except (MisuseError, StoreRefusal) as error:  # the store did answer
            breaker.succeeded()
            if isinstance(error, StoreRefusal):
                self._failures += len(items)
            raise
        except TimeoutError as error:
            self._fail(part, breaker, len(items))
            if isinstance(error, KvserveError):
                raise
            text = f"the store did not answer within {self._timeout_seconds:g} s"
            is_harmless = kind == "load" or not self._is_open.is_set()
            raise (StoreUnavailable if is_harmless else OutcomeUnknown)(text) from None
        except BaseException:
            self._fail(part, breaker, len(items))
            raise
        self._note(kind, part, breaker, answers)
        self._seconds[kind] += time.monotonic() - started
        return answers

    def _note(self, kind: str, part: Hashable, breaker: Breaker, answers: Sequence[object]) -> None:
        """Counts the outcomes of the items: a part that answered for any of them works."""
        errors = [answer for answer in answers if isinstance(answer, KvserveError)]
        self._calls[kind] += len(answers) - len(errors)
        silent = sum(not isinstance(error, (MisuseError, StoreRefusal)) for error in errors)
        if silent and silent == len(answers):
            self._fail(part, breaker, len(errors))
            return
        self._failures += len(errors)
        breaker.succeeded()

    def _breaker(self, part: Hashable) -> Breaker:
        breaker = self._breakers.get(part)
        if breaker is None:
            if len(self._breakers) >= _BREAKERS_MAX:
                known = self._store.parts()
                self._breakers = {  # one that is not closed is being probed, and will be closed
                    each: kept
                    for each, kept in self._breakers.items()
                    if each in known or kept.state is not State.CLOSED
                }
            breaker = self._breakers[part] = Breaker(time.monotonic)
        return breaker

    def _may_try(self, breaker: Breaker) -> bool:
        # A part that can be probed gets no call until a probe succeeds: no caller waits for it.
        return breaker.state is State.CLOSED or (not self._store.can_probe and breaker.may_try())

    def _fail(self, part: Hashable, breaker: Breaker, items: int) -> None:
        self._failures += items
        breaker.failed()
        if self._store.can_probe and breaker.state is not State.CLOSED:
            self._probing.start(part, breaker)

    def _require_openable(self, items: int) -> None:
        """Raises at once while the store cannot be opened; the attempts to open it go on."""
        if self._why_closed:
            self._failures += items
            raise StoreUnavailable(f"the store cannot be opened: {self._why_closed}")

    def check(self, key: Key) -> None:
        """Raises StoreUnavailable if a call about a key would be refused now."""
        self._require_openable(1)
        part = self._store.part(key)
        breaker = self._breakers.get(part)
        if breaker is None or breaker.state is State.CLOSED:
            return
        if self._store.can_probe or breaker.refuses:
            self._refused += 1
            raise _left_alone(part)

    def stats(self) -> dict[str, Any]:
        """Counters; `kvserve stats --help` explains their names."""
        states = {breaker.state for breaker in self._breakers.values()}
        worst = next((each for each in (State.OPEN, State.HALF_OPEN) if each in states), "closed")
        return {
            "loads": self._calls["load"],
            "load_hits": self._load_hits,
            "load_seconds": round(self._seconds["load"], 6),
            "saves": self._calls["save"] + self._calls["change"],
            "save_seconds": round(self._seconds["save"] + self._seconds["change"], 6),
            "deletes": self._calls["delete"],
            "failures": self._failures,
            "refused": self._refused,
            "breaker": str(worst),
            "breaker_openings": sum(each.openings for each in self._breakers.values()),
        }

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The statistics of each part, by its name, if the store has parts."""
        told = {}
        for part, figures in self._store.parts().items():
            breaker = self._breakers.get(part)
            told[str(part)] = {
                "breaker": str(breaker.state if breaker else State.CLOSED),
                "left_alone": int(breaker is not None and breaker.state is not State.CLOSED),
                "breaker_openings": breaker.openings if breaker else 0,
                **figures,
            }
        return told

    async def close(self) -> None:
        self._probing.close()
        await self._store.close()


async def _settle(answers: list[asyncio.Future[Any]]) -> list[KvserveError | None]:
    """The error of each answer, or None. An exception that is no KvserveError is raised."""
    ended = await asyncio.gather(*answers, return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException) and not isinstance(each, KvserveError):
            raise each
    return [each if isinstance(each, KvserveError) else None for each in ended]


def _outcome_of(loaded: asyncio.Future[Record | None]) -> Record | KvserveError | None:
    return _error_of(loaded) or loaded.result()


def _error_of(ended: asyncio.Future[Any]) -> KvserveError | None:
    error = ended.exception()
    if error is None or isinstance(error, KvserveError):
        return error
    return InternalError(str(error))


def _left_alone(part: Hashable) -> StoreUnavailable:
    store = "the store" if part is None else f"the store at {part}"
    return StoreUnavailable(f"{store} failed again and again; it is tried again soon")

"""A random walk over a cache and the model at once: after every step they must agree.

Where memory is short the model is an upper bound: the cache may have forgotten what the model
knows, but never knows anything else, and forgets nothing between two looks at it.
"""

from __future__ import annotations

import math
import time
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.model import Key, Model, raw

from kvserve.errors import CounterOverflow, InvalidKey, NotACounter, ValueTooLarge
from kvserve.limits import COUNTER_MAX, COUNTER_MIN

LONG = 3600.0  # seconds; nothing with this time to live expires in a test
FILLER = "filler "

# Few keys, so that they meet often; "a" and b"a" are one. In the smallest table the largest value
# leaves room for a key of 118 bytes.
KEYS: st.SearchStrategy[Key] = st.sampled_from(["a", b"a", "ab", "\u00e9", b"\xff", "k" * 90])
PREFIXES: st.SearchStrategy[Key] = st.sampled_from(["", "a", b"a", b"\xc3", "k" * 90])
COUNTERS = st.one_of(
    st.integers(-3, 3), st.integers(COUNTER_MIN, COUNTER_MAX), st.just(COUNTER_MAX)
)
SMALL_VALUES: st.SearchStrategy[Any] = st.one_of(
    COUNTERS, st.binary(max_size=40), st.text(max_size=20), st.none(), st.lists(st.booleans())
)
TTLS = st.sampled_from([None, LONG])


class CacheMachine(RuleBasedStateMachine):
    """The steps that every cache can take.

    Args:
        cache: what is tested, empty, under the client's names.
        value_bytes_max: its largest value.
        forgets: whether it may evict.
    """

    def __init__(self, cache: Any, value_bytes_max: int, *, forgets: bool = False) -> None:
        super().__init__()
        self.cache = cache
        self.model = Model(clock=lambda: 0.0, value_bytes_max=value_bytes_max)
        self.value_bytes_max = value_bytes_max
        self.forgets = forgets
        # Each state that a key was seen in: its version in the cache and in the model.
        self.seen: dict[bytes, list[tuple[int, int]]] = {}

    def look(self, key: Key) -> None:
        """Compares one key. What the cache forgot, the model forgets."""
        value, version = self.cache.gets(key, "missing")
        if self.forgets and version is None:
            self.model.delete(key)
        expected, model_version = self.model.gets(key, "missing")
        assert (value, type(value)) == (expected, type(expected))
        assert (version is None) == (model_version is None)
        if version is None or model_version is None:
            return
        states = self.seen.setdefault(raw(key), [])
        if not states or states[-1] != (version, model_version):
            # A new state on both sides or on neither, and a higher version each time.
            assert not states or (version > states[-1][0] and model_version > states[-1][1])
            states.append((version, model_version))

    def before(self, key: Key) -> None:
        """Where memory is short, asks first what is still there."""
        if self.forgets:
            self.look(key)

    @rule(
        key=KEYS,
        value=SMALL_VALUES,
        how=st.sampled_from(["set", "add", "replace", "set_many"]),
        ttl=TTLS,
    )
    def store(self, key: Key, value: Any, how: str, ttl: float | None) -> None:
        """Stores a small value."""
        self.before(key)
        if how == "set_many":
            self.cache.set_many({key: value}, ttl)
            self.model.set_many({key: value}, ttl)
        else:
            stored = getattr(self.cache, how)(key, value, ttl)
            assert bool(stored) == bool(getattr(self.model, how)(key, value, ttl))
        self.look(key)

    @rule(key=KEYS, share=st.floats(0, 1), text=st.booleans())
    def store_large(self, key: Key, share: float, text: bool) -> None:
        """Stores a value of any size up to the largest."""
        size = int(share * self.value_bytes_max)
        value = "x" * size if text else bytes(size)
        assert self.cache.set(key, value) > 0
        self.model.set(key, value)
        assert self.cache.get(key, "missing") == value  # what was set just now is never evicted
        self.look(key)

    @rule(key=KEYS, how=st.sampled_from(["set", "add", "replace"]))
    def store_too_large(self, key: Key, how: str) -> None:
        """Fails to store a value beyond the largest."""
        self.before(key)
        try:
            getattr(self.cache, how)(key, bytes(self.value_bytes_max + 1))
        except ValueTooLarge:
            self.look(key)
        else:
            raise AssertionError("a value larger than the largest was stored")

    @rule(key=KEYS, value=SMALL_VALUES, age=st.integers(0, 3), ttl=TTLS)
    def cas(self, key: Key, value: Any, age: int, ttl: float | None) -> None:
        """Stores over the state last seen, or over an older one."""
        self.before(key)
        states = self.seen.get(raw(key), [(1, 1)])
        version, model_version = states[-min(1 + age, len(states))]
        done = self.cache.cas(key, value, version, ttl)
        assert done == self.model.cas(key, value, model_version, ttl)
        self.look(key)

    @rule(key=KEYS, value=SMALL_VALUES, age=st.integers(0, 3))
    def keep_ttl(self, key: Key, value: Any, age: int) -> None:
        """Stores over what is there, or over a state of it, for the time that it had left."""
        self.before(key)
        states = self.seen.get(raw(key), [(1, 1)])
        version, model_version = states[-min(1 + age, len(states))]
        if age == 3:
            assert self.cache.replace(key, value, keep_ttl=True) == self.model.replace(
                key, value, keep_ttl=True
            )
        else:
            done = self.cache.cas(key, value, version, keep_ttl=True)
            assert done == self.model.cas(key, value, model_version, keep_ttl=True)
        self.look(key)
        self.ttl(key)

    @rule(key=KEYS, delta=COUNTERS, initial=st.one_of(st.none(), COUNTERS), ttl=TTLS)
    def incr(self, key: Key, delta: int, initial: int | None, ttl: float | None) -> None:
        """Counts; what one refuses the other refuses."""
        self.before(key)
        answers = []
        for each in (self.cache, self.model):
            try:
                answers.append(each.incr(key, delta, initial, ttl))
            except (NotACounter, CounterOverflow) as error:
                answers.append(type(error))
        assert answers[0] == answers[1]
        self.look(key)

    @rule(key=KEYS)
    def delete(self, key: Key) -> None:
        """Removes."""
        self.before(key)
        assert self.cache.delete(key) == self.model.delete(key)
        self.look(key)

    @rule(key=KEYS, age=st.integers(0, 3))
    def delete_version(self, key: Key, age: int) -> None:
        """Removes the state last seen, or an older one."""
        self.before(key)
        states = self.seen.get(raw(key), [(1, 1)])
        version, model_version = states[-min(1 + age, len(states))]
        assert self.cache.delete(key, version) == self.model.delete(key, model_version)
        self.look(key)

    @rule(key=KEYS, ttl=TTLS)
    def touch(self, key: Key, ttl: float | None) -> None:
        """Gives a new time to live."""
        self.before(key)
        assert self.cache.touch(key, ttl) == self.model.touch(key, ttl)
        self.look(key)

    @rule(key=KEYS)
    def ttl(self, key: Key) -> None:
        """Compares the time that is left, but for the time that passes meanwhile."""
        self.before(key)
        left, expected = self.cache.ttl(key), self.model.ttl(key)
        if expected == LONG:
            assert 0 < left <= LONG
        else:
            assert left == expected

    @rule(key=KEYS)
    def expire(self, key: Key) -> None:
        """Lets a key expire."""
        self.before(key)
        assert self.cache.touch(key, 0.001) == self.model.delete(key)
        while self.cache.get(key, "missing") != "missing":
            time.sleep(0.0005)
        assert self.cache.ttl(key) is None
        assert key not in self.cache

    @rule(keys=st.lists(KEYS, max_size=8))
    def get_many(self, keys: list[Key]) -> None:
        """Reads several at once."""
        for key in keys:
            self.before(key)
        assert self.cache.get_many(keys) == self.model.get_many(keys)

    @rule(keys=st.lists(KEYS, max_size=4))
    def delete_many(self, keys: list[Key]) -> None:
        """Removes several at once."""
        for key in keys:
            self.before(key)
        assert self.cache.delete_many(keys) == self.model.delete_many(keys)

    @rule(prefix=PREFIXES)
    def scan(self, prefix: Key) -> None:
        """Sees every key that is there, as it was stored, and no other."""
        found = [key for key in self.cache.scan(prefix) if not _is_filler(key)]
        for key in list(self.model.scan(prefix)):
            self.before(key)
        assert set(found) == set(self.model.scan(prefix))

    @rule(key=KEYS)
    def read(self, key: Key) -> None:
        """Reads; a key that is often read is kept longer."""
        self.look(key)
        assert (key in self.cache) == (key in self.model)

    @rule(key=st.sampled_from(["", b"", "k" * 1025, "\ud800", 1, None]))
    def bad_key(self, key: Any) -> None:
        """Fails by a key that is none."""
        try:
            self.cache.set(key, 1)
        except InvalidKey:
            return
        raise AssertionError(f"{key!r} was taken as a key")

    @rule()
    def flush(self) -> None:
        """Empties both."""
        self.cache.flush()
        self.model.flush()

    @invariant()
    def nothing_expires_that_should_not(self) -> None:
        """Our own clock stands still, so the model forgets nothing by itself."""
        assert all(self.model.ttl(key) in (LONG, math.inf) for key in self.model.scan())


def _is_filler(key: Key) -> bool:
    return raw(key).startswith((FILLER.encode(), b"kvserve:tag:"))

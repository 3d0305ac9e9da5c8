"""Keys: what one is, when two are the same, and what happens to those that are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support import ways

from kvserve.errors import InvalidKey

GOOD = [
    "k",
    b"k",
    "\x00",
    b"\xff",
    "a b\nc",
    "\U0001f511",
    "k" * 1024,
    b"\x00" * 1024,
    "\u00e9" * 512,
]
BAD: list[Any] = [
    "",
    b"",
    "k" * 1025,
    b"k" * 1025,
    "\u00e9" * 513,
    "\ud800",
    None,
    7,
    1.5,
    True,
    ("a", "b"),
    bytearray(b"key"),
    memoryview(b"key"),
]
HASHABLE_BAD = [key for key in BAD if not isinstance(key, bytearray)]

Call = Callable[[Any, Any], object]
CALLS: dict[str, Call] = {
    "get": lambda cache, key: cache.get(key),
    "gets": lambda cache, key: cache.gets(key),
    "set": lambda cache, key: cache.set(key, 1),
    "add": lambda cache, key: cache.add(key, 1),
    "replace": lambda cache, key: cache.replace(key, 1),
    "cas": lambda cache, key: cache.cas(key, 1, 1),
    "delete": lambda cache, key: cache.delete(key),
    "touch": lambda cache, key: cache.touch(key, 5),
    "ttl": lambda cache, key: cache.ttl(key),
    "incr": lambda cache, key: cache.incr(key),
    "decr": lambda cache, key: cache.decr(key),
    "get_many": lambda cache, key: cache.get_many(["good", key]),
    "delete_many": lambda cache, key: cache.delete_many([key, "good"]),
}


def ident(key: object) -> str:
    """A test id that stays short."""
    return f"{type(key).__name__}-{repr(key)[:12]}"


@pytest.mark.parametrize("key", GOOD, ids=ident)
def test_good_key(cache: Any, key: str | bytes) -> None:
    assert cache.get(key) is None
    assert cache.set(key, "value") > 0
    assert cache.get(key) == "value"
    assert key in cache
    assert list(cache.scan()) == [key]
    assert cache.get_many([key]) == {key: "value"}
    assert cache.delete(key) is True
    assert key not in cache


@pytest.mark.parametrize("text", ["k", "\u00e9", "\U0001f511" * 256])
def test_text_and_its_utf8_are_one_key(cache: Any, text: str) -> None:
    cache.set(text, 1)
    assert cache.get(text.encode()) == 1
    cache.set(text.encode(), 2)
    assert cache.get(text) == 2
    assert cache.incr(text) == 3
    assert len(list(cache.scan())) == 1
    assert cache.delete(text.encode()) is True
    assert text not in cache


def test_keys_that_only_look_the_same_are_two(cache: Any) -> None:
    """No normalization, no folding, no trimming: one byte differs, so the key does."""
    keys = ["\u00e9", "e\u0301", "E\u0301", "a", "A", "a ", " a", "a\x00", "aa"]
    for number, key in enumerate(keys):
        cache.set(key, number)
    assert [cache.get(key) for key in keys] == list(range(len(keys)))


def test_batch_answers_by_the_callers_keys(cache: Any) -> None:
    cache.set("text", 1)
    cache.set(b"bytes", 2)
    assert cache.get_many([b"text", "bytes", "absent"]) == {b"text": 1, "bytes": 2}
    both = cache.get_many(["text", b"text"])
    assert both == {"text": 1, b"text": 1}


@pytest.mark.parametrize("key", BAD, ids=ident)
@pytest.mark.parametrize("call", CALLS)
def test_bad_key_is_refused_by_every_operation(cache: Any, call: str, key: Any) -> None:
    cache.set("good", 1)
    with pytest.raises(InvalidKey):
        CALLS[call](cache, key)
    assert cache.get("good") == 1
    assert list(cache.scan()) == ["good"]


@pytest.mark.parametrize("key", HASHABLE_BAD, ids=ident)
@pytest.mark.ways("model", *ways.SERVED)
def test_batch_with_a_bad_key_changes_nothing(cache: Any, key: Any) -> None:
    with pytest.raises(InvalidKey):
        cache.set_many({"before": 1, key: 2, "after": 3})
    assert list(cache.scan()) == []


@pytest.mark.parametrize("key", BAD, ids=ident)
@pytest.mark.ways("model", *ways.CLIENTS)
def test_bad_key_in_brackets(cache: Any, key: Any) -> None:
    with pytest.raises(InvalidKey):
        cache[key]
    with pytest.raises(InvalidKey):
        cache[key] = 1
    with pytest.raises(InvalidKey):
        del cache[key]
    with pytest.raises(InvalidKey):
        _ = key in cache

"""scan: every key that is there throughout comes at least once, and none that is not there."""

from __future__ import annotations

from typing import Any

import pytest


def test_of_nothing(cache: Any) -> None:
    assert list(cache.scan()) == []


def test_sees_all(cache: Any) -> None:
    keys = {f"key {number}" for number in range(3000)}
    cache.set_many(dict.fromkeys(keys, 1))
    assert set(cache.scan()) == keys


def test_comes_to_an_end_and_can_begin_again(cache: Any) -> None:
    cache.set_many({"a": 1, "b": 2})
    first = cache.scan()
    assert {next(first), next(first)} == {"a", "b"}
    with pytest.raises(StopIteration):
        next(first)
    assert set(cache.scan()) == {"a", "b"}


def test_keys_come_back_as_they_were_stored(cache: Any) -> None:
    cache.set("text", 1)
    cache.set(b"bytes", 1)
    cache.set(b"\xff", 1)
    assert set(cache.scan()) == {"text", b"bytes", b"\xff"}


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", {"user:1", "user:2", "users", "u", "other", b"user:\xff"}),
        ("user:", {"user:1", "user:2", b"user:\xff"}),
        (b"user:", {"user:1", "user:2", b"user:\xff"}),
        ("user:1", {"user:1"}),
        ("u", {"user:1", "user:2", "users", "u", b"user:\xff"}),
        (b"user:\xff", {b"user:\xff"}),
        ("absent", set()),
        ("user:1 and more", set()),
        ("User", set()),
        ("k" * 1024, set()),
    ],
)
def test_prefix(cache: Any, prefix: str | bytes, expected: set[str | bytes]) -> None:
    cache.set_many(dict.fromkeys(["user:1", "user:2", "users", "u", "other", b"user:\xff"], 1))
    assert set(cache.scan(prefix)) == expected


def test_prefix_of_half_a_character(cache: Any) -> None:
    cache.set("\u00e9", 1)
    assert list(cache.scan("\u00e9".encode()[:1])) == ["\u00e9"]


def test_does_not_see_what_is_gone(cache: Any) -> None:
    cache.set_many({f"key {number}": 1 for number in range(100)})
    cache.delete_many([f"key {number}" for number in range(50)])
    assert set(cache.scan()) == {f"key {number}" for number in range(50, 100)}


def test_sees_what_stays_while_others_come_and_go(cache: Any) -> None:
    stays = {f"stays {number}" for number in range(500)}
    cache.set_many(dict.fromkeys(stays, 1))
    seen = set()
    for number, key in enumerate(cache.scan()):
        seen.add(key)
        cache.set(f"comes {number % 100}", number)
        cache.delete(f"comes {(number + 50) % 100}")
        cache.set(f"stays {number % 500}", bytes(number % 300))
    assert seen >= stays


def test_reads_no_values(cache: Any) -> None:
    cache.set("large", bytes(2**20))
    assert list(cache.scan()) == ["large"]


def test_longest_keys(cache: Any) -> None:
    keys = {f"{number:04}" + "x" * 1020 for number in range(300)}
    cache.set_many(dict.fromkeys(keys, ""))
    assert set(cache.scan()) == keys
    assert len(set(cache.scan("00"))) == 100

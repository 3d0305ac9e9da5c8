"""The cache as a mapping: brackets, `in`, `del`, and KeyError where a dict raises it."""

from __future__ import annotations

from typing import Any

import pytest
from support import ways

pytestmark = pytest.mark.ways("model", *ways.CLIENTS, "namespace")


def test_brackets(cache: Any, key: str) -> None:
    cache[key] = {"a": 1}
    assert cache[key] == {"a": 1}
    assert key in cache
    del cache[key]
    assert key not in cache


def test_brackets_of_nothing(cache: Any, key: str) -> None:
    with pytest.raises(KeyError, match=key):
        cache[key]
    with pytest.raises(KeyError, match=key):
        del cache[key]
    assert key not in cache


def test_none_is_found(cache: Any, key: str) -> None:
    cache[key] = None
    assert cache[key] is None
    assert key in cache


def test_brackets_store_for_ever(cache: Any, key: str) -> None:
    cache.set(key, 1, ttl=100)
    cache[key] = 2
    assert cache.ttl(key) == float("inf")
    assert cache[key.encode()] == 2


def test_augmented_assignment_reads_and_writes(cache: Any, key: str) -> None:
    cache[key] = 1
    cache[key] += 1
    assert cache[key] == 2

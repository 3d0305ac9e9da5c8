"""What does a hit cost, read from shared memory, beside `dict.get` in the same loop?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import KEY, VALUE

import kvserve

pytestmark = pytest.mark.benchmark(group="hit")
GETS = 1_000  # in one round, so that a row's microseconds are nanoseconds a get
LOOPS = {"rounds": 500, "warmup_rounds": 20}


def get_often(get: Callable[[bytes], Any], key: bytes) -> Any:
    """The same loop for all."""
    for _ in range(GETS):
        value = get(key)
    return value


def test_dict_get(benchmark: Any) -> None:
    items = {b"key:%08d" % number: VALUE for number in range(10_000)}
    benchmark.pedantic(get_often, (items.get, KEY), **LOOPS)


@pytest.mark.parametrize("kind", ["bytes", "bytes with ttl", "str", "int", "list"])
def test_client_get(benchmark: Any, server: str, kind: str) -> None:
    values: dict[str, Any] = {
        "bytes": VALUE,
        "bytes with ttl": VALUE,
        "str": VALUE.decode(),
        "int": 123_456,
        "list": [VALUE, 1, None],
    }
    with kvserve.connect(server) as cache:
        cache.set(KEY, values[kind], ttl=3600 if "ttl" in kind else None)
        assert benchmark.pedantic(get_often, (cache.get, KEY), **LOOPS) == values[kind]


def test_client_miss(benchmark: Any, server: str) -> None:
    with kvserve.connect(server) as cache:
        assert benchmark.pedantic(get_often, (cache.get, b"nobody"), **LOOPS) is None

"""Keys found by a pattern, and removed by a prefix or a pattern."""

from __future__ import annotations

from typing import Any

import pytest
from support import ways

from kvserve.errors import InvalidArgument

EVERYWHERE = ("model", *ways.SERVED, *ways.NAMESPACES)
KEYS = [
    "user:1", "user:2", "user:1:cart", "user:é:cart", "users", "cart", b"\xff\xfe", "a*b", "axb",
    "[x]", "\\", "a\nb", "-", "^",
]  # fmt: skip
PATTERNS = [
    "*", "user:*", "user:*:cart", "*cart", "user:?", "user:??:cart", "user:[0-9]", "user:[^1]",
    "user:[2-1]", "a\\*b", "a*b", "a?b", "[[]x]", "\\[x\\]", "\\\\", "\\", "[\\\\]", "[\\]x]*",
    "nobody", "", "**s", "*:*:*", b"\xff?", b"[\xf0-\xff]*", "[", "[^", "[]", "[^]", "[^]*", "[a-",
    "[-]", "[\\^]", "[^^]", "user:[12", "*[1", "a[\n]b", "us[e]r:*", "*r:*1*", "?ser*1",
    "[a-z]*[!-~]",
]  # fmt: skip


@pytest.mark.ways(*EVERYWHERE)
@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_scan_by_a_pattern(cache: Any, pattern: Any) -> None:
    """The model has Redis's own loop over the pattern; `[` and so on do what they do there."""
    from support.model import Model

    expected = Model()
    expected.set_many(dict.fromkeys(KEYS, 1))
    cache.set_many(dict.fromkeys(KEYS, 1))
    assert set(cache.scan(match=pattern)) == set(expected.scan(match=pattern))
    assert set(cache.scan("user", pattern)) == set(expected.scan("user", pattern))
    assert set(cache.scan("user:1:c", pattern)) == set(expected.scan("user:1:c", pattern))
    count = len(set(expected.scan(match=pattern)))
    assert cache.delete_matching(pattern) == count
    assert cache.delete_matching(pattern) == 0
    assert len(list(cache.scan())) == len(KEYS) - count


@pytest.mark.ways(*EVERYWHERE)
def test_many_keys_go_by_their_prefix(cache: Any) -> None:
    cache.set_many({f"user:{n}": n for n in range(5000)})
    cache.set_many({f"other:{n}": n for n in range(100)})
    assert cache.delete_prefix("user:1") == 1111
    assert cache.delete_prefix(b"user:") == 3889
    assert cache.delete_prefix("user:") == 0
    assert len(list(cache.scan())) == 100
    assert cache.delete_prefix("") == 100
    assert list(cache.scan()) == []


@pytest.mark.ways("direct", "writer", "async")
def test_a_pattern_stays_in_its_namespace(cache: Any) -> None:
    """The characters of a namespace's name are no pattern in it."""
    star, other = cache.namespace("a*[b]?"), cache.namespace("axx")
    for each in (star, other, cache):
        each.set("user:1", 1)
    assert list(star.scan(match="user:*")) == ["user:1"]
    assert star.delete_matching("*") == 1
    assert star.delete_prefix("") == 0
    assert "user:1" in other
    assert "user:1" in cache
    assert cache.delete_prefix("user:") == 1
    assert other.get("user:1") == 1


@pytest.mark.ways(*ways.SERVED, *ways.NAMESPACES)
def test_what_is_no_pattern(cache: Any) -> None:
    cache.set("a", 1)
    for bad in (7, ["a"], "\ud800"):
        with pytest.raises(InvalidArgument):
            list(cache.scan(match=bad))
        with pytest.raises(InvalidArgument):
            cache.delete_matching(bad)
    assert cache.get("a") == 1


@pytest.mark.ways("direct", "worker-queue")
def test_no_pattern_takes_for_ever(cache: Any) -> None:
    """Trying all ways to share a key among 30 stars would."""
    cache.set("a" * 1000, 1)
    assert list(cache.scan(match="a*" * 30 + "b")) == []
    assert list(cache.scan(match="*a" * 30 + "?" * 900)) == ["a" * 1000]

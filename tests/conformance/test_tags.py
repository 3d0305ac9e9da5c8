"""Values with tags, by every way to a cache: a hit until one of their tags is invalidated."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support import ways

from kvserve.errors import InvalidArgument, ValueTooLarge

pytestmark = pytest.mark.ways(*ways.SERVED, *ways.NAMESPACES)
VALUES: list[Any] = [
    b"bytes",
    "text",
    "\u00e9" * 600,
    7,
    -1,
    None,
    {"a": [1, 2]},
    b"",
    "",
    "x" * 5000,
]


def reads(cache: Any, key: str) -> tuple[Any, ...]:
    """All that can be known of a key."""
    return (
        cache.get(key, "-"),
        cache.gets(key, "-")[0],
        cache.get_many([key]),
        cache.ttl(key) is not None,
        key in cache,
        key in list(cache.scan()),
    )


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:12])
def test_value_is_there_until_a_tag_is_invalidated(cache: Any, key: str, value: Any) -> None:
    missing = ("-", "-", {}, False, False, False)
    hit = (value, value, {key: value}, True, True, True)
    for tags in (["a"], ["a", "b"], [f"t{number}" for number in range(14)] + ["a"]):
        cache.set(key, value, tags=tags)
        assert reads(cache, key) == hit
        cache.invalidate_tag("other")
        assert reads(cache, key) == hit
        cache.invalidate_tag("a")
        assert reads(cache, key) == missing
        cache.invalidate_tag("a")  # twice does no harm
        assert reads(cache, key) == missing


def test_what_follows_an_invalidation_is_there(cache: Any, key: str) -> None:
    cache.set(key, "old", tags=["a"])
    cache.invalidate_tag("a")
    cache.set(key, "new", tags=["a"])
    assert cache.get(key) == "new"
    cache.set(key, "without")
    cache.invalidate_tag("a")
    assert cache.get(key) == "without"


def test_changes_see_no_value_whose_tag_was_invalidated(cache: Any, key: str) -> None:
    def gone(value: Any = 5) -> int:
        version: int = cache.set(key, value, tags=["a", "b"])
        cache.invalidate_tag("b")
        return version

    version = gone()
    assert not cache.replace(key, 1)
    assert not cache.cas(key, 1, version)
    assert not cache.touch(key, 60)
    gone()
    assert not cache.delete(key)
    gone()
    assert not cache.delete(key, gone())
    gone()
    assert cache.incr(key, initial=None) is None
    gone()
    assert cache.incr(key) == 1
    gone()
    assert cache.add(key, "new")
    assert cache.get(key) == "new"
    assert cache.verify() == [] if hasattr(cache, "verify") else True


def test_every_store_takes_tags(cache: Any, key: str) -> None:
    assert cache.add(key, 1, tags=["a"])
    assert not cache.add(key, 2, tags=["b"])
    cache.invalidate_tag("b")
    assert cache.get(key) == 1
    assert cache.replace(key, 2, tags=["b"])
    cache.invalidate_tag("a")
    assert cache.get(key) == 2
    version = cache.gets(key)[1]
    if version is None:  # of a counter, an asyncio reader must ask
        version = cache.set(key, 2, tags=["b"])
    assert cache.cas(key, 3, version, tags=["c"])
    cache.invalidate_tag("b")
    assert cache.get(key) == 3
    cache.invalidate_tag("c")
    assert cache.get(key) is None


def test_change_in_place_keeps_tags_and_a_new_value_drops_them(cache: Any, key: str) -> None:
    cache.set(key, 5, tags=["a"])
    assert cache.incr(key, 2) == 7
    assert cache.touch(key, 60)
    assert 59 < cache.ttl(key) <= 60
    assert cache.decr(key) == 6
    assert cache.get(key) == 6
    cache.invalidate_tag("a")
    assert cache.get(key) is None
    for change in (cache.replace, lambda *args: cache.cas(*args, cache.gets(key)[1])):
        cache.set(key, "one", tags=["a"])
        assert change(key, "two")
        cache.invalidate_tag("a")
        assert cache.get(key) == "two"


def test_many_values_have_the_same_tags(cache: Any, key: str) -> None:
    values = {f"{key}{number}": number for number in range(300)}
    cache.set_many(values, tags=["a", "b"])
    cache.set_many({f"{key}-": "-"}, ttl=60, tags=())
    assert cache.get_many(values) == values
    cache.invalidate_tag("b")
    assert cache.get_many([*values, f"{key}-"]) == {f"{key}-": "-"}
    cache.set_many({}, tags=["a"])


def test_time_to_live_ends_a_value_with_tags(cache: Any, key: str) -> None:
    cache.set(key, "short", 0.05, tags=["a"])
    assert cache.get(key) == "short"
    time.sleep(0.1)
    assert cache.get(key) is None


@pytest.mark.parametrize("tags", ["a", b"a", 7, [7], [""], [None], [str(n) for n in range(16)]])
def test_bad_tags(cache: Any, key: str, tags: Any) -> None:
    for change in (
        lambda: cache.set(key, 1, tags=tags),
        lambda: cache.add(key, 1, tags=tags),
        lambda: cache.set_many({key: 1}, tags=tags),
        lambda: cache.get_or_set(key, int, tags=tags),
        lambda: cache.memoize(tags=tags),
    ):
        with pytest.raises(InvalidArgument):
            change()
    assert cache.get(key) is None
    for bad in ("", None, b"a", 7):
        with pytest.raises(InvalidArgument):
            cache.invalidate_tag(bad)


def test_names_of_tags_are_apart(cache: Any, key: str) -> None:
    names = ["a", "a:b", "a%3Ab", "\u00e9", "x" * 2000, "x" * 2001]
    cache.set(key, 1, tags=[*names, *names])
    for number, name in enumerate(names):
        cache.set(f"{key}{number}", number, tags=[name])
    for number, name in enumerate(names):
        cache.invalidate_tag(name)
        left = {f"{key}{n}": n for n in range(number + 1, len(names))}
        assert cache.get_many([f"{key}{n}" for n in range(len(names))]) == left


def test_tags_count_as_part_of_a_values_size(cache: Any, key: str) -> None:
    size = 1024 * 1024 - 8 - 16
    cache.set(key, b"x" * size, tags=["a"])
    assert cache.get(key) == b"x" * size
    with pytest.raises(ValueTooLarge):
        cache.set(key, b"x" * (size + 1), tags=["a"])
    assert cache.get(key) == b"x" * size

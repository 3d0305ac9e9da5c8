"""Tags together with what else there is for values and keys, by every way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from support import ways
from support.servers import Server

import kvserve
from kvserve.errors import InvalidArgument, InvalidKey, MisuseError, ValueTooLarge
from kvserve.protocol import codec, commands

PAGE = "<li>Ada Lovelace, Countess</li>\n" * 400
MARKS_BYTES = 8 + 16  # of one tag
Connect = Callable[..., Any]


class Pickles:
    """A codec of the application, for complex numbers."""

    name = "complex"
    number = 77

    def encode(self, value: Any) -> bytes:
        """As text."""
        return repr(complex(value)).encode()

    def decode(self, payload: bytes) -> Any:
        """From text."""
        return complex(payload.decode())


@pytest.fixture(params=ways.SERVED)
def connect(request: pytest.FixtureRequest, served: Server) -> Iterator[Connect]:
    """Makes a client of one way."""
    with ExitStack() as stack:

        def make(**options: Any) -> Any:
            cache = ways.connect(request.param, served.name, **options)
            stack.callback(cache.close)
            return cache

        yield make


@pytest.fixture
def plain(served: Server) -> Iterator[kvserve.Client]:
    """An ordinary client, by which others read."""
    with served.connect() as client:
        yield client


def test_compressed_values(connect: Connect, plain: kvserve.Client, key: str) -> None:
    cache = connect(compress=1000)
    for value in (PAGE, PAGE.encode(), [PAGE, 7], "\u00e9" + PAGE):
        cache.set(key, value, tags=["a", "b"])
        number, payload, *_ = plain._ask(commands.GET, (key,))
        assert number & codec.COMPRESSED
        assert len(payload) < 1000
        for reader in (cache, plain):
            assert reader.get(key) == value
            assert reader.get_many([key]) == {key: value}
            assert reader.gets(key)[0] == value
        cache.invalidate_tag("b")
        assert cache.get(key) is None
        assert plain.get_many([key]) == {}
        cache.set_many({key: value}, tags=["a"])
        assert plain.get(key) == value
        plain.invalidate_tag("a")
        assert cache.get(key) is None
    assert plain.verify() == []


def test_limits_are_on_the_plain_size_and_the_tags(
    connect: Connect, plain: kvserve.Client, key: str
) -> None:
    most = plain._workers.manifest.value_bytes_max
    for options in ({}, {"compress": 1000}):
        cache = connect(**options)
        cache.set(key, bytes(most - MARKS_BYTES), tags=["a"])
        assert len(cache.get(key)) == most - MARKS_BYTES
        for store in (cache.set, cache.replace, cache.add):
            with pytest.raises(ValueTooLarge):
                store(key, bytes(most - MARKS_BYTES + 1), tags=["a"])
        with pytest.raises(ValueTooLarge) as caught:
            cache.set_many({"small": 1, key: bytes(most - MARKS_BYTES + 1)}, tags=["a"])
        assert caught.value.key == key
        assert set(caught.value.failed) == {"small", key}
        assert len(cache.get(key)) == most - MARKS_BYTES
        cache.set(key, bytes(most))
        assert len(cache.get(key)) == most


def test_a_codec_of_the_application(connect: Connect, key: str) -> None:
    cache = connect(codec=Pickles())
    cache.set(key, 1 + 2j, tags=["a"])
    assert cache.get(key) == 1 + 2j
    assert cache.get_record(key).value == 1 + 2j
    cache.invalidate_tag("a")
    assert cache.get(key) is None


def test_records(connect: Connect, key: str) -> None:
    cache = connect()
    get_here = getattr(cache, "_client", cache).get_here  # no coroutine in either client
    for value in ("text", 7, [1]):
        version = cache.set(key, value, 60, tags=["a"])
        record = cache.get_record(key)
        assert (record.value, record.version) == (value, version)
        assert 59 < record.ttl <= 60
        assert get_here(key) in (value, kvserve.ASK_WORKER)
        cache.invalidate_tag("a")
        assert cache.get_record(key) is None
        assert get_here(key, "-") in ("-", kvserve.ASK_WORKER)


def test_keep_ttl(connect: Connect, key: str) -> None:
    cache = connect()
    version = cache.set(key, 1, 60, tags=["a"])
    assert cache.cas(key, 2, version, keep_ttl=True, tags=["b"])
    assert 59 < cache.ttl(key) <= 60
    cache.invalidate_tag("a")  # the old one's
    assert cache.get(key) == 2
    assert cache.replace(key, 3, keep_ttl=True, tags=["b", "c"])
    assert 59 < cache.ttl(key) <= 60
    cache.invalidate_tag("b")
    assert cache.get(key) is None
    assert cache.replace(key, 4, keep_ttl=True) is False  # it is missing
    cache.set(key, 5, 60, tags=["a"])
    assert cache.replace(key, 6, keep_ttl=True)
    cache.invalidate_tag("a")  # dropped
    assert cache.get(key) == 6


def test_update(connect: Connect, key: str) -> None:
    cache = connect()
    cache.set(key, [1], 60, tags=["a"])
    assert cache.update(key, lambda had: [*had, 2]) == [1, 2]
    cache.invalidate_tag("a")
    assert cache.get(key) == [1, 2]  # without tags, as after cas
    assert cache.update(key, lambda had: [*had, 3], tags=["b"]) == [1, 2, 3]
    assert 50 < cache.ttl(key) <= 60
    cache.invalidate_tag("b")
    assert cache.update(key, lambda had: [*had, 9], [], tags=["b"]) == [9]
    cache.invalidate_tag("b")
    assert cache.get(key) is None


def test_update_whose_tag_is_invalidated_meanwhile(
    connect: Connect, plain: kvserve.Client, key: str
) -> None:
    cache = connect()

    def change(had: Any) -> Any:
        plain.invalidate_tag("a")
        return had + 1

    assert cache.update(key, change, 0, tags=["a"]) == 1
    assert cache.get(key) is None


LOOKS_REPLACED = "x" * (1024 - len("kvserve:tag:") - 65) + "#" + "0" * 64


@pytest.mark.parametrize("name", ["t" * 5000, "\u00e9" * 600, LOOKS_REPLACED, "#" + "0" * 64])
def test_names_of_tags_mean_the_same_to_all(
    connect: Connect, plain: kvserve.Client, key: str, name: str
) -> None:
    cache = connect(long_keys="hash")
    for writer, other in ((cache, plain), (plain, cache)):
        for long_key in (key, key * 300):
            if writer is plain and long_key != key:
                continue
            writer.set(long_key, 1, tags=[name])
            assert writer.get(long_key) == 1
            other.invalidate_tag(name)
            assert writer.get(long_key) is None
    for client in (cache, plain):
        with pytest.raises(InvalidKey):
            client.set(key, 1, tags=["\ud800"])
        with pytest.raises(InvalidKey):
            client.invalidate_tag("\ud800")


def test_a_value_that_is_too_large_removes(
    connect: Connect, plain: kvserve.Client, key: str
) -> None:
    most = plain._workers.manifest.value_bytes_max
    cache = connect(too_large="remove")
    for store in (
        lambda: cache.set(key, bytes(most - MARKS_BYTES + 1), tags=["a"]),
        lambda: cache.set_many({key: bytes(most - MARKS_BYTES + 1)}, tags=["a"]),
    ):
        cache.set(key, "old", tags=["b"])
        with pytest.raises(ValueTooLarge):
            store()
        assert cache.get(key) is None


def test_lenient_lifetimes(connect: Connect, key: str) -> None:
    cache = connect(lifetimes="lenient")
    cache.set(key, 1, 10**12, tags=["a"])
    assert cache.ttl(key) == float("inf")
    assert cache.set(key, 1, kvserve.DO_NOT_KEEP, tags=["a"]) == 0
    assert cache.get(key) is None
    cache.set_many({key: 1}, 60, tags=["a"])
    cache.set_many({key: 2}, -1, tags=["a"])
    assert cache.get(key) is None


def test_scans_by_pattern(connect: Connect, key: str) -> None:
    cache = connect()
    cache.set_many({f"{key}:1": 1, f"{key}:2": 2}, tags=["a"])
    cache.set_many({f"{key}:3": 3, f"{key}:4": 4}, tags=["b"])
    cache.invalidate_tag("a")
    assert sorted(cache.scan(match=f"{key}:?")) == [f"{key}:3", f"{key}:4"]
    assert cache.delete_matching(f"{key}:[1-3]") == 1
    assert cache.delete_prefix(f"{key}:") == 1


def test_rules_of_a_namespace(served: Server, key: str) -> None:
    with served.connect() as cache:
        space = cache.namespace("n", long_keys="hash", too_large="remove", lifetimes="lenient")
        for name in (key, key * 300):
            space.set(name, 1, 10**12, tags=["a"])
            assert space.add(name, 2, tags=["a"]) is False
            assert space.replace(name, 3, tags=["a"]) is True
            cache.invalidate_tag("a")  # another one
            assert space.get(name) == 3
            space.invalidate_tag("a")
            assert space.get(name) is None
            space.set_many({name: 4}, tags=["a"])
            version = space.gets(name)[1]
            assert space.cas(name, 5, version, tags=["b"]) is True
            space.invalidate_tag("a")
            assert space.get(name) == 5


@pytest.mark.parametrize("tags", ["name", [7], [""], [str(n) for n in range(16)]])
def test_what_are_no_tags(connect: Connect, key: str, tags: Any) -> None:
    cache = connect()
    for refused in (
        lambda: cache.set(key, 1, tags=tags),
        lambda: cache.set_many({key: 1}, tags=tags),
        lambda: cache.update(key, lambda _: 1, tags=tags),
    ):
        with pytest.raises(InvalidArgument) as caught:
            refused()
        assert isinstance(caught.value, MisuseError)
    assert cache.get(key) is None

"""A codec of one's own, over every way to the cache: what it carries comes back as it was."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support import ways
from support.codecs import Doing, Reversing, SafeString, some_user
from support.servers import Server

from kvserve import codecs
from kvserve.errors import InvalidValue, NotACounter, UnreadableValue, ValueTooLarge

EVERY = (*ways.SERVED, *ways.NAMESPACES)
EAST = datetime.timezone(datetime.timedelta(hours=5))
SIGNING = b"a key of thirty-two secret bytes"
pytestmark = pytest.mark.ways(*EVERY)


@pytest.fixture(scope="module")
def opened(served: Server) -> str:
    """Where to connect: each test brings its own codec."""
    return served.name


@pytest.fixture
def cache(way: str, opened: str) -> Iterator[Any]:
    """Connects with a codec; all clients are closed at the end."""
    clients: list[Any] = []

    def connect(codec: Any = None) -> Any:
        clients.append(ways.connect(way, opened, codec=codec))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def key() -> str:
    """One that no other test has."""
    return f"key {secrets.token_hex(8)}"


def same(one: Any, other: Any) -> bool:
    """Whether they are equal and of one type."""
    return type(one) is type(other) and bool(one == other)


def test_its_values_come_back_by_every_call(cache: Any, key: str) -> None:
    one, other = SafeString("<b>"), SafeString("<i>")
    with_codec = cache(Reversing())
    version = with_codec.set(key, one)
    assert same(with_codec.get(key), one)
    assert with_codec.gets(key) == (one, version)
    assert same(with_codec.get_many([key])[key], one)
    assert with_codec.cas(key, other, version)
    assert same(with_codec.get(key), other)
    assert with_codec.replace(key, one)
    assert not with_codec.add(key, other)
    with_codec.set_many({key: other, f"{key} 2": one, f"{key} 3": 7})
    found = with_codec.get_many([key, f"{key} 2", f"{key} 3"])
    assert found == {key: other, f"{key} 2": one, f"{key} 3": 7}
    assert {each: type(value) for each, value in found.items()} == {
        key: SafeString, f"{key} 2": SafeString, f"{key} 3": int
    }  # fmt: skip
    with with_codec.pipeline() as pipe:
        pipe.set(key, one).get(key).gets(key).incr(f"{key} 3")
    assert same(pipe.results[1], one)
    assert same(pipe.results[2][0], one)
    assert pipe.results[3] == 8
    assert same(with_codec.get_or_set(f"{key} 4", lambda: one, ttl=60), one)
    assert same(with_codec.get_or_set(f"{key} 4", lambda: other, ttl=60), one)


def test_what_kvserve_carries_exactly_stays_its_own(cache: Any, key: str) -> None:
    """So that every client reads it, and an int counts."""
    with_codec, without = cache(codecs.pickle()), cache()
    utc = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    for value in (7, "text", b"raw", None, 0.5, [1, (2, {"a": utc})], utc, array.array("d", [1])):
        with_codec.set(key, value)
        assert same(without.get(key), value)
        assert same(with_codec.get(key), value)
    with_codec.set(key, 7)
    assert without.incr(key) == 8


@pytest.mark.parametrize(
    "value",
    [
        SafeString("x"), [SafeString("x")], collections.OrderedDict(a=1), {1, 2}, 2**70, "\ud800",
        datetime.datetime(2026, 1, 2, tzinfo=EAST), {"at": datetime.datetime(2026, 1, 2)},
        [datetime.datetime(2026, 1, 2, fold=1, tzinfo=datetime.UTC)], bytearray(b"ab"),
        [bytearray(b"ab")], decimal.Decimal("1.50"), ValueError("an error"), 1j,
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("signing", [None, SIGNING])
def test_nothing_is_silently_something_else(
    cache: Any, key: str, value: Any, signing: bytes | None
) -> None:
    with_codec = cache(codecs.pickle(signing))
    with_codec.set(key, value)
    restored = with_codec.get(key)
    assert type(restored) is type(value)
    assert repr(restored) == repr(value)
    with pytest.raises(NotACounter):
        with_codec.incr(key)


def test_other_clients_are_told_what_they_lack(cache: Any, key: str) -> None:
    class Other(Reversing):
        name = "another"

    cache(Reversing()).set(key, SafeString("x"))
    for codec, text in (
        (None, r"'reversing', number 99, and this client has no codec"),
        (Other(), r"'reversing', number 99, and this client has codec 'another', number 99"),
        (codecs.json(), r"'reversing', number 99, and this client has codec 'json', number 65"),
    ):
        client = cache(codec)
        for read in (client.get, client.gets):
            with pytest.raises(UnreadableValue, match=text) as caught:
                read(key)
            assert key[:14] in str(caught.value)  # a long one is cut short
            assert "connect(codec=" in str(caught.value)
        client.set(f"{key} 2", 1)
        assert client.get_many([key, f"{key} 2"]) == {f"{key} 2": 1}
        with pytest.raises(UnreadableValue), client.pipeline() as pipe:
            pipe.get(key)
        assert client.contains(key)
        with pytest.raises(NotACounter):
            client.incr(key)
        assert client.get_or_set(f"{key} 3", lambda: "new") == "new"
    assert cache().get_or_set(key, lambda: "mended") == "mended"


def test_what_its_code_raises_is_the_cause(cache: Any, key: str) -> None:
    client = cache(Reversing())
    for store in (client.set, client.add, client.replace):
        with pytest.raises(InvalidValue, match="'reversing' cannot encode a set: KeyError") as told:
            store(key, {1})
        assert type(told.value.__cause__) is KeyError
    with pytest.raises(InvalidValue, match="for kvserve itself, this value"):
        client.set_many({key: 1, "other": {1}})
    assert client.get(key) is None
    client.set(key, SafeString(""))
    with pytest.raises(UnreadableValue, match="nothing to turn") as unread:
        client.get(key)
    assert type(unread.value.__cause__) is LookupError
    assert client.get_many([key]) == {}


@pytest.mark.parametrize("data", ["text", None, bytearray(b"x"), 7])
def test_encode_must_return_bytes(cache: Any, key: str, data: Any) -> None:
    with pytest.raises(InvalidValue, match=f"returned a {type(data).__name__} from encode"):
        cache(Doing(lambda _: data)).set(key, SafeString("x"))


def test_the_largest_value_counts_the_codecs_bytes(cache: Any, key: str) -> None:
    client = cache(Doing(lambda _: bytes(2**21)))
    with pytest.raises(ValueTooLarge):
        client.set(key, SafeString("x"))
    with pytest.raises(ValueTooLarge):
        client.set_many({key: SafeString("x")})
    assert client.get(key) is None


class Stop(BaseException):
    """Such as KeyboardInterrupt."""


def stop(_: Any) -> Any:
    """Ends the caller."""
    raise Stop


def test_its_base_exceptions_pass_and_do_no_harm(cache: Any, key: str) -> None:
    client = cache(Doing(stop))
    for store in (client.set, client.add):
        with pytest.raises(Stop):
            store(key, SafeString("x"))
    cache(Reversing()).set(key, SafeString("x"))
    client = cache(Doing(decoding=stop))
    for read in (client.get, client.gets, lambda key: client.get_many([key, key])):
        with pytest.raises(Stop):
            read(key)
    with pytest.raises(Stop), client.pipeline() as pipe:
        pipe.set("other", 1).get(key)
    client.set(key, 1)
    assert client.get(key) == 1


@pytest.mark.ways(*ways.CLIENTS, "namespace")
def test_it_may_call_the_cache_itself(cache: Any, key: str) -> None:
    def encoding(value: Any) -> bytes:
        client.set(f"{key} inner", "written inside")
        return Reversing().encode(value)

    def decoding(data: bytes) -> Any:
        return client.get(f"{key} inner"), client.incr(f"{key} reads"), Reversing().decode(data)

    client = cache(Doing(encoding, decoding))
    client.set(key, SafeString("x"))
    client.set_many({f"{key} {number}": SafeString(f"{number}") for number in range(40)})
    assert client.get(key) == ("written inside", 1, "x")
    many = [f"{key} {number}" for number in range(40)]
    found = client.get_many(many)
    assert [found[each][2] for each in many] == [*map(str, range(40))]
    pipe = client.pipeline().get(key).get(many[0])
    assert [each[2] for each in pipe.execute()] == ["x", "0"]


@pytest.mark.ways("direct", "writer")
def test_it_may_close_the_client(cache: Any, key: str) -> None:
    cache(Reversing()).set_many({f"{key} {n}": SafeString("x") for n in range(20)})

    def closing(data: bytes) -> Any:
        client.close()
        return Reversing().decode(data)

    client = cache(Doing(decoding=closing))
    with pytest.raises(Exception, match="closed"):
        client.get_many([f"{key} {n}" for n in range(20)])
    client = cache(Doing(lambda value: (client.close(), Reversing().encode(value))[1]))
    with pytest.raises(Exception, match="closed"):
        client.set(key, SafeString("x"))
    client = cache(Doing(lambda value: (client.close(), Reversing().encode(value))[1]))
    with pytest.raises(Exception, match="closed"):
        client.set_many({f"{key} {n}": SafeString("x") for n in range(20)})
    assert cache(Reversing()).get(f"{key} 0") == "x"


@pytest.mark.ways(*ways.CLIENTS, "namespace")
def test_many_threads_use_it_at_once(cache: Any, key: str) -> None:
    client = cache(codecs.models(type(some_user())))

    def work(number: int) -> bool:
        mine = some_user()
        mine.name = f"{number}"
        client.set(f"{key} {number % 8}", mine)
        found = client.get(f"{key} {number % 8}")
        return type(found) is type(mine) and found.tags == mine.tags

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))


def test_models_come_back_as_they_are(cache: Any, key: str) -> None:
    user = some_user()
    client = cache(codecs.models(type(user)))
    for value in (user, [user], {"a": (user, None)}, user.homes[0], user.access, {user.color: 1}):
        client.set(key, value)
        assert same(client.get(key), value)
    assert client.get_or_set(f"{key} 2", lambda: user) == user
    client.set(key, user)
    with pytest.raises(UnreadableValue, match=r"'support.codecs.User', which this client was not"):
        cache(codecs.models()).get(key)


def test_arrays_need_no_codec(cache: Any, key: str) -> None:
    numpy = pytest.importorskip("numpy")
    client = cache()
    for value in (numpy.arange(6.0).reshape(2, 3), numpy.asfortranarray(numpy.eye(3))):
        client.set(key, value)
        for found in (client.get(key), client.get_many([key])[key], client.gets(key)[0]):
            assert (found == value).all()
            assert (found.dtype, found.shape) == (value.dtype, value.shape)
            assert found.flags.f_contiguous == value.flags.f_contiguous
            assert not found.flags.writeable
            assert type(found.base) is bytes  # over what was read: no copy
    with pytest.raises(NotACounter):
        client.incr(key)
    computed = client.get_or_set(f"{key} 2", lambda: numpy.ones(3))
    assert not computed.flags.writeable

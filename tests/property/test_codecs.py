"""The codecs of `kvserve.codecs`: what goes in comes out, and hostile bytes end in an error."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import uuid
import zoneinfo
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.codecs import (
    NOTED,
    Access,
    Address,
    Color,
    Point,
    Prices,
    SafeString,
    User,
    note,
    some_user,
)

from kvserve import codecs
from kvserve.client.values import with_own
from kvserve.errors import InvalidArgument, InvalidValue, UnreadableValue
from kvserve.protocol import codec

KEY = b"thirty-two bytes nobody else has"
T = TypeVar("T")


@dataclasses.dataclass
class Node(Generic[T]):
    """Nested in itself."""

    held: T
    next: Node[T] | None = None


class Level(enum.IntEnum):
    """An int that is none."""

    LOW = 1


ZONES = st.one_of(
    st.none(), st.just(datetime.UTC),
    st.sampled_from(["Europe/Paris", "UTC"]).map(zoneinfo.ZoneInfo),
    st.integers(-1439, 1439).map(lambda n: datetime.timezone(datetime.timedelta(minutes=n))),
    st.just(datetime.timezone(datetime.timedelta(hours=1), "CET")),
)  # fmt: skip
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.binary(max_size=9),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
)  # fmt: skip
HASHABLE = st.one_of(
    st.integers(), st.uuids(), st.dates(), st.sampled_from([*Color, *Level]), st.booleans(),
    st.builds(Point, st.integers(), st.integers()), st.text(st.characters(codec="utf-8")),
)  # fmt: skip
LEAVES = st.one_of(
    PLAIN, HASHABLE, st.datetimes(timezones=ZONES), st.times(), st.timedeltas(),
    st.decimals(allow_nan=False), st.complex_numbers(allow_nan=False),
    st.binary(max_size=9).map(bytearray), st.sampled_from([*Access, Access.READ | Access.WRITE]),
    st.sets(HASHABLE, max_size=3), st.frozensets(HASHABLE, max_size=3),
)  # fmt: skip
MODELS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.builds(Node, inner),
        st.dictionaries(HASHABLE, inner, max_size=3), st.builds(Point, inner, inner),
        st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
        st.builds(Address, inner, inner),
    ),
    max_leaves=12,
)  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Whether they are equal and of one type, all the way down."""
    if type(one) is not type(other):
        return False
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (datetime.datetime, datetime.time)):
        return repr(one) == repr(other) and one.fold == other.fold
    return bool(one == other) and (isinstance(one, (set, frozenset)) or repr(one) == repr(other))


@given(MODELS)
def test_models_come_back_as_they_were(value: Any) -> None:
    values = with_own(codecs.models(Node, Address, Color, Access, Level, Point))
    assert same(values.decode(*values.encode(value)), value)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_models(data: bytes) -> None:
    values = with_own(codecs.models(User))
    for payload in (b"\x06models" + data, b"\x06models\x91" + data):
        try:
            values.decode(66, payload, "k")
        except UnreadableValue as error:
            assert "'k'" in str(error)  # noqa: PT017 - most bytes are refused, and some are not


def test_a_payload_makes_only_what_was_registered() -> None:
    values = with_own(codecs.models(Point))
    for stored in (
        ("=os.system", "true"), ("=kvserve.codecs.pickled.Pickle", {}), ("=builtins.object", {}),
        ("=support.codecs.Point", {"x": 1}), ("=support.codecs.Point", {"x": 1, "y": 2, "z": 3}),
        ("=support.codecs.Point", [1, 2]), ("Point", {}), ("", []), ("uuid", 7), ("date", "x"),
        (1, 2), ([], []), (), ("int", "os"), ("dict", 7), ("decimal", "x"),
        ("=", {}), ("bytearray", 2**40), ("set", "ab"), ("tuple", {"a": 1}), ("dict", {"a": 1}),
        ("set", [[]]),
        ("datetime", ("2026-01-01T00:00:00", 0, "../../etc/passwd")),
    ):  # fmt: skip
        payload = b"\x06models" + codec.encode([stored])[1]
        with pytest.raises(UnreadableValue, match=r"models|follow"):
            values.decode(66, payload, "k")


def test_nothing_of_the_class_runs() -> None:
    user = some_user()
    values = with_own(codecs.models(User))
    assert user.made == 1
    assert values.decode(*values.encode(user)).made == 1  # __post_init__ would have made it 2


class Extra(NamedTuple):
    """Not registered."""

    x: int


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Extra(1), r"models\(Extra"), (SafeString("x"), "SafeString is not known"),
        (collections.OrderedDict(a=1), "OrderedDict is not known"), (object(), "object is not"),
        ([Point(1, Extra(2))], "Extra is not known"), (memoryview(b"x"), "memoryview is not known"),
        (lambda: None, "function is not"),
    ],
)  # fmt: skip
def test_what_models_do_not_carry(value: Any, why: str) -> None:
    values = with_own(codecs.models(Point))
    with pytest.raises(InvalidValue, match=why) as told:
        values.encode(value)
    assert type(told.value.__cause__) is TypeError


def test_what_is_no_field_is_refused_and_what_is_cached_is_left_out() -> None:
    @dataclasses.dataclass
    class Circle:
        radius: float

        @functools.cached_property
        def area(self) -> float:
            return 3 * self.radius**2

    values = with_own(codecs.models(Circle))
    circle = Circle(2)
    assert circle.area == 12
    restored = values.decode(*values.encode(circle))
    assert (restored, vars(restored)) == (circle, {"radius": 2})
    circle.name = "c"  # type: ignore[attr-defined]
    with pytest.raises(InvalidValue, match="an attribute that is no field: name"):
        values.encode(circle)
    loop: Any = Node(1)
    loop.next = loop
    with pytest.raises(InvalidValue, match="RecursionError"):
        with_own(codecs.models(Node)).encode(loop)


@pytest.mark.parametrize("kind", [int, list[int], "User", None, object, dict, 7])
def test_what_is_no_model_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidArgument, match="models: "):
        codecs.models(kind)


@pytest.mark.parametrize("kind", [list[User], User | None, dict[str, tuple[User, ...]], Prices])
def test_annotations_name_types(kind: Any) -> None:
    values = with_own(codecs.models(kind))
    value = {"tea": decimal.Decimal(1), "at": Point(1)} if kind is Prices else [some_user()]
    assert values.decode(*values.encode(value)) == value


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)


@given(JSON)
def test_json_comes_back(value: Any) -> None:
    plain = codecs.json()
    assert same(plain.decode(plain.encode(value)), value)


@pytest.mark.parametrize(
    "value", [(1,), {1: 2}, SafeString("x"), Level.LOW, collections.OrderedDict(), b"", {1}]
)
def test_json_changes_nothing_silently(value: Any) -> None:
    with pytest.raises(TypeError, match="JSON has no form for"):
        codecs.json().encode([value])
    asked: list[Any] = []
    helped = codecs.json(lambda each: asked.append(each) or "instead")
    assert helped.decode(helped.encode([value])) == ["instead"]
    assert asked == [value]


def test_pickle_of_a_protocol() -> None:
    for protocol in (2, 5):
        data = codecs.pickle(protocol=protocol).encode({1})
        assert data[:2] == bytes([0x80, protocol])
    for bad in (-1, 99, True, "5"):
        with pytest.raises(InvalidArgument, match="protocol = "):
            codecs.pickle(protocol=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [b"", b"short", "a text of more than 16 letters", 7])
def test_a_key_that_is_none_is_refused(key: Any) -> None:
    with pytest.raises(InvalidArgument, match="key: use at least 16 secret bytes"):
        codecs.pickle(key)


class Bomb:
    """What runs something where it is unpickled."""

    def __reduce__(self) -> Any:
        return note, ("boom",)


def test_nothing_unsigned_is_unpickled() -> None:
    plain, signed = with_own(codecs.pickle()), with_own(codecs.pickle(KEY))
    other = with_own(codecs.pickle(KEY[::-1]))
    number, payload = signed.encode(uuid.UUID(int=7))
    assert signed.decode(number, payload) == uuid.UUID(int=7)
    head = payload[:14]
    assert head == b"\x0dsigned pickle"
    bomb = plain.encode(Bomb())[1].removeprefix(b"\x06pickle")
    forged = [
        other.encode(Bomb())[1], head + bomb, head + bytes(32) + bomb, head, head + b"x",
        payload[:46] + bomb, payload[:-1], payload + b"x", b"\x06pickle" + bomb,
        *(payload[:n] + bytes([payload[n] ^ 1]) + payload[n + 1 :] for n in range(14, len(payload))
        ),
    ]  # fmt: skip
    for each in forged:
        with pytest.raises(UnreadableValue):
            signed.decode(number, each, "k")
    with pytest.raises(UnreadableValue, match=r"'signed pickle'.*has codec 'pickle'"):
        plain.decode(number, payload, "k")
    assert NOTED == []
    plain.decode(*plain.encode(Bomb()))  # so the bomb is one
    assert NOTED == ["boom"]
    assert KEY not in payload
    assert repr(KEY) not in str(vars(codecs.pickle(KEY)))

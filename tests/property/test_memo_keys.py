"""Keys of calls: different arguments never share one, and the same ones always do."""

from __future__ import annotations

import datetime
import enum
import inspect
import uuid
import zoneinfo
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserve.client.recipes import key_layout
from kvserve.client.recipes.arguments import canonical_call
from kvserve.errors import InvalidArgument
from kvserve.limits import KEY_BYTES_MAX


class Color(enum.Enum):
    """A kind of argument."""

    RED = 1
    BLUE = 2


ZONES = st.sampled_from([None, datetime.UTC, zoneinfo.ZoneInfo("Europe/Paris")])
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.sampled_from(Color),
    st.uuids(),
    st.dates(),
    st.timedeltas(),
    st.datetimes(timezones=ZONES),
)
HASHABLE = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner), max_leaves=4)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(HASHABLE, st.frozensets(HASHABLE, max_size=3), st.sets(HASHABLE, max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(HASHABLE, inner, max_size=3),
    ),
    max_leaves=6,
)


def example(a: Any, b: Any = 1, *c: Any, d: Any = None, **e: Any) -> None:
    """A function with every kind of parameter."""


SIGNATURE = inspect.signature(example)


def text(*args: Any, typed: bool = False, **kwargs: Any) -> str:
    """The canonical text of a call of `example`."""
    return canonical_call(SIGNATURE, args, kwargs, typed=typed)


def same(one: Any, other: Any) -> bool:
    """Whether two arguments are equal, and of one type but for int and float, all the way down."""
    if {type(one), type(other)} <= {int, float}:
        return bool(one == other)
    if isinstance(one, (set, frozenset)) and isinstance(other, (set, frozenset)):
        return one == other and {text(each) for each in one} == {text(each) for each in other}
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        pairs = [{(text(key), text(each[key])) for key in each} for each in (one, other)]
        return pairs[0] == pairs[1]
    if isinstance(one, datetime.datetime):
        parts = [(each.replace(tzinfo=None), each.fold, str(each.tzinfo)) for each in (one, other)]
        return parts[0] == parts[1]
    return bool(one == other)


@given(VALUES, VALUES)
def test_texts_are_equal_as_the_arguments_are(one: Any, other: Any) -> None:
    assert (text(one) == text(other)) == same(one, other)


@given(VALUES)
def test_text_is_ascii_and_forms_of_the_call_agree(value: Any) -> None:
    assert text(value).isascii()
    assert text(value) == text(a=value) == text(value, 1) == text(value, d=None)
    assert text(value, typed=True) == text(value, typed=True)


@given(st.lists(SCALARS, max_size=4), st.lists(SCALARS, max_size=4))
def test_arguments_do_not_run_into_each_other(one: list[Any], other: list[Any]) -> None:
    assert (text(0, 0, *one) == text(0, 0, *other)) == same(one, other)


@given(st.dictionaries(st.sampled_from("xyz"), st.integers(0, 2)), st.permutations("xyz"))
def test_order_of_keywords_does_not_matter(given: dict[str, int], order: list[str]) -> None:
    assert text(0, **given) == text(0, **{name: given[name] for name in order if name in given})


def test_moments_that_are_equal_in_two_zones_differ() -> None:
    """Their arithmetic does, and so may the result."""
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    paris = moment.astimezone(zoneinfo.ZoneInfo("Europe/Paris"))
    berlin = moment.astimezone(zoneinfo.ZoneInfo("Europe/Berlin"))
    hour = moment.astimezone(datetime.timezone(datetime.timedelta(hours=1)))
    assert len({text(each) for each in (moment, paris, berlin, hour)}) == 4


class Point(NamedTuple):
    """A tuple that is more than a tuple."""

    x: int


class Name(str):
    """A str that is more than a str."""

    __slots__ = ()


UNSUPPORTED: list[Any] = [object(), Point(1), Name("Ada"), {"a": [object]}, (1, {2: print}), 1j]


@pytest.mark.parametrize("value", UNSUPPORTED, ids=repr)
def test_other_types_are_named(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"argument 'd' is or contains a [\w.]+,.*key="):
        text(1, d=value)


def test_list_in_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidArgument, match="'a'"):
        text(endless)


@given(st.lists(st.text(min_size=1), min_size=1), st.lists(st.text(min_size=1), min_size=1))
def test_names_of_things_differ_as_their_paths_do(one: list[str], other: list[str]) -> None:
    keys = [key_layout.named("lock", path[:-1], path[-1]) for path in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    assert all(len(key.encode(errors="surrogatepass")) <= KEY_BYTES_MAX for key in keys)


@given(st.one_of(st.text(min_size=1).filter(str.isprintable), st.binary(min_size=1)))
def test_leases_of_two_keys_differ_however_long(key: str | bytes) -> None:
    end = "x" if isinstance(key, str) else b"x"
    others = [key, key + end, (key * 1024)[:1024], (key * 1024)[:1023]]  # type: ignore[operator]
    keys = {each if isinstance(each, bytes) else each.encode()[:1024] for each in others}
    keys |= {
        key_layout.hashed(each).encode() for each in keys
    }  # what somebody may choose on purpose
    found = [key_layout.flight_key(each) for each in keys]
    leases = {each if isinstance(each, bytes) else each.encode() for each in found}
    assert len(leases) == len(keys)
    assert all(len(each) <= KEY_BYTES_MAX for each in leases)


def test_uuid_and_its_text_differ() -> None:
    number = uuid.UUID(int=7)
    assert len({text(number), text(str(number)), text(number.int)}) == 3

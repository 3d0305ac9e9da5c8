"""docs/values.md: each value of its table comes back as it says, alone and in others.

What is beside the table: where the refusal points, what a batch of hostile bytes does, and small
stacks.
"""

from __future__ import annotations

import datetime
import gc
import math
import re
import subprocess
import sys
import zoneinfo
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserve.errors import InvalidValue, UnreadableValue, ValueTooLarge
from kvserve.limits import KEY_TUPLES_MAX, VALUE_DEPTH_MAX
from kvserve.protocol import codec

PAGE = Path(__file__).parents[2] / "docs" / "values.md"
NAMES: dict[str, Any] = {"__name__": "values"}
exec(re.findall(r"```python\n(import .*?)```", PAGE.read_text(), re.DOTALL)[0], NAMES)


def table() -> list[tuple[str, str]]:
    """The expressions of the table of values, each with what becomes of it."""
    begun = PAGE.read_text().partition("| value | comes back |\n|---|---|\n")[2]
    rows = begun.partition("\n\n")[0].splitlines()
    cells = [row.strip("| ").rpartition(" | ") for row in rows]
    return [(each, outcome) for value, _, outcome in cells for each in re.findall("`(.+?)`", value)]


def same(one: Any, other: Any) -> bool:
    """Whether they are equal and of one type, all the way down, the sign of a zero included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return repr(one) == repr(other)
    return bool(one == other)


def places(value: Any) -> list[Any]:
    """The value alone, and inside of others."""
    found = [value, [value], (0, value), {"k": value}, [{"a": ([value],)}]]
    try:
        hash(value)
    except (TypeError, ValueError):
        return found
    return [*found, {(0, value): 1}]


EXPRESSIONS = table()


def test_the_table_has_every_outcome() -> None:
    assert {outcome for _, outcome in EXPRESSIONS} == {
        "exactly", "refused", "as bytes", "as the same instant in UTC",
        "exactly; inside of others: refused", "exactly, but read-only; inside of others: refused",
    }  # fmt: skip
    assert len(EXPRESSIONS) > 80


@pytest.mark.filterwarnings("ignore:The 'u' type code:DeprecationWarning")  # from Python 3.13 on
@pytest.mark.parametrize(("expression", "outcome"), EXPRESSIONS)
def test_value_comes_back_as_the_table_says(expression: str, outcome: str) -> None:
    value = eval(expression, dict(NAMES))
    expected = value
    if outcome == "as bytes":
        expected = value.tobytes() if isinstance(value, memoryview) else bytes(value)
    if outcome == "as the same instant in UTC":
        expected = value.astimezone(datetime.UTC)
    for number, (place, then) in enumerate(zip(places(value), places(expected), strict=False)):
        is_a_key = isinstance(place, dict) and "k" not in place and place is not value
        is_inside = number > 0 and outcome.endswith("inside of others: refused")
        if outcome == "refused" or is_inside or (is_a_key and isinstance(value, memoryview)):
            with pytest.raises(InvalidValue):
                codec.encode(place)
        else:
            restored = codec.decode(*codec.encode(place))
            assert same(restored, then)
            if outcome.startswith("as the same"):
                moment = codec.decode(*codec.encode(value))
                assert moment.tzinfo is datetime.UTC
                assert moment.timestamp() == value.timestamp()


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("2**64", r"this value is out of range: -2\*\*63 to 2\*\*64 - 1"),
        ("[1, 2**64]", r"this value\[1\] is out of range"),
        ("{'a': [0, (decimal.Decimal(1),)]}", r"this value\['a'\]\[1\]\[0\] is a decimal.Decimal"),
        ("{1: {b'x': Color.RED}}", r"this value\[1\]\[b'x'\] is a values.Color"),
        ("{'a': {Color.RED: 1}}", r"a key of this value\['a'\] is a values.Color"),
        ("{(1, (Level.LOW,)): 1}", r"a key of this value is a values.Level"),
        ("[SafeString('x')]", r"this value\[0\] is a values.SafeString.*a plain str"),
        ("http.HTTPStatus.OK", r"this value is a http.HTTPStatus.*a plain int"),
        ("['\\ud800']", r"this value\[0\] cannot be encoded as UTF-8: surrogates not allowed"),
        ("'\\ud800'", r"this value cannot be encoded as UTF-8: surrogates not allowed"),
        ("[datetime.datetime(2026, 1, 1)]", r"this value\[0\] has no time zone"),
        ("[released]", r"this value\[0\] cannot be read: .*released"),
        ("{memoryview(b'a'): 1}", "a key of this value is a memoryview"),
        ("deep", "nested more than 1024 deep, or holds itself"),
        ("endless", "nested more than 1024 deep, or holds itself"),
    ],
)
def test_refusal_says_where_and_what(expression: str, text: str) -> None:
    with pytest.raises(InvalidValue, match=text):
        codec.encode(eval(expression, dict(NAMES)))


def test_path_to_something_deep_stays_readable() -> None:
    value: Any = object()
    for _ in range(500):
        value = ["x" * 1000, {"long name " * 100: value}]
    with pytest.raises(InvalidValue) as caught:
        codec.encode(value)
    assert len(str(caught.value)) < 600
    assert " ... " in str(caught.value)


def test_two_keys_that_are_one_instant_are_refused() -> None:
    """In the hour that is there twice, a datetime equals none of another zone."""
    paris = datetime.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"))
    utc = paris.astimezone(datetime.UTC)
    assert len({paris: 1, utc: 2}) == 2
    for value in ({paris: 1, utc: 2}, [{(1, paris): 1, (1, utc): 2}]):
        with pytest.raises(InvalidValue, match="same instant"):
            codec.encode(value)
    assert codec.decode(*codec.encode([{utc: {utc: 1}}, {utc: 2}])) == [{utc: {utc: 1}}, {utc: 2}]


class Wicked(datetime.tzinfo):
    """A time zone whose code does something else, too."""

    def __init__(self, deed: Any) -> None:
        self._deed = deed

    def utcoffset(self, _: datetime.datetime | None) -> datetime.timedelta:
        """Zero, by the way."""
        self._deed()
        return datetime.timedelta(0)

    def dst(self, _: datetime.datetime | None) -> None:
        """Never."""

    def tzname(self, _: datetime.datetime | None) -> None:
        """None."""


@pytest.mark.parametrize("container", [[], {}])
def test_what_changes_while_it_is_stored_is_stored_as_it_was(container: Any) -> None:
    def change() -> None:
        container.clear()
        gc.collect()

    moment = datetime.datetime(2026, 1, 1, tzinfo=Wicked(change))
    items = [moment, "x" * 100, ["y"]]
    names = ["a", "b", "c"]
    is_list = type(container) is list
    container.extend(items) if is_list else container.update(zip(names, items, strict=True))
    restored = codec.decode(*codec.encode(container))
    utc = moment.replace(tzinfo=datetime.UTC)
    expected = [utc, *items[1:]]
    assert restored == (expected if is_list else dict(zip(names, expected, strict=True)))


def test_tuples_in_a_key_nest_less_deep() -> None:
    """To hash one takes stack for each level."""
    key: Any = 1
    for _ in range(KEY_TUPLES_MAX):
        key = (key,)
    assert codec.decode(*codec.encode({key: 1})) == {key: 1}
    with pytest.raises(InvalidValue, match="a key of this value has tuples"):
        codec.encode({(key,): 1})
    head = b"\x81" + codec.encode((key,))[1] + b"\x01"
    assert not codec.is_readable(codec.MSGPACK, head)


def test_error_of_a_time_zone_is_told() -> None:
    def fail() -> None:
        raise KeyError("no such city")

    with pytest.raises(InvalidValue, match=r"this value\[0\] cannot be expressed.*no such city"):
        codec.encode([datetime.datetime(2026, 1, 1, tzinfo=Wicked(fail))])


def test_value_that_explodes_ends_at_the_largest() -> None:
    value: Any = bytes(100_000)
    for _ in range(60):
        value = [value, value]
    with pytest.raises(ValueTooLarge):
        codec.encode(value)


# What others may have written.

DAMAGED = [
    b"", b"\xc1", b"\x92\x01", b"\x01\x01", b"\x81\x90\x01", b"\x81\x80\x01", b"\x91" * 100_000,
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xffx", b"\xa2x",
    b"\xa1\xff", b"\x91\xa2\xc3(",  # no UTF-8
    b"\xd4\x05x", b"\xc7\x00\x02", b"\xc7\x00\x01",  # extensions of others, an empty tuple's place
    b"\xd4\x01\x01", b"\xd5\x01\x90\x90", b"\xd5\x01\x92\x01\x02", b"\xd4\x01\x91\x01",  # no tuples
    b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\x00" * 4 + b"\x7f" * 8, b"\xd5\xff\x00\x00",
    b"\x81\xd6\x01\x91\xd5\x01\x90\x01",  # a key that ends elsewhere than it says
    b"\x81\xd5\x01\x91\x90\x01",  # a list in a key
    b"\xdd\x00\x10\x00\x00" * 1024,  # each of which wants room for a million
]  # fmt: skip


@pytest.mark.parametrize("payload", DAMAGED, ids=lambda payload: payload[:8].hex())
def test_bytes_that_are_no_value(payload: bytes) -> None:
    assert not codec.is_readable(codec.MSGPACK, payload)
    with pytest.raises(UnreadableValue, match="'the key' cannot be read"):
        codec.decode(codec.MSGPACK, payload, "the key")


@pytest.mark.parametrize("number", [-1, 5, 63, 2**70])
def test_codec_of_a_later_version(number: int) -> None:
    assert not codec.is_readable(number, b"x")
    with pytest.raises(UnreadableValue, match="a newer one may have"):
        codec.decode(number, b"x")


@given(st.binary(max_size=60))
def test_what_can_be_read_is_known_beforehand(payload: bytes) -> None:
    for number in (codec.TEXT, codec.COUNTER, codec.MSGPACK, codec.ARRAY):
        try:
            codec.decode(number, payload)
            readable = True
        except UnreadableValue:
            readable = False
        assert codec.is_readable(number, payload) is readable


SHARED: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False),
        st.text(st.characters(exclude_categories=["Cs"])), st.binary(),
        st.datetimes(timezones=st.just(datetime.UTC)),
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text("ab"), inner)),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=40)
@given(SHARED)
def test_bytes_are_those_of_msgpack(value: Any) -> None:
    packed = msgpack.packb([value], datetime=True)
    assert codec.encode([value]) == (codec.MSGPACK, packed)
    assert same(codec.decode(codec.MSGPACK, packed), [value])


def test_short_floats_of_others_are_read() -> None:
    assert codec.decode(codec.MSGPACK, b"\xca\x3f\x00\x00\x00") == 0.5
    assert math.isnan(codec.decode(codec.MSGPACK, b"\xca\x7f\xc0\x00\x00"))


STACKS = f"""
import sys, threading
from kvserve.protocol import codec
from kvserve.errors import InvalidValue

def nested(wrap, depth):
    value = ()
    for _ in range(depth):
        value = wrap(value)
    return value

wraps = (lambda v: [v], lambda v: (v,), lambda v: {{"k": v}}, lambda v: [0, v, 0])
depths = ({VALUE_DEPTH_MAX} - 1, {VALUE_DEPTH_MAX}, 100_000)
values = [[nested(wrap, depth) for depth in depths] for wrap in wraps]  # the main thread frees them
done = []
def work():
    for deepest, *deeper in list(values):
        payload = codec.encode(deepest)
        assert codec.is_readable(*payload)
        values.append(codec.decode(*payload))
        assert codec.encode(values[-1]) == payload
        for value in deeper:
            try:
                codec.encode(value)
            except InvalidValue:
                done.append(value)

threading.stack_size(int(sys.argv[1]) * 1024)
thread = threading.Thread(target=work)
thread.start()
thread.join()
sys.exit(len(done) != 8)
"""


@pytest.mark.parametrize("stack_kib", [32, 128, 512])
def test_deepest_values_in_a_thread_with_a_small_stack(stack_kib: int) -> None:
    """Reading and writing need no stack. To free such a value CPython 3.13 does: 128 KiB of it
    are too few for 100,000 lists in each other, without kvserve."""
    done = subprocess.run([sys.executable, "-c", STACKS, str(stack_kib)], check=False, timeout=120)
    assert done.returncode == 0

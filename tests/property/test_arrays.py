"""Arrays: what goes in comes out, whatever its dtype, shape and order; hostile bytes do no harm.

What `is_readable` says of bytes, `decode` then does, and it makes nothing larger than they are.
"""

from __future__ import annotations

import array
import math
import struct
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvserve.errors import InvalidValue, UnreadableValue
from kvserve.protocol import arrays, codec

numpy: Any = pytest.importorskip("numpy")

DTYPES = [
    "|b1", "|i1", "|u1", "<i2", ">i2", "<u4", "<i8", ">u8", "<f2", ">f4", "<f8", "<c8", ">c16",
    "|S1", "|S7", "|V3", "<U1", ">U5", "<M8[ns]", ">M8[D]", "<m8[25s]", "<M8", "<m8[us]",
]  # fmt: skip
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
MAKERS = ["C", "F", "strided", "reversed"]


def made(dtype: str, shape: tuple[int, ...], how: str, noise: bytes) -> Any:
    """An array of such a dtype and shape, with something in it, laid out in this way."""
    kind = numpy.dtype(dtype)
    count = math.prod(shape)
    if kind.kind == "U":
        letters = [chr(33 + number % 90) for number in noise] or ["x"]
        flat = numpy.array([letters[n % len(letters)] for n in range(count)], kind)
    elif kind.kind == "b":
        flat = numpy.array([n % 3 == 0 for n in range(count)], kind)
    else:
        data = (noise or b"x") * (count * kind.itemsize // (len(noise) or 1) + 1)
        flat = numpy.frombuffer(data, kind, count).copy()
    found = flat.reshape(shape)
    if how == "F":
        return numpy.asfortranarray(found)
    if how == "strided" and shape:
        return numpy.repeat(found, 2, axis=-1)[..., ::2]
    return found[::-1] if how == "reversed" and shape else found


@given(st.sampled_from(DTYPES), SHAPES, st.sampled_from(MAKERS), st.binary(max_size=40))
def test_it_comes_back_as_it_was(
    dtype: str, shape: tuple[int, ...], how: str, noise: bytes
) -> None:
    value = made(dtype, shape, how, noise)
    number, payload = codec.encode(value)
    assert number == codec.ARRAY
    assert codec.is_readable(number, payload)
    restored = codec.decode(number, payload)
    assert type(restored) is numpy.ndarray
    assert (restored.dtype, restored.shape) == (value.dtype, value.shape)
    assert restored.dtype.str == value.dtype.str
    assert restored.tobytes() == value.tobytes()
    if value.flags.c_contiguous or value.flags.f_contiguous:
        assert restored.flags.c_contiguous == value.flags.c_contiguous
        assert restored.flags.f_contiguous == value.flags.f_contiguous
    assert restored.flags.aligned
    assert not restored.flags.writeable
    with pytest.raises(ValueError, match=r"WRITEABLE|writeable"):
        restored.flags.writeable = True


# The type code of an array of letters; since Python 3.13 the other one is deprecated.
LETTERS = "w" if sys.version_info >= (3, 13) else "u"


class Sub(numpy.ndarray):  # type: ignore[misc]
    """Its own kind of array."""


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (numpy.array([object()]), "holds Python objects"),
        (numpy.zeros(2, "i4,f8"), "has fields: store each field's array"),
        (numpy.zeros(2, "g"), "means something else"),
        (numpy.zeros(2, numpy.dtype("f8", metadata={"unit": "m"})), "means something else"),
        (numpy.zeros(2).view(Sub), "does not carry"), (numpy.ma.masked_array([1]), "not carry"),
        (numpy.float64(1), "plain float"), (numpy.int64(1), "does not carry"),
        (numpy.zeros((0, 2**40)), "shape"), ([numpy.zeros(1)], "does not carry"),
        (memoryview(numpy.zeros(2, ">i4")), "format '>i'"),
        (memoryview(numpy.zeros((0, 2))), "no items"),
        (array.array(LETTERS, "ab"), "is text"), ([memoryview(b"ab").cast("b")], "only alone"),
    ],
)  # fmt: skip
def test_what_would_not_come_back_is_refused(value: Any, why: str) -> None:
    with pytest.raises(InvalidValue, match=why):
        codec.encode(value)


@given(
    st.sampled_from("bBhHiIlLqQnNfd?c"), st.lists(st.integers(1, 3), max_size=4),
    st.integers(0, 255),
)  # fmt: skip
def test_memoryviews_come_back_with_format_and_shape(
    letter: str, shape: list[int], fill: int
) -> None:
    fill = fill % 2 if letter == "?" else fill
    data = bytes([fill]) * (math.prod(shape) * struct.calcsize(letter))
    value = memoryview(data).cast(letter, shape)  # type: ignore[call-overload]
    restored = codec.decode(*codec.encode(value))
    if arrays.is_plain(value):
        assert restored == data
        return
    assert (type(restored), restored.readonly) == (memoryview, True)
    assert (restored.format, restored.shape) == (value.format, value.shape)
    assert restored.tobytes() == value.tobytes()


@given(st.sampled_from("bBhHiIlLqQfd"), st.binary(max_size=64))
def test_arrays_of_the_standard_library_come_back(letter: str, data: bytes) -> None:
    value = array.array(letter)
    value.frombytes(data[: len(data) // value.itemsize * value.itemsize])
    restored = codec.decode(*codec.encode(value))
    assert type(restored) is array.array
    assert (restored.typecode, restored.tobytes()) == (letter, value.tobytes())


def head(kind: int, order: int, format: bytes, *shape: int, items: bytes = b"") -> bytes:
    """A payload, sound or not."""
    begun = struct.pack("<BBBB", kind, order, len(shape), len(format)) + format
    begun += b"".join((count % 2**64).to_bytes(8, "little") for count in shape)
    return begun + bytes(-len(begun) % 16) + items


EIGHT = bytes(8)
HOSTILE = [
    b"", b"\x01", b"\x01\x00\x00\x00", b"\xff" * 64, bytes(64),
    head(0, 0, b"<f8", 1, items=EIGHT), head(4, 0, b"<f8", 1, items=EIGHT),
    head(1, 2, b"<f8", 1, items=EIGHT), head(2, 1, b"<q", 1, items=EIGHT),
    head(1, 0, b"<f8", 2, items=EIGHT), head(1, 0, b"<f8", 0, items=EIGHT),
    head(1, 0, b"<f8", 2**61, items=EIGHT), head(1, 0, b"<f8", 2**32, 2**32, items=b""),
    head(1, 0, b"<f8", 0, 2**63, items=b""), head(1, 0, b"<f8", -1, items=EIGHT),
    head(1, 0, b"<f8", *[1] * 33, items=EIGHT), head(1, 0, b"<f8", *[1] * 255, items=EIGHT),
    head(1, 0, b"|O8", 1, items=EIGHT), head(1, 0, b"O", 1, items=EIGHT),
    head(1, 0, b"<f8,<f8", 1, items=EIGHT * 2), head(1, 0, b"|V0", 3, items=b""),
    head(1, 0, b"<U0", 3, items=b""), head(1, 0, b"<U999999999", 1, items=b""),
    head(1, 0, b"<f16", 1, items=bytes(16)), head(1, 0, b"<i1", 1, items=b"x"),
    head(1, 0, b"<M8[0s]", 1, items=EIGHT), head(1, 0, b"<M8[9999999999s]", 1, items=EIGHT),
    head(1, 0, b"<f8\n", 1, items=EIGHT), head(1, 0, b"<f\xb98", 1, items=EIGHT),
    head(2, 0, b"<P", 1, items=EIGHT), head(2, 0, b"=q", 1, items=EIGHT),
    head(2, 0, b"<q", 0, 5, items=b""), head(3, 0, b"<u", 1, items=bytes(4)),
    head(3, 0, b"<q", items=EIGHT), head(3, 0, b"<q", 1, 1, items=EIGHT),
    head(1, 0, b"<f8", 1, items=EIGHT)[:-1], head(1, 0, b"<f8", 1, items=EIGHT) + b"x",
    head(1, 0, b"<f8", 1, items=EIGHT).replace(b"\x00" * 8, b"\x00" * 7 + b"\x01", 1),
]  # fmt: skip


@pytest.mark.parametrize("payload", HOSTILE, ids=lambda payload: payload[:20].hex())
def test_hostile_heads(payload: bytes) -> None:
    assert not codec.is_readable(codec.ARRAY, payload)
    with pytest.raises(UnreadableValue, match="'k' cannot be read"):
        codec.decode(codec.ARRAY, payload, "k")


@given(
    st.integers(0, 5), st.integers(0, 3), st.sampled_from([*DTYPES, "<q", ">q", "<B", "O", "x"]),
    st.lists(st.one_of(st.integers(0, 4), st.integers(0, 2**64 - 1)), max_size=5),
    st.binary(max_size=80),
)  # fmt: skip
@example(1, 0, "<M8", [1], bytes(8))
def test_what_is_readable_is_read(
    kind: int, order: int, format: str, shape: list[int], items: bytes
) -> None:
    payload = head(kind, order, format.encode(), *shape, items=items)
    if not codec.is_readable(codec.ARRAY, payload):
        with pytest.raises(UnreadableValue):
            codec.decode(codec.ARRAY, payload)
        return
    if format[0] == (">" if sys.byteorder == "little" else "<") and kind != 1:
        return  # of another machine
    found = arrays.described(codec.decode(codec.ARRAY, payload))
    assert found is not None
    assert (list(found.shape), len(found.items)) == (shape, len(items))


WITHOUT = """
import sys
sys.modules["numpy"] = None
from kvserve.errors import UnreadableValue
from kvserve.protocol import codec
payload = bytes.fromhex(sys.argv[1])
assert codec.is_readable(4, payload)
try:
    codec.decode(4, payload, "matrix")
except UnreadableValue as error:
    print(error)
"""


def test_who_has_no_numpy_is_told() -> None:
    payload = codec.encode(numpy.arange(3))[1]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, payload.hex()], capture_output=True, text=True, check=True
    )
    assert "the value of 'matrix' is a numpy array, and numpy cannot be imported" in done.stdout


def test_nothing_imports_numpy_to_check_bytes() -> None:
    code = "import sys, kvserve.protocol.codec as c; c.is_readable(4, bytes.fromhex(sys.argv[1]))"
    code += "; c.encode([1]); sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, codec.encode(numpy.eye(2))[1].hex()], check=True)

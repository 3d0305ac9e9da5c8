"""Arrays as bytes: numpy's, the standard library's, and memoryviews with a format and a shape.

    kind 1 | order 1 | dimensions 1 | length of the format 1 | format | shape, 8 bytes each | zeros
    | the items, in that order, at a multiple of 16 bytes

All numbers are little-endian; the format says the byte order of the items. What is read is checked
whole before anything is made of it: the items take exactly the bytes that the shape says.
"""

from __future__ import annotations

import array
import importlib
import math
import re
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kvserve.errors import InvalidValue
from kvserve.limits import ARRAY_DIMENSIONS_MAX, VALUE_BYTES_MAX

_HEAD = struct.Struct("<BBBB")
_NUMPY, _MEMORYVIEW, _ARRAY = 1, 2, 3
_ROWS, _COLUMNS = 0, 1  # C's order, Fortran's
_ALIGNMENT = 16
_ORDER = "<" if sys.byteorder == "little" else ">"
# The letters of `struct` that both memoryview.cast and array.array know, on a machine of 64 bits.
_NATIVE_BYTES: Final = dict.fromkeys("bBc?", 1) | dict.fromkeys("hH", 2) | dict.fromkeys("iIf", 4)
_FORMATS: Final = _NATIVE_BYTES | dict.fromkeys("lLqQnNd", 8)
_TYPECODES = "bBhHiIlLqQfd"
# As numpy's dtype.str has them; no objects, no records, no long doubles, which differ by machine.
# Compiled when an array comes: that takes 2 ms, which `kvserve get` shall not wait for.
_DTYPE: Final = (
    r"(?P<one>\|(?:b1|i1|u1))|(?P<number>[<>](?:[iu][248]|f[248]|c(?:8|16)))|"
    r"\|(?P<raw>[SV])(?P<bytes>[1-9]\d{0,8})|[<>]U(?P<letters>[1-9]\d{0,8})|"
    r"(?P<time>[<>][mM]8(?:\[(?:[1-9]\d{0,8})?(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)


class _Head(NamedTuple):
    kind: int
    order: int
    format: str
    shape: tuple[int, ...]
    items_at: int

    @property
    def order_name(self) -> str:
        """As numpy calls it."""
        return "F" if self.order == _COLUMNS else "C"


def is_array(kind: type) -> bool:
    """Whether objects of exactly this type are arrays. Imports nothing.

    Example:
        >>> is_array(array.array), is_array(list)
        (True, False)
    """
    return kind is array.array or kind is _ndarray()


def is_plain(view: memoryview) -> bool:
    """Whether a memoryview is of bytes in a row. Raises ValueError if it was released."""
    return view.ndim == 1 and view.format == "B"


def pack(value: Any) -> bytes:
    """An array, or a memoryview of a format, as bytes.

    Raises:
        InvalidValue: it is of a kind that is not carried; the message says why.

    Example:
        >>> unpack(pack(array.array("d", [1.5, 2])))
        array('d', [1.5, 2.0])
    """
    if type(value) is array.array:
        return _pack_array(value)
    if type(value) is memoryview:
        return _pack_view(value)
    return _pack_numpy(value)


def unpack(payload: bytes) -> Any:
    """The array for which `pack` returned these bytes: of numpy, a read-only one over the bytes.

    Raises:
        ValueError: they are no array.
        ImportError: numpy is not installed here.
    """
    head = _head(payload)
    if head.kind == _NUMPY:
        numpy = _numpy()
        return numpy.ndarray(head.shape, head.format, payload, head.items_at, order=head.order_name)
    if head.format[0] != _ORDER:
        raise ValueError("a machine of another byte order wrote it")
    items = memoryview(payload)[head.items_at :]
    letter = head.format[1:]
    if head.kind == _ARRAY:
        restored = array.array(letter)
        restored.frombytes(items)
        return restored
    if len(head.shape) == 1:
        return items.cast(letter)  # type: ignore[call-overload]
    return items.cast(letter, head.shape)  # type: ignore[call-overload]


def is_readable(payload: bytes) -> bool:
    """Whether `unpack` makes an array of these bytes, where numpy is installed. Makes none."""
    try:
        _head(payload)
    except ValueError:
        return False
    return True


class Description(NamedTuple):
    """What an array is, for those who print it."""

    dtype: str
    shape: tuple[int, ...]
    items: bytes  # one row after the other


def described(value: Any) -> Description | None:
    """What an array, or a memoryview, holds; None for anything else.

    Example:
        >>> described(array.array("B", b"ab"))
        Description(dtype='B', shape=(2,), items=b'ab')
    """
    kind = type(value)
    if kind is memoryview:
        return Description(value.format, value.shape or (), value.tobytes())
    if kind is array.array:
        return Description(value.typecode, (len(value),), value.tobytes())
    if is_array(kind):
        return Description(value.dtype.str, value.shape, value.tobytes())
    return None


def _ndarray() -> type | None:
    """numpy's, if this program has imported it: else it has none."""
    return getattr(sys.modules.get("numpy"), "ndarray", None)


def _pack_array(value: array.array[Any]) -> bytes:
    letter = value.typecode
    if letter not in _TYPECODES:
        raise InvalidValue(f"this value is an array of {letter!r}, which is text: store a str")
    _check_size(letter, value.itemsize)
    return _joined(_ARRAY, _ROWS, _ORDER + letter, (len(value),), value)


def _pack_view(value: memoryview) -> bytes:
    try:
        letter = (value.format or "B").removeprefix("@")
        if letter not in _FORMATS:
            raise InvalidValue(
                f"this value is a memoryview of format {value.format!r}, which is not carried: "
                "store its bytes"
            )
        shape = value.shape or ()
        if value.ndim != 1 and 0 in shape:
            raise InvalidValue(
                "this value is a memoryview of no items, but with a shape: store b''"
            )
        _check_size(letter, value.itemsize)
        return _joined(_MEMORYVIEW, _ROWS, _ORDER + letter, shape, value.tobytes())
    except (ValueError, BufferError) as error:
        if isinstance(error, InvalidValue):
            raise
        raise InvalidValue(f"this memoryview cannot be read: {error}") from None


def _check_size(letter: str, size_bytes: int) -> None:
    if _FORMATS[letter] != size_bytes:
        raise InvalidValue(f"{letter!r} has {size_bytes} bytes here, and not everywhere")


def _numpy() -> Any:
    """Imported only where there is an array of it. Raises ImportError."""
    return importlib.import_module("numpy")


def _pack_numpy(value: Any) -> bytes:
    numpy = _numpy()
    dtype = value.dtype
    if dtype.hasobject:
        why = "holds Python objects"
    elif dtype.names is not None:
        why = "has fields: store each field's array"
    elif not re.fullmatch(_DTYPE, dtype.str) or numpy.dtype(dtype.str) != dtype or dtype.metadata:
        why = "means something else, or nothing, to other programs"
    else:
        order = _ROWS if value.flags.c_contiguous or not value.flags.f_contiguous else _COLUMNS
        flat = value.T if order == _COLUMNS else numpy.ascontiguousarray(value)
        items = flat.reshape(-1).view(numpy.uint8).data
        return _joined(_NUMPY, order, dtype.str, value.shape, items)
    raise InvalidValue(f"this value is a numpy array whose dtype, {dtype!s:.80}, {why}")


def _joined(kind: int, order: int, format: str, shape: tuple[int, ...], items: Any) -> bytes:
    if len(shape) > ARRAY_DIMENSIONS_MAX or not _fits(_item_bytes(kind, format), shape):
        raise InvalidValue(
            f"this value is an array of shape {shape}: at most {ARRAY_DIMENSIONS_MAX} dimensions "
            f"and {VALUE_BYTES_MAX} bytes are carried"
        )
    head = _HEAD.pack(kind, order, len(shape), len(format)) + format.encode()
    head += struct.pack(f"<{len(shape)}Q", *shape)
    return b"".join((head, bytes(-len(head) % _ALIGNMENT), items))


def _head(payload: bytes) -> _Head:
    """Raises ValueError."""
    if len(payload) < _HEAD.size:
        raise ValueError("cut short")
    kind, order, dimensions, length = _HEAD.unpack_from(payload)
    shape_at = _HEAD.size + length
    end = shape_at + 8 * dimensions
    items_at = end + -end % _ALIGNMENT
    if dimensions > ARRAY_DIMENSIONS_MAX or items_at > len(payload) or any(payload[end:items_at]):
        raise ValueError("cut short, or with something in between")
    format = payload[_HEAD.size : shape_at].decode("ascii")
    shape = struct.unpack_from(f"<{dimensions}Q", payload, shape_at)
    item_bytes = _item_bytes(kind, format)
    if not _fits(item_bytes, shape) or item_bytes * math.prod(shape) != len(payload) - items_at:
        raise ValueError("its length is not what its shape says")
    _KINDS[kind](order, shape)
    return _Head(kind, order, format, shape, items_at)


def _item_bytes(kind: int, format: str) -> int:
    """How long an item of a format is. Raises ValueError if there is no such format."""
    if kind in (_MEMORYVIEW, _ARRAY):
        known: Any = _FORMATS if kind == _MEMORYVIEW else _TYPECODES
        if len(format) == 2 and format[0] in "<>" and format[1] in known:
            return _FORMATS[format[1]]
    elif kind == _NUMPY and (found := re.fullmatch(_DTYPE, format)):
        if found["one"]:
            return 1
        if found["number"]:
            return int(found["number"][2:])
        if found["time"]:
            return 8
        return int(found["bytes"]) if found["bytes"] else 4 * int(found["letters"])
    raise ValueError(f"no format of an array: {format!r:.40}")


def _fits(item_bytes: int, shape: tuple[int, ...]) -> bool:
    """Whether all of it, an empty dimension counted as one, can be a value."""
    return item_bytes * math.prod(count or 1 for count in shape) <= VALUE_BYTES_MAX


def _check_numpy(order: int, shape: tuple[int, ...]) -> None:  # noqa: ARG001 - one form for all
    if order not in (_ROWS, _COLUMNS):
        raise ValueError("no order of rows and columns")


def _check_view(order: int, shape: tuple[int, ...]) -> None:
    if order != _ROWS or (len(shape) != 1 and 0 in shape):
        raise ValueError("no shape of a memoryview")


def _check_array(order: int, shape: tuple[int, ...]) -> None:
    if order != _ROWS or len(shape) != 1:
        raise ValueError("no shape of an array")


_KINDS: Final[dict[int, Callable[[int, tuple[int, ...]], None]]] = {
    _NUMPY: _check_numpy,
    _MEMORYVIEW: _check_view,
    _ARRAY: _check_array,
}

"""The dump stream: its bytes as documented, what is refused, what it costs to read garbage."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import msgpack
import pytest

from kvserve.errors import InvalidArgument
from kvserve.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX
from kvserve.protocol.dump import (
    HEAD_BYTES,
    PAYLOAD_BYTES_MAX,
    DumpReader,
    DumpWriter,
    Header,
    Item,
)

HEADER = Header("sessions", 1_700_000_000_000)
ITEM = Item("a", 1, b"x", 0)


def frame(number: int, *fields: object) -> bytes:
    """A frame as the documentation says, made by other means than ours."""
    payload = msgpack.packb(fields)
    checksum = zlib.crc32(number.to_bytes(4) + payload)
    return b"".join(
        [
            b"\x94\xa2kv",
            b"\xce" + number.to_bytes(4),
            b"\xce" + checksum.to_bytes(4),
            b"\xc6" + len(payload).to_bytes(4),
            payload,
        ]
    )


def read(stream: bytes) -> list[Item]:
    reader = DumpReader()
    return reader.feed(stream) + reader.finish()


def test_the_stream_is_as_documented() -> None:
    writer = DumpWriter(77)
    stream = writer.header(HEADER) + writer.item(ITEM) + writer.trailer()
    assert stream == (
        frame(77, 0, "kvserve dump", 1, "sessions", 1_700_000_000_000)
        + frame(77, 1, "a", 1, b"x", 0)
        + frame(77, 2, 3)
    )


def test_any_msgpack_reader_can_read_it() -> None:
    writer = DumpWriter(77)
    unpacker = msgpack.Unpacker()
    unpacker.feed(writer.header(HEADER) + writer.item(ITEM) + writer.trailer())
    records = [(mark, number, msgpack.unpackb(payload)) for mark, number, _, payload in unpacker]
    assert records == [
        ("kv", 77, [0, "kvserve dump", 1, "sessions", 1_700_000_000_000]),
        ("kv", 77, [1, "a", 1, b"x", 0]),
        ("kv", 77, [2, 3]),
    ]


def test_the_reader_in_the_documentation_reads_it() -> None:
    document = (Path(__file__).parents[2] / "docs" / "dump-format.md").read_text()
    program = document.split("```python\n")[1].split("```")[0]
    found: dict[str, Any] = {}
    exec(program, found)
    writer = DumpWriter(77)
    stream = writer.header(HEADER) + writer.item(ITEM) + writer.trailer()
    assert list(found["read_dump"](io.BytesIO(stream))) == [tuple(ITEM)]


def test_the_largest_item_fits() -> None:
    largest = Item(b"k" * KEY_BYTES_MAX, 2**63, bytes(VALUE_BYTES_MAX), 2**63)
    writer = DumpWriter(1)
    stream = writer.header(HEADER) + writer.item(largest)
    assert len(writer.item(largest)) - HEAD_BYTES <= PAYLOAD_BYTES_MAX
    assert read(stream) == [largest]


@pytest.mark.parametrize(
    "fields",
    [
        (1, "", 1, b"x", 0),
        (1, "k" * (KEY_BYTES_MAX + 1), 1, b"x", 0),
        (1, "é" * (KEY_BYTES_MAX // 2 + 1), 1, b"x", 0),
        (1, 5, 1, b"x", 0),
        (1, "k", "1", b"x", 0),
        (1, "k", True, b"x", 0),
        (1, "k", 1, "text", 0),
        (1, "k", 1, b"x", -1),
        (1, "k", 1, b"x", 0.5),
        (1, "k", 1, b"x"),
        (1, "k", 1, b"x", 0, 0),
        (1, "k", 1, b"x", []),
        (1, {}, 1, b"x", 0),
        (2, "3"),
        (3, 3),
        ([[[]]] * 8),
        (),
    ],
    ids=str,
)
def test_a_frame_whose_fields_are_wrong_is_damaged(fields: tuple[object, ...]) -> None:
    reader = DumpReader()
    header = frame(5, 0, "kvserve dump", 1, *HEADER)
    stream = header + frame(5, *fields) + frame(5, 1, *ITEM) + frame(5, 2, 4)
    assert reader.feed(stream) + reader.finish() == [ITEM]
    assert (reader.skipped, reader.is_whole) == (1, True)


def test_arrays_in_arrays_do_not_fill_the_memory() -> None:
    tree = b"\x90"  # an empty array: a byte here, 56 there
    while len(tree) < 300_000:
        tree = b"\x98" + 8 * tree
    payload = b"\x98" + 8 * tree
    checksum = zlib.crc32((5).to_bytes(4) + payload)
    head = b"\x94\xa2kv\xce" + (5).to_bytes(4) + b"\xce" + checksum.to_bytes(4) + b"\xc6"
    stream = head + len(payload).to_bytes(4) + payload
    tracemalloc.start()
    try:
        assert DumpReader().feed(stream) == []
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * len(payload)


def test_another_version_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="a dump of version 2; this kvserve reads version 1"):
        read(frame(5, 0, "kvserve dump", 2, {"of": "a later time"}))


@pytest.mark.parametrize(
    "stream",
    [b"", b"kvserve dump", frame(5, 0, "something else", 1, *HEADER), frame(5, 0, 1)],
    ids=["nothing", "text", "another header", "a bad header"],
)
def test_what_is_no_dump_is_refused(stream: bytes) -> None:
    with pytest.raises(InvalidArgument, match="no dump"):
        read(stream)


def test_an_endless_stream_that_is_no_dump_is_given_up() -> None:
    reader = DumpReader()
    piece = bytes(1 << 20)
    for _ in range(PAYLOAD_BYTES_MAX // len(piece)):
        assert reader.feed(piece) == []
        assert len(reader._buffer) < HEAD_BYTES
    with pytest.raises(InvalidArgument, match="no dump"):
        reader.feed(piece * 2)


@pytest.mark.parametrize("header", [True, False])
def test_a_dump_inside_a_damaged_value_is_not_loaded(header: bool) -> None:
    inner = frame(6, 0, "kvserve dump", 1, *HEADER) + frame(6, 1, "forged", 1, b"x", 0)
    outer = [frame(5, 1, *ITEM), frame(5, 1, "holds a dump", 0, inner, 0), frame(5, 2, 4)]
    outer[1] = outer[1].replace(b"holds", b"h0lds")
    reader = DumpReader()
    if header:
        reader.feed(frame(5, 0, "kvserve dump", 1, *HEADER))
    assert reader.feed(b"".join(outer)) + reader.finish() == [ITEM]


def test_a_length_that_is_too_large_is_not_waited_for() -> None:
    writer = DumpWriter(5)
    reader = DumpReader()
    reader.feed(writer.header(HEADER))
    damaged = bytearray(writer.item(ITEM))
    damaged[HEAD_BYTES - 4] = 0xFF
    assert reader.feed(bytes(damaged) + writer.item(ITEM)) == [ITEM]


def test_a_number_that_is_damaged_makes_no_strangers_of_the_others() -> None:
    header = bytearray(frame(5, 0, "kvserve dump", 1, *HEADER))
    header[8] ^= 1
    assert read(bytes(header) + frame(5, 1, *ITEM)) == [ITEM]

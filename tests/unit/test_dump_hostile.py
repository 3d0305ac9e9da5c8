"""Dumps that no kvserve wrote: whatever they hold, the reader answers in items or a sentence."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest

from kvserve.errors import InvalidArgument
from kvserve.protocol import dump
from kvserve.protocol.dump import MAGIC, MARKER, DumpReader, DumpWriter, Header, Item

NUMBER = 7
WRITER = DumpWriter(NUMBER)
HEAD = WRITER.header(Header("default", 0))
ITEMS = [WRITER.item(Item(f"key {number}", 1, b"value", 0)) for number in range(3)]
TAIL = WRITER.trailer()
WHOLE = HEAD + b"".join(ITEMS) + TAIL
FIELDS: list[Any] = [
    *(0, 1, 2, -1, True, None, 2**63, 2**64 - 1, 1.5, float("nan")),
    *("", "a", MAGIC, b"", b"\xff", b"x" * 2000, [], {}, {"a": 1}, msgpack.Timestamp(2**40, 0)),
    *(msgpack.ExtType(5, b"x"), [[]], [1, 2]),
]


def frame(fields: Any) -> bytes:
    """A frame with a checksum that is right."""
    payload: bytes = msgpack.packb(fields)
    checksum = dump._checksum(NUMBER, payload)
    return dump._HEAD.pack(MARKER, NUMBER, 0xCE, checksum, 0xC6, len(payload)) + payload


def answered(stream: bytes) -> list[Item] | str:
    """The items of a stream, or the one sentence that refuses it."""
    reader = DumpReader()
    try:
        return reader.feed(stream) + reader.finish()
    except InvalidArgument as error:
        return str(error)


@pytest.mark.parametrize(
    "rest", [[], ["a"], ["a", 1, 2], ["a", 1, 2, 3, 4], [5, "x"], [None, None], ["a", 1.5]]
)
def test_a_header_with_other_fields_is_refused_with_its_place(rest: list[Any]) -> None:
    told = answered(frame([0, MAGIC, 1, *rest]) + b"".join(ITEMS) + TAIL)
    assert f"record 1 at byte 0 is a header of version 1 with {3 + len(rest)} fields" in told
    later = answered(HEAD + ITEMS[0] + frame([0, MAGIC, 1, *rest]))
    assert f"record 3 at byte {len(HEAD + ITEMS[0])} is a header" in later


def test_a_trailer_that_cannot_be_right_is_a_bad_record() -> None:
    reader = DumpReader()
    assert len(reader.feed(HEAD + ITEMS[0] + frame([2, -1]))) == 1
    reader.finish()
    assert not reader.is_whole
    assert reader.skipped == 1


def test_frames_of_any_fields_are_answered() -> None:
    chance = random.Random(1)
    for kind in (0, 1, 2, 3, -1):
        for count in range(8):
            for _ in range(60):
                fields = [kind, *(chance.choice(FIELDS) for _ in range(count))]
                if kind == 0 and count > 1 and chance.random() < 0.8:
                    fields[1:3] = [MAGIC, 1]
                answered(HEAD + ITEMS[0] + frame(fields) + TAIL)
                answered(frame(fields) + TAIL)
    for fields in FIELDS:
        answered(frame(fields) + TAIL)


def test_a_dump_that_was_cut_or_changed_anywhere_is_answered() -> None:
    for end in range(len(WHOLE)):
        answered(WHOLE[:end])
        answered(WHOLE[end:])
        for byte in (0x00, 0x7F, 0xFF, WHOLE[end] ^ 0x01):
            answered(WHOLE[:end] + bytes([byte]) + WHOLE[end + 1 :])


@pytest.mark.parametrize("length", [0, 1, 2**16, 2**31, 2**32 - 1])
def test_a_length_that_lies_takes_no_memory_and_no_other_record(length: int) -> None:
    head = dump._HEAD.pack(MARKER, NUMBER, 0xCE, 0, 0xC6, length)
    found = answered(HEAD + head + b"".join(ITEMS) + TAIL)
    assert [item.key for item in found if isinstance(item, Item)] == ["key 0", "key 1", "key 2"]

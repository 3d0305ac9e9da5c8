"""The dump stream whole, in pieces, and damaged: every undamaged item is found, no other is."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserve.errors import InvalidArgument
from kvserve.protocol.dump import DumpReader, DumpWriter, Header, Item

NUMBERS = st.integers(0, 2**32 - 1)
KEYS = st.one_of(st.text(min_size=1, max_size=20), st.binary(min_size=1, max_size=20))
ITEMS = st.lists(
    st.builds(
        Item,
        KEYS,
        st.integers(0, 3),
        # Also what looks like frames.
        st.one_of(st.binary(max_size=60), st.sampled_from([b"\x94\xa2kv\xce", b"\x94" * 30])),
        st.integers(0, 2**63),
    ),
    max_size=8,
)


def frames_of(items: list[Item], number: int) -> list[bytes]:
    """A dump of these items, frame by frame."""
    writer = DumpWriter(number)
    return [
        writer.header(Header("default", 1_700_000_000_000)),
        *(writer.item(item) for item in items),
        writer.trailer(),
    ]


def read(reader: DumpReader, pieces: Iterable[bytes]) -> list[Item]:
    """All items that a reader finds."""
    items = [item for piece in pieces for item in reader.feed(piece)]
    return items + reader.finish()


@given(ITEMS, NUMBERS, st.data())
def test_cuts_do_not_matter(items: list[Item], number: int, data: st.DataObject) -> None:
    stream = b"".join(frames_of(items, number))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    for way in ([stream], [stream[at : at + 1] for at in range(len(stream))], pieces):
        reader = DumpReader()
        assert read(reader, way) == items
        assert (reader.skipped, reader.is_whole) == (0, True)
        assert reader.header == Header("default", 1_700_000_000_000)


@given(ITEMS, NUMBERS, st.data())
def test_an_item_comes_as_soon_as_it_is_complete(
    items: list[Item], number: int, data: st.DataObject
) -> None:
    reader = DumpReader()
    header, *rest, _ = frames_of(items, number)
    assert reader.feed(header) == []
    for frame, item in zip(rest, items, strict=True):
        at = data.draw(st.integers(0, len(frame) - 1))
        assert reader.feed(frame[:at]) == []
        assert reader.feed(frame[at:]) == [item]


@given(ITEMS, NUMBERS, st.booleans(), st.data())
def test_every_undamaged_item_is_found(
    items: list[Item], number: int, byte_by_byte: bool, data: st.DataObject
) -> None:
    frames = frames_of(items, number)
    stream = bytearray(b"".join(frames))
    flips = st.tuples(st.integers(0, len(stream) - 1), st.integers(1, 255))
    flipped = dict(data.draw(st.lists(flips, min_size=1, max_size=4)))
    for place, mask in flipped.items():
        stream[place] ^= mask
    undamaged = []
    end = 0
    for index, frame in enumerate(frames):
        start, end = end, end + len(frame)
        if not any(start <= place < end for place in flipped):
            undamaged.append(index)
    reader = DumpReader()
    size_bytes = 1 if byte_by_byte else len(stream)
    pieces = [bytes(stream[at : at + size_bytes]) for at in range(0, len(stream), size_bytes)]
    if not undamaged:
        with pytest.raises(InvalidArgument, match="no dump"):
            read(reader, pieces)
        return
    found = read(reader, pieces)
    last = len(frames) - 1
    assert found == [items[index - 1] for index in undamaged if 0 < index < last]
    assert reader.is_whole == (last in undamaged)
    damaged = len(frames) - len(undamaged)
    if last in undamaged:
        assert reader.skipped == damaged
    else:
        assert 1 <= reader.skipped <= damaged


@given(ITEMS, NUMBERS, st.binary(max_size=40), st.data())
def test_what_is_lost_or_inserted_harms_its_neighbours_alone(
    items: list[Item], number: int, inserted: bytes, data: st.DataObject
) -> None:
    frames = frames_of(items, number)
    stream = b"".join(frames)
    trailer_at = len(stream) - len(frames[-1])
    first = data.draw(st.integers(0, trailer_at))
    last = data.draw(st.integers(first, trailer_at))
    changed = stream[:first] + inserted + stream[last:]
    ends = list(itertools.accumulate(map(len, frames)))
    whole = [
        item
        for item, start, end in zip(items, ends, ends[1:-1], strict=False)
        if end <= first or start >= last
    ]
    reader = DumpReader()
    found = read(reader, [changed])
    # One more may be whole: of two equal bytes side by side it does not matter which is missing.
    assert found in (whole, items) or len(found) == len(whole) + 1
    rest = iter(found)
    assert all(item in rest for item in whole)  # in their order, whatever else was found
    assert reader.is_whole
    assert bool(reader.skipped) == (changed != stream)


@given(ITEMS, NUMBERS, st.data())
def test_a_dump_cut_short_is_read_so_far_and_told(
    items: list[Item], number: int, data: st.DataObject
) -> None:
    header, *rest = frames_of(items, number)
    stream = b"".join(rest)
    cut = data.draw(st.integers(0, len(stream) - 1))
    reader = DumpReader()
    ends = itertools.accumulate(map(len, rest))
    assert read(reader, [header, stream[:cut]]) == items[: sum(end <= cut for end in ends)]
    assert not reader.is_whole


@given(st.binary(max_size=300))
def test_anything_else_is_no_dump(stream: bytes) -> None:
    with pytest.raises(InvalidArgument, match="no dump"):
        read(DumpReader(), [stream])

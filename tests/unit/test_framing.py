"""Frames in a stream: whole, byte by byte, with a tail, and too long."""

from __future__ import annotations

import pytest

from kvserve.errors import ProtocolError
from kvserve.protocol.framing import LENGTH_BYTES, FrameReader, frame_to_stream

FRAMES = [b"", b"a", b"hello", bytes(255), b"\x04\x00\x00\x00" * 3, bytes(range(256)) * 5]
STREAM = b"".join(map(frame_to_stream, FRAMES))


def test_length_comes_first_in_little_endian() -> None:
    assert frame_to_stream(bytes(0x0102))[:LENGTH_BYTES] == b"\x02\x01\x00\x00"
    assert frame_to_stream(b"") == bytes(4)


def test_whole_stream_at_once() -> None:
    reader = FrameReader(2000)
    assert reader.feed(STREAM) == FRAMES
    assert reader.buffered_bytes == 0


def test_byte_by_byte() -> None:
    reader = FrameReader(2000)
    frames = [frame for byte in STREAM for frame in reader.feed(bytes([byte]))]
    assert frames == FRAMES
    assert reader.buffered_bytes == 0


@pytest.mark.parametrize("cut", range(len(frame_to_stream(b"hello"))))
def test_with_a_tail(cut: int) -> None:
    """Frames that are complete come out; the beginning of the next waits."""
    tail = frame_to_stream(b"hello")
    reader = FrameReader(2000)
    assert reader.feed(STREAM + tail[:cut]) == FRAMES
    assert reader.buffered_bytes == cut
    assert reader.feed(tail[cut:]) == [b"hello"]
    assert reader.buffered_bytes == 0


def test_nothing_fed_nothing_read() -> None:
    reader = FrameReader(10)
    assert reader.feed(b"") == []
    assert reader.feed(b"\x01\x00") == []
    assert reader.feed(b"") == []
    assert reader.feed(b"\x00\x00x") == [b"x"]


def test_frames_are_bytes_of_their_own() -> None:
    """What was returned does not change when the reader's buffer does."""
    reader = FrameReader(10)
    first, *_ = reader.feed(frame_to_stream(b"first"))
    reader.feed(frame_to_stream(b"other"))
    assert first == b"first"
    assert type(first) is bytes


def test_longest_frame_is_taken_and_one_more_byte_is_not() -> None:
    assert FrameReader(8).feed(frame_to_stream(bytes(8))) == [bytes(8)]
    with pytest.raises(ProtocolError, match="9 bytes"):
        FrameReader(8).feed(frame_to_stream(bytes(9)))


def test_too_long_a_frame_is_refused_by_its_length_alone() -> None:
    """Otherwise four bytes could make a worker hold 4 GiB."""
    reader = FrameReader(1000)
    with pytest.raises(ProtocolError):
        reader.feed(b"\xff\xff\xff\xff")


def test_too_long_a_frame_after_good_ones() -> None:
    reader = FrameReader(8)
    assert reader.feed(frame_to_stream(b"good")) == [b"good"]
    with pytest.raises(ProtocolError):
        reader.feed(frame_to_stream(b"ok") + (9).to_bytes(LENGTH_BYTES, "little"))


def test_it_tells_what_is_arriving_and_what_is_missing() -> None:
    reader = FrameReader(1000)
    stream = frame_to_stream(b"frame")
    told = []
    for byte in stream + stream[:LENGTH_BYTES]:
        told.append((reader.arriving_bytes, reader.missing_bytes))
        reader.feed(bytes([byte]))
    for_length = [(0, missing) for missing in (4, 3, 2, 1)]
    for_frame = [(9, missing) for missing in (5, 4, 3, 2, 1)]
    assert told == [*for_length, *for_frame, *for_length]
    assert (reader.arriving_bytes, reader.missing_bytes) == (9, 5)
    assert reader.feed(b"frame" + stream[:6]) == [b"frame"]
    assert (reader.arriving_bytes, reader.missing_bytes) == (9, 3)

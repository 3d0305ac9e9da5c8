"""The frame reader on any frames in any pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvserve.errors import ProtocolError
from kvserve.protocol.framing import LENGTH_BYTES, FrameReader, frame_to_stream

FRAME_BYTES_MAX = 200
FRAMES = st.lists(st.binary(max_size=FRAME_BYTES_MAX), max_size=12)


@given(FRAMES, st.data())
def test_cuts_do_not_matter(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame_to_stream, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader = FrameReader(FRAME_BYTES_MAX)
    read: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        read += reader.feed(stream[start:end])
        # Only what is incomplete is held.
        held = end - sum(LENGTH_BYTES + len(frame) for frame in read)
        assert reader.buffered_bytes == held
    assert read == frames


@given(FRAMES, st.binary(min_size=1, max_size=FRAME_BYTES_MAX), st.data())
def test_tail_waits_for_its_rest(frames: list[bytes], last: bytes, data: st.DataObject) -> None:
    stream = b"".join(map(frame_to_stream, frames))
    tail = frame_to_stream(last)
    cut = data.draw(st.integers(0, len(tail) - 1))
    reader = FrameReader(FRAME_BYTES_MAX)
    assert reader.feed(stream + tail[:cut]) == frames
    assert reader.feed(tail[cut:]) == [last]


@given(st.lists(st.binary(max_size=50)))
def test_any_bytes_are_cut_or_refused_and_never_pile_up(pieces: list[bytes]) -> None:
    reader = FrameReader(FRAME_BYTES_MAX)
    fed = b""
    read: list[bytes] = []
    for piece in pieces:
        fed += piece
        try:
            read += reader.feed(piece)
        except ProtocolError:
            return
        assert reader.buffered_bytes < LENGTH_BYTES + FRAME_BYTES_MAX
    assert b"".join(map(frame_to_stream, read)) == fed[: len(fed) - reader.buffered_bytes]

"""FIFOs: frames through a pipe in both directions, and what is held back counted as memory."""

from __future__ import annotations

import fcntl
import os
import tracemalloc
from collections.abc import Iterator

import pytest

from kvserve.descriptors import Descriptor
from kvserve.errors import ProtocolError
from kvserve.protocol.framing import LENGTH_BYTES, frame_to_stream
from kvserve.transport.fifo import FifoReceiver, FifoSender

FRAME_BYTES_MAX = 2**20
PIPE_BYTES = 4096


class Pipe:
    """A sender and a receiver at the ends of a small pipe."""

    def __init__(self) -> None:
        read, write = os.pipe2(os.O_NONBLOCK)
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.sender = FifoSender(Descriptor.adopt(write), FRAME_BYTES_MAX)
        self.receiver = FifoReceiver(Descriptor.adopt(read), FRAME_BYTES_MAX)

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def drain(pipe: Pipe) -> list[bytes]:
    """All frames that were offered."""
    frames: list[bytes] = []
    while True:
        received = pipe.receiver.receive()
        assert received is not None
        frames += received
        if pipe.sender.flush() and not received and not pipe.receiver.arriving_bytes:
            return frames


def test_what_fits_is_not_held_back(pipe: Pipe) -> None:
    assert pipe.sender.offer(b"frame")
    assert pipe.sender.drained
    assert pipe.sender.held_bytes == 0
    assert pipe.receiver.receive() == [b"frame"]


def test_frames_held_back_come_in_order(pipe: Pipe) -> None:
    frames = [bytes([number]) * (number * 100) for number in range(100)]
    for frame in frames:
        assert pipe.sender.offer(frame)
    assert not pipe.sender.drained
    assert drain(pipe) == frames
    assert pipe.sender.drained
    assert pipe.sender.held_bytes == 0


def test_too_much_held_back_is_refused_until_it_is_read(pipe: Pipe) -> None:
    frame = bytes(FRAME_BYTES_MAX)
    assert pipe.sender.offer(frame)
    assert pipe.sender.held_bytes > FRAME_BYTES_MAX
    assert not pipe.sender.offer(b"")
    assert drain(pipe) == [frame]
    assert pipe.sender.offer(b"")


def test_a_frame_counts_whole_until_its_last_byte_is_written(pipe: Pipe) -> None:
    """Its memory is given back at once, not byte by byte."""
    pipe.sender.offer(bytes(FRAME_BYTES_MAX))
    held_bytes = pipe.sender.held_bytes
    for _ in range(10):
        pipe.receiver.receive()
        pipe.sender.flush()
    assert pipe.sender.held_bytes == held_bytes


@pytest.mark.parametrize("frame_bytes", [0, 5, 100, 10_000])
def test_held_bytes_are_the_memory_that_is_taken(pipe: Pipe, frame_bytes: int) -> None:
    """Also where frames are tiny: an object costs more than its bytes."""
    frame = bytes(frame_bytes)
    tracemalloc.start()
    try:
        while pipe.sender.held_bytes < FRAME_BYTES_MAX // 2:
            pipe.sender.offer(frame)
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken_bytes <= pipe.sender.held_bytes * 1.1
    assert taken_bytes >= pipe.sender.held_bytes * 0.6


def test_sparing_reads_end_where_the_frame_does(pipe: Pipe) -> None:
    """First the length alone, then that frame alone: nothing of the next one is held."""
    first, second = b"a" * 1000, b"b" * 500
    os.write(pipe.sender.descriptor, frame_to_stream(first) + frame_to_stream(second))
    assert pipe.receiver.receive(sparingly=True) == []
    assert pipe.receiver.arriving_bytes == LENGTH_BYTES + len(first)
    assert pipe.receiver.receive(sparingly=True) == [first]
    assert pipe.receiver.arriving_bytes == 0
    assert pipe.receiver.receive(sparingly=True) == []
    assert pipe.receiver.arriving_bytes == LENGTH_BYTES + len(second)
    assert pipe.receiver.receive(sparingly=True) == [second]


def test_sparing_reads_of_a_length_in_pieces(pipe: Pipe) -> None:
    stream = frame_to_stream(b"frame")
    frames = []
    for byte in stream:
        os.write(pipe.sender.descriptor, bytes([byte]))
        frames += pipe.receiver.receive(sparingly=True) or []
    assert frames == [b"frame"]


def test_nothing_there_and_nobody_there(pipe: Pipe) -> None:
    assert pipe.receiver.receive() == []
    pipe.sender.close()
    assert pipe.receiver.receive() is None


def test_nobody_reads(pipe: Pipe) -> None:
    pipe.receiver.close()
    with pytest.raises(BrokenPipeError):
        pipe.sender.offer(b"frame")


def test_too_long_a_frame(pipe: Pipe) -> None:
    os.write(pipe.sender.descriptor, (FRAME_BYTES_MAX + 1).to_bytes(LENGTH_BYTES, "little"))
    with pytest.raises(ProtocolError):
        pipe.receiver.receive()

"""Frames in a stream of bytes, for FIFOs: a 4-byte little-endian length, then the frame."""

from __future__ import annotations

from kvserve.errors import ProtocolError

LENGTH_BYTES = 4


def frame_to_stream(frame: bytes) -> bytes:
    """The frame with its length before it.

    Example:
        >>> frame_to_stream(b"abc")
        b'\\x03\\x00\\x00\\x00abc'
    """
    return len(frame).to_bytes(LENGTH_BYTES, "little") + frame


class FrameReader:
    """Cuts a stream into frames, whatever pieces it arrives in.

    Args:
        frame_bytes_max: a longer frame is refused as soon as its length is read, so that no
            stream can make the reader hold more than this.

    Example:
        >>> reader = FrameReader(100)
        >>> reader.feed(b"\\x03\\x00\\x00\\x00ab"), reader.feed(b"c\\x00")
        ([], [b'abc'])
    """

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()  # of a length, or of the frame whose length has come
        # The bytes that complete the arriving frame, or its length; never 0 outside of `feed`.
        self.missing_bytes = LENGTH_BYTES
        self.arriving_bytes = 0  # the memory of the frame whose length has come; 0 if none has

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the stream's next bytes; returns the frames that they complete, in order.

        Raises:
            ProtocolError: a frame is longer than allowed. The stream is then useless.
        """
        if self.missing_bytes == LENGTH_BYTES and not self.arriving_bytes:
            # Nearly always what comes is one whole frame.
            size_bytes = len(data) - LENGTH_BYTES
            if 0 <= size_bytes <= self._frame_bytes_max and data.startswith(
                size_bytes.to_bytes(LENGTH_BYTES, "little")
            ):
                return [data[LENGTH_BYTES:]]
        frames = []
        start = 0
        while len(data) - start >= self.missing_bytes:
            end = start + self.missing_bytes
            self._buffer += data[start:end]
            whole = bytes(self._buffer)
            self._buffer.clear()
            if self.arriving_bytes:
                frames.append(whole)
                self.arriving_bytes, self.missing_bytes = 0, LENGTH_BYTES
            else:
                self._await_frame(int.from_bytes(whole, "little"))
            start = end
        if start < len(data):
            self._buffer += data[start:] if start else data
            self.missing_bytes -= len(data) - start
        return frames

    def _await_frame(self, size_bytes: int) -> None:
        if size_bytes > self._frame_bytes_max:
            raise ProtocolError(
                f"a frame of {size_bytes} bytes; at most {self._frame_bytes_max} are allowed"
            )
        self.arriving_bytes = LENGTH_BYTES + size_bytes
        self.missing_bytes = size_bytes

    @property
    def buffered_bytes(self) -> int:
        """How much of an incomplete frame it holds, in bytes."""
        return (self.arriving_bytes or LENGTH_BYTES) - self.missing_bytes

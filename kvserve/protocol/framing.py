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
        self._buffer = bytearray()
        self._wanted_bytes = LENGTH_BYTES  # nothing to cut before the buffer holds this many

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the stream's next bytes; returns the frames that they complete, in order.

        Raises:
            ProtocolError: a frame is longer than allowed. The stream is then useless.
        """
        if not self._buffer:
            # Nearly always what comes is one whole frame.
            size_bytes = len(data) - LENGTH_BYTES
            if 0 <= size_bytes <= self._frame_bytes_max and data.startswith(
                size_bytes.to_bytes(LENGTH_BYTES, "little")
            ):
                return [data[LENGTH_BYTES:]]
        else:
            self._buffer += data
            if len(self._buffer) < self._wanted_bytes:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        frames = []
        start = 0
        while True:
            self._wanted_bytes = LENGTH_BYTES
            if len(data) - start < LENGTH_BYTES:
                break
            length = int.from_bytes(data[start : start + LENGTH_BYTES], "little")
            if length > self._frame_bytes_max:
                raise ProtocolError(
                    f"a frame of {length} bytes; at most {self._frame_bytes_max} are allowed"
                )
            self._wanted_bytes = LENGTH_BYTES + length
            if len(data) - start < self._wanted_bytes:
                break
            frames.append(data[start + LENGTH_BYTES : start + self._wanted_bytes])
            start += self._wanted_bytes
        self._buffer += data[start:]
        return frames

    @property
    def buffered_bytes(self) -> int:
        """How much of an incomplete frame it holds, in bytes."""
        return len(self._buffer)

    @property
    def arriving_bytes(self) -> int:
        """How much it will hold of the frame whose length has come; 0 if none has."""
        return self._wanted_bytes if self._wanted_bytes > LENGTH_BYTES else 0

    @property
    def missing_bytes(self) -> int:
        """How much completes the frame that arrives, or tells its length. Never 0."""
        return self._wanted_bytes - len(self._buffer)

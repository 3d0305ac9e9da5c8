"""Payloads compressed with zstd, and back, by the standard library's zstd or by `zstandard`.

A compressed payload is one zstd frame (RFC 8878) that tells in its head how long the payload is, so
that nothing is allocated for one that is too long. The library is imported for the first of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from kvserve import limits

_LEVEL = 3  # zstd's own default; -1 is as fast here and compresses less, 1 is slower
_GAIN_MIN = 10  # a compressed payload that is not shorter by a tenth is not worth its decoding


class _Zstandard:
    """The package `zstandard`. An object of it serves one thread at a time: two that use one crash,
    and a new one takes longer than all the work on 4 KiB."""

    def __init__(self) -> None:
        import zstandard

        self._zstd = zstandard
        self.error: type[Exception] = zstandard.ZstdError
        self._compressors: list[Any] = []
        self._decompressors: list[Any] = []

    def compress(self, payload: bytes) -> bytes:
        compressor = _taken(self._compressors, lambda: self._zstd.ZstdCompressor(level=_LEVEL))
        frame: bytes = compressor.compress(payload)
        self._compressors.append(compressor)
        return frame

    def plain_bytes(self, frame: bytes) -> int:
        return int(self._zstd.frame_content_size(frame))

    def expand(self, frame: bytes) -> bytes:
        decompressor = _taken(self._decompressors, self._zstd.ZstdDecompressor)
        payload: bytes = decompressor.decompress(frame, allow_extra_data=False)
        self._decompressors.append(decompressor)  # not after an error
        return payload


class _Standard:
    """The standard library's `compression.zstd`, from Python 3.14 on."""

    def __init__(self, zstd: Any) -> None:
        self._zstd = zstd
        self.error: type[Exception] = zstd.ZstdError

    def compress(self, payload: bytes) -> bytes:
        frame: bytes = self._zstd.compress(payload, _LEVEL)
        return frame

    def plain_bytes(self, frame: bytes) -> int:
        size = self._zstd.get_frame_info(frame).decompressed_size
        return -1 if size is None else int(size)

    def expand(self, frame: bytes) -> bytes:
        decompressor = self._zstd.ZstdDecompressor()
        payload: bytes = decompressor.decompress(frame)
        if not decompressor.eof or decompressor.unused_data:
            raise self.error("not one whole frame")
        return payload


def _taken(free: list[Any], make: Callable[[], Any]) -> Any:
    try:
        return free.pop()  # now it is this thread's alone
    except IndexError:
        return make()


@cache
def _library() -> _Zstandard | _Standard:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return _Standard(zstd)
    return _Zstandard()


def compress(payload: bytes) -> bytes | None:
    """The compressed form of a payload; None if it is not shorter by at least a tenth.

    Example:
        >>> frame = compress(b"tea " * 1000)
        >>> len(frame) < 40, expand(frame) == b"tea " * 1000, compress(b"tea")
        (True, True, None)
    """
    frame = _library().compress(payload)
    return frame if len(frame) <= len(payload) - len(payload) // _GAIN_MIN else None


def plain_bytes(frame: bytes) -> int:
    """How long the payload of a compressed one is, as its head says.

    Raises:
        ValueError: these bytes are no such frame, or would be longer than any value.

    Example:
        >>> plain_bytes(compress(b"tea " * 1000))
        4000
    """
    library = _library()
    try:
        size = library.plain_bytes(frame)
    except library.error as error:
        raise ValueError(f"no head of a zstd frame: {error}") from None
    if not 0 <= size <= limits.VALUE_BYTES_MAX:
        raise ValueError("a zstd frame that does not say how long it is, or is too long")
    return size


def expand(frame: bytes) -> bytes:
    """The payload of a compressed one. At most so much memory is used as its head says.

    Raises:
        ValueError: these bytes are no such frame, or are damaged.
    """
    library = _library()
    size = plain_bytes(frame)
    try:
        payload = library.expand(frame)
    except library.error as error:
        raise ValueError(f"no zstd frame: {error}") from None
    if len(payload) != size:
        raise ValueError(f"a zstd frame of {len(payload)} bytes whose head says {size}")
    return payload

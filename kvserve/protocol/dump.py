"""The stream that `kvserve dump` writes and `kvserve load` reads; docs/dump-format.md draws it.

The stream is a sequence of frames, each a msgpack array that always begins with the same bytes and
carries a checksum. So a reader that meets damage looks for those bytes and goes on behind it.

A frame also carries the dump's number, drawn at random. A value may hold a whole dump, or bytes
made to look like one: where a frame is damaged, nothing inside it is taken for another frame,
because the number is not this dump's.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import msgpack

from kvserve.errors import InvalidArgument
from kvserve.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX

MAGIC = "kvserve dump"
VERSION = 1
MARKER = b"\x94\xa2kv\xce"  # an array of four: "kv", then a number of 32 bits, the dump's
HEAD_BYTES = 19
PAYLOAD_BYTES_MAX = VALUE_BYTES_MAX + KEY_BYTES_MAX + 32  # what msgpack adds is less

_HEAD = struct.Struct(">5sIBIBI")  # marker, dump, type, checksum, type, length
_UINT32, _BIN32 = 0xCE, 0xC6
_KIND_HEADER, _KIND_ITEM, _KIND_TRAILER = range(3)
_HEADER_TYPES = [int, str, int]  # of any version
_VERSION_1_TYPES = [str, int]  # and behind these
_ITEM_TYPES = [[int, key, int, bytes, int] for key in (str, bytes)]
_TRAILER_TYPES = [int, int]
_FIELDS_MAX = 8  # some more than there are, for later versions' headers
_NOT_MSGPACK = (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException)


class Header(NamedTuple):
    """What a dump says of itself."""

    name: str  # of the instance
    created_at_ms: int  # Unix time


class Item(NamedTuple):
    """A key and what it holds."""

    key: str | bytes
    codec: int  # kvserve.protocol.codec's number
    payload: bytes
    expires_at_ms: int  # Unix time; 0: never


class DumpWriter:
    """Makes the stream: `header` once, `item` for each item, `trailer` once.

    Args:
        dump: the dump's number, of 32 bits; random, so that it cannot be known before.

    Example:
        >>> writer = DumpWriter(7)
        >>> stream = writer.header(Header("default", 0)) + writer.item(Item("a", 1, b"x", 0))
        >>> reader = DumpReader()
        >>> reader.feed(stream + writer.trailer())
        [Item(key='a', codec=1, payload=b'x', expires_at_ms=0)]
        >>> reader.finish(), reader.is_whole
        ([], True)
    """

    def __init__(self, dump: int) -> None:
        self._dump = dump
        self._frames = 0

    def header(self, header: Header) -> bytes:
        """The stream's beginning."""
        return self._frame(_KIND_HEADER, MAGIC, VERSION, *header)

    def item(self, item: Item) -> bytes:
        """An item's frame."""
        return self._frame(_KIND_ITEM, *item)

    def trailer(self) -> bytes:
        """The stream's end, with the number of frames; a stream without it was cut short."""
        return self._frame(_KIND_TRAILER, self._frames + 1)

    def _frame(self, *fields: Any) -> bytes:
        payload: bytes = msgpack.packb(fields)
        self._frames += 1
        checksum = _checksum(self._dump, payload)
        return _HEAD.pack(MARKER, self._dump, _UINT32, checksum, _BIN32, len(payload)) + payload


class DumpReader:
    """Finds the undamaged items of a stream, whatever pieces it arrives in.

    `header` is what the dump says of itself, None unless that was read. The reader holds no more of
    the stream than a frame and a piece.
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self._buffer = bytearray()
        self._passed_bytes = 0  # of the stream, before the buffer
        self._wanted_bytes = HEAD_BYTES  # nothing to read before the buffer holds this many
        self._marker = MARKER  # followed by the dump's number once that is known
        self._frames = 0
        self._frames_told: int | None = None  # by the trailer
        self._damages = 0  # stretches of bytes that are no frames
        self._is_lost = False  # in such a stretch
        self._lost_bytes = 0  # before the first frame

    @property
    def skipped(self) -> int:
        """How many frames are damaged or missing.

        The trailer says how many frames there were; without it, each damaged stretch counts as one.
        """
        return max(self._damages, (self._frames_told or 0) - self._frames)

    @property
    def is_whole(self) -> bool:
        """Whether the dump came to its end."""
        return self._frames_told is not None

    def feed(self, data: bytes) -> list[Item]:
        """Takes the stream's next bytes; returns the items that they complete, in order.

        Raises:
            InvalidArgument: it is no dump, or one of another version.
        """
        self._buffer += data
        if len(self._buffer) < self._wanted_bytes:
            return []
        items = self._read(at_end=False)
        if self._lost_bytes > PAYLOAD_BYTES_MAX:
            raise _no_dump()
        return items

    def finish(self) -> list[Item]:
        """Ends the stream; returns the items that were taken for the rest of a damaged frame.

        Raises:
            InvalidArgument: it was no dump.
        """
        items = self._read(at_end=True)
        if self._buffer:
            self._note_damage(len(self._buffer))
        if not self._frames:
            raise _no_dump()
        return items

    def _read(self, *, at_end: bool) -> list[Item]:
        """Reads the buffer, up to a frame whose rest is still to come."""
        items: list[Item] = []
        start = 0
        self._wanted_bytes = HEAD_BYTES
        while start + HEAD_BYTES <= len(self._buffer):
            end = self._end_of_frame(start)
            if end > len(self._buffer) and not at_end:
                self._wanted_bytes = end - start
                break
            if start < end <= len(self._buffer) and self._accept(start, end, items):
                start = end
                continue
            start += self._note_damage(self._next_marker(start) - start)
        del self._buffer[:start]
        self._passed_bytes += start
        return items

    def _end_of_frame(self, start: int) -> int:
        """Where the frame that begins at `start` ends; `start` itself if none begins there."""
        if not self._buffer.startswith(self._marker, start):
            return start
        length: int
        _, _, type_of_checksum, _, type_of_payload, length = _HEAD.unpack_from(self._buffer, start)
        if (type_of_checksum, type_of_payload) != (_UINT32, _BIN32) or length > PAYLOAD_BYTES_MAX:
            return start
        return start + HEAD_BYTES + length

    def _accept(self, start: int, end: int, items: list[Item]) -> bool:
        """Takes a frame; whether it is undamaged."""
        _, dump, _, checksum, _, _ = _HEAD.unpack_from(self._buffer, start)
        payload = self._buffer[start + HEAD_BYTES : end]
        if _checksum(dump, payload) != checksum:
            return False
        fields = _fields(payload)
        if fields is None:
            return False
        kind = fields.pop(0)
        if kind == _KIND_ITEM:
            items.append(Item(*fields))
        elif kind == _KIND_TRAILER:
            self._frames_told = fields[0]
        else:
            self.header = _header(fields, self._frames + 1, self._passed_bytes + start)
        self._marker = MARKER + dump.to_bytes(4)
        self._frames += 1
        self._is_lost = False
        return True

    def _next_marker(self, start: int) -> int:
        """Where the next frame may begin, behind `start`."""
        found = self._buffer.find(self._marker, start + 1)
        # The last bytes may be a marker's first ones.
        return found if found >= 0 else len(self._buffer) - len(self._marker) + 1

    def _note_damage(self, size_bytes: int) -> int:
        self._damages += not self._is_lost
        self._is_lost = True
        if not self._frames:
            self._lost_bytes += size_bytes
        return size_bytes


def _checksum(dump: int, payload: bytes | bytearray) -> int:
    """Over the number too: a damaged one would make all other frames look like another dump's."""
    return zlib.crc32(payload, zlib.crc32(dump.to_bytes(4)))


def _fields(payload: bytearray) -> list[Any] | None:
    """The kind of a frame and its fields; None if they are not as they should be."""
    try:
        fields = msgpack.unpackb(payload, list_hook=_refuse_nesting, max_array_len=_FIELDS_MAX)
        types = [type(field) for field in fields]
        if types in _ITEM_TYPES and fields[0] == _KIND_ITEM:
            key, expires_at_ms = fields[1], fields[4]
            size_bytes = len(key.encode() if isinstance(key, str) else key)
            is_sound = 0 < size_bytes <= KEY_BYTES_MAX and expires_at_ms >= 0
        elif types == _TRAILER_TYPES:
            is_sound = fields[0] == _KIND_TRAILER and fields[1] >= 0
        else:  # what comes behind depends on the version
            is_sound = types[:3] == _HEADER_TYPES and fields[0] == _KIND_HEADER
    except _NOT_MSGPACK:
        return None
    return fields if is_sound else None


def _header(fields: list[Any], number: int, offset: int) -> Header:
    magic, version, *rest = fields
    if magic != MAGIC:
        raise _no_dump()
    if version != VERSION:
        raise InvalidArgument(f"a dump of version {version}; this kvserve reads version {VERSION}")
    if [type(field) for field in rest] != [str, int]:
        raise InvalidArgument(
            f"record {number} at byte {offset} is a header of version {version} with "
            f"{len(fields) + 1} fields, where a name and a time must be the last of five: "
            "no kvserve wrote this dump"
        )
    return Header(*rest)


def _refuse_nesting(fields: list[Any]) -> list[Any]:
    """A byte can be an empty array, which takes 72 bytes in memory."""
    if any(type(field) is list for field in fields):
        raise ValueError("an array in an array")
    return fields


def _no_dump() -> InvalidArgument:
    return InvalidArgument("this is no dump of kvserve")

"""Coverage-guided fuzzing of what parses others' bytes, where atheris is installed.

    python tests/fuzz/fuzz_protocol.py -max_total_time=60 [DIRECTORY]

A frame is a request or a BadRequest, a reply or a ProtocolError, a payload a value or an
UnreadableValue; a stream is frames or a ProtocolError. Anything else ends the run.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import atheris

with atheris.instrument_imports(include=["kvserve.protocol", "msgpack"]):
    from kvserve.errors import ProtocolError, UnreadableValue
    from kvserve.protocol import codec
    from kvserve.protocol.framing import FrameReader
    from kvserve.protocol.messages import BadRequest, decode_reply, decode_request

FRAME_BYTES_MAX = 200


def parse(data: bytes) -> None:
    """One input: its first byte chooses who parses the rest."""
    kind, rest = data[:1], data[1:]
    if kind < b"\x40":
        with suppress(BadRequest):
            request = decode_request(rest)
            assert decode_request(request.encode()) == request
    elif kind < b"\x80":
        with suppress(ProtocolError):
            decode_reply(rest, 1)
    elif kind < b"\xc0":
        with suppress(UnreadableValue):
            codec.decode(rest[0] % 5 if rest else 0, rest[1:])
    else:
        with suppress(ProtocolError):
            reader = FrameReader(FRAME_BYTES_MAX)
            for start in range(0, len(rest), 7):
                reader.feed(rest[start : start + 7])
                assert reader.buffered_bytes < FRAME_BYTES_MAX + 4


if __name__ == "__main__":
    atheris.Setup(sys.argv, parse)
    atheris.Fuzz()

"""Both zstd libraries: the frames of each are read by the other, and no head is believed."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kvserve.limits import VALUE_BYTES_MAX
from kvserve.protocol import compression

TEA = b"black tea, green tea, " * 500


def libraries() -> Iterator[tuple[str, Any]]:
    """What there is: the standard library's, or its backport, and the package `zstandard`."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            yield name, compression._Standard(importlib.import_module(name))
        except ImportError:
            continue
    try:
        yield "zstandard", compression._Zstandard()
    except ImportError:  # from Python 3.14 on it is no dependency
        assert sys.version_info >= (3, 14)


FOUND = dict(libraries())


@pytest.fixture(params=FOUND)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes each the one in use."""
    monkeypatch.setattr(compression, "_library", lambda: FOUND[request.param])
    return str(request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("other", FOUND)
def test_each_reads_the_other(other: str) -> None:
    frame = FOUND[other].compress(TEA)
    assert compression.plain_bytes(frame) == len(TEA)
    assert compression.expand(frame) == TEA
    assert compression.compress(TEA) is not None


@pytest.mark.usefixtures("library")
def test_it_must_gain_a_tenth() -> None:
    half = os.urandom(850) + bytes(150)
    assert compression.compress(half) is not None
    assert compression.compress(os.urandom(950) + bytes(50)) is None
    assert compression.compress(b"") is None


@pytest.mark.usefixtures("library")
def test_no_damage_is_a_value() -> None:
    """Every byte changed, every length cut: it is refused, or it is what its checks let through,
    of the length that the head says."""
    frame = compression.compress(TEA)
    assert frame is not None
    for place in range(len(frame)):
        for bits in (0x01, 0x80, 0xFF):
            damaged = bytearray(frame)
            damaged[place] ^= bits
            try:
                expanded = compression.expand(bytes(damaged))
            except ValueError:
                continue
            assert len(expanded) == compression.plain_bytes(bytes(damaged))
        with pytest.raises(ValueError, match="zstd frame"):
            compression.expand(frame[:place])
    with pytest.raises(ValueError, match="zstd frame"):
        compression.expand(frame + frame)
    with pytest.raises(ValueError, match="zstd frame"):
        compression.expand(frame + b"!")


@pytest.mark.usefixtures("library")
def test_a_head_that_promises_too_much_is_not_believed() -> None:
    """A frame of a few bytes that says 1 TiB; and one that says nothing."""
    magic, eight_bytes, window = b"\x28\xb5\x2f\xfd", b"\xc0", b"\x58"
    for size in (VALUE_BYTES_MAX + 1, 2**40, 2**63, 2**64 - 1):
        huge = magic + eight_bytes + window + size.to_bytes(8, "little") + b"\x01\x00\x00"
        with pytest.raises(ValueError, match="zstd frame"):
            compression.expand(huge)
    with pytest.raises(ValueError, match="zstd frame"):
        compression.expand(magic + b"\x00" + window + b"\x01\x00\x00")


@pytest.mark.usefixtures("library")
def test_threads_do_not_share_an_object() -> None:
    """Two threads in one object of `zstandard` crash the process."""
    wrong: list[bytes] = []

    def work(number: int) -> None:
        payload = TEA * number
        for _ in range(300):
            frame = compression.compress(payload)
            if frame is None or compression.expand(frame) != payload:
                wrong.append(payload)

    threads = [threading.Thread(target=work, args=[number]) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

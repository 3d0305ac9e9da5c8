"""The notes of a reader that may not write the hints, on both of their sides."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ways import own_table

from kvserve.client.notes import NOTES_BYTES, Notes
from kvserve.names import Names
from kvserve.table import segment
from kvserve.table._core import LAYOUT, Reader
from kvserve.table.geometry import plan
from kvserve.table.table import PrivateTable, Table
from kvserve.worker.notes import NotesOfOthers

HINTS_AT = LAYOUT["hints_header_bytes"]
RING = (NOTES_BYTES - HINTS_AT) // 8


@pytest.fixture
def table(names: Names) -> Iterator[Table]:
    with own_table(names, plan(2**20, 128, 2**14, shards=2, workers=2)) as made:
        yield made


class NotingReader(Reader):
    """As a client of another user: the hints are mapped read-only."""

    def __init__(self, names: Names, notes: Any) -> None:
        self.full = 0
        maps = [segment.attach(each, os.geteuid(), writable=False)
                for each in (names.table, names.hints)]  # fmt: skip
        self._attach(*maps, segment.boot_id(), True, notes)

    def _on_full_notes(self) -> None:
        self.full += 1


def hints(table: Table) -> bytes:
    return bytes(table._maps[1][HINTS_AT:])


def test_reads_are_noted_and_heeded_once(table: Table, names: Names) -> None:
    for number in range(100):
        table.set(f"key {number}", 0, b"value", 0)
    notes = bytearray(NOTES_BYTES)
    reader = NotingReader(names, notes)
    assert [reader.get(f"key {number}") for number in range(50)] == [b"value"] * 50
    assert reader.get("nobody") is None
    assert sum(hints(table)) == 0, "the hints are not written"
    before = table.reads()
    seen = table.heed_notes(bytes(notes))
    assert seen == (50, 50, 1)
    assert sum(hints(table)) == 50
    assert table.reads() == (before[0] + 50, before[1] + 1)
    assert table.heed_notes(bytes(notes), seen) == seen
    assert sum(hints(table)) == 50
    assert table.reads() == (before[0] + 50, before[1] + 1)


def test_what_is_read_often_is_noted_no_more(table: Table, names: Names) -> None:
    table.set("key", 0, b"value", 0)
    notes = bytearray(NOTES_BYTES)
    reader = NotingReader(names, notes)
    for _ in range(3 * RING):  # more than there is room for
        reader.get("key")
    assert reader.full == 3
    written, hits, _ = table.heed_notes(bytes(notes))
    assert (written, hits) == (3 * RING, 3 * RING)
    assert max(hints(table)) == 3
    for _ in range(10):
        reader.get("key")
    assert struct.unpack_from("<Q", notes)[0] == written


@given(st.binary(min_size=64, max_size=64), st.binary(min_size=64, max_size=512), st.booleans())
def test_any_notes_do_no_harm(start: bytes, ring: bytes, of_this_table: bool) -> None:
    table = PrivateTable(plan(2**20, 128, 2**14, shards=2, workers=2))
    try:
        table.set("key", 0, b"value", 0)
        start = start[:8] + table.instance_id() + start[24:] if of_this_table else start
        notes = (start + ring * (NOTES_BYTES // len(ring) + 1))[:NOTES_BYTES]
        table.heed_notes(notes, (2**64 - 1, 0, 2**63))
        table.heed_notes(notes[: len(notes) // 2])
        assert set(hints(table)) <= {0, 1, 2, 3}
        assert table.read("key") is not None
        assert not table.verify(0) + table.verify(1)
    finally:
        table.close()


def test_a_worker_takes_up_what_the_one_before_it_left(table: Table, names: Names) -> None:
    names.clients_directory.mkdir(exist_ok=True)
    table.set("key", 0, b"value", 0)
    content = bytearray(NOTES_BYTES)
    reader = NotingReader(names, content)
    path = names.notes_file(2)
    reader.get("key")
    path.write_bytes(content)
    counted = table.reads()

    def no_time() -> float:  # passes: each turn looks at everything
        return 0.0

    successor = NotesOfOthers(names, table, 0, 2, no_time)  # born after the first read
    other = NotesOfOthers(names, table, 1, 2, no_time)
    reader.get("key")
    path.write_bytes(content)
    reads = table.reads()
    assert reads == counted
    other.turn()
    assert table.reads() == reads, "one worker alone reads a file"
    successor.turn()
    assert table.reads() == reads, "what lay there is not counted again"
    assert not path.exists(), "nobody holds it"
    path.write_bytes(content)
    successor.turn()
    assert table.reads()[0] == reads[0] + 2, "a new file is"


def test_notes_without_a_directory_are_memory(names: Names) -> None:
    notes = Notes(names)
    assert notes.is_lost
    names.runtime_directory.mkdir(0o700)
    names.clients_directory.mkdir(0o700)
    notes.renew()
    assert not notes.is_lost
    (path,) = names.clients_directory.iterdir()
    assert (path.stat().st_mode & 0o777, path.stat().st_size) == (0o640, NOTES_BYTES)
    path.unlink()
    assert notes.is_lost
    notes.renew()
    assert not notes.is_lost
    notes.close()
    notes.close()


def test_a_descriptor_that_is_another_file_by_now_stays_open(names: Names, tmp_path: Path) -> None:
    """A program may close all descriptors when it becomes a daemon, and open its own."""
    names.runtime_directory.mkdir(0o700)
    names.clients_directory.mkdir(0o700)
    notes = Notes(names)
    descriptor = notes._descriptor
    other = os.open(tmp_path, os.O_RDONLY)
    os.dup2(other, descriptor)
    os.close(other)
    assert notes.is_lost
    notes.close()
    os.fstat(descriptor)
    os.close(descriptor)

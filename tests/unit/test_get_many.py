"""Keys are read in groups, and while a value is decoded, or a key compared, others may come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.ways import own_table, reading

from kvserve.errors import InvalidArgument, InvalidKey
from kvserve.names import Names
from kvserve.protocol import codec
from kvserve.table._core import Reader
from kvserve.table.geometry import plan
from kvserve.table.segment import boot_id
from kvserve.table.table import PrivateTable, Table

GROUP = 16
GEOMETRY = plan(memory=2**20, item_size=64, max_value=2048, shards=4, workers=1)
KEYS = [f"key {n}" if n % 3 else b"key %d" % n for n in range(5 * GROUP)]


@pytest.fixture
def table(names: Names) -> Iterator[Table]:
    """Every other key is in the table; every fourth with a value that has to be decoded."""
    with own_table(names, GEOMETRY) as table:
        for n, key in enumerate(KEYS):
            if n % 4 == 0:
                table.set(key, *codec.encode([n]), 0)
            elif n % 2 == 0:
                table.set(key, codec.BYTES, b"%d" % n, 0)
        yield table


@pytest.fixture
def reader(table: Table) -> Iterator[Reader]:
    with reading(table) as reader:
        yield reader


class Meddler(bytes):
    """A key that does something when a dict asks for its hash, as code of users may."""

    does: Callable[[], object]

    def __hash__(self) -> int:
        self.does()
        return super().__hash__()


@pytest.mark.parametrize("count", [0, 1, GROUP - 1, GROUP, GROUP + 1, len(KEYS)])
def test_as_one_by_one(reader: Reader, count: int) -> None:
    wanted = KEYS[:count] * 2
    expected = {key: reader.get(key) for key in KEYS[0:count:2]}
    assert reader.get_many(wanted) == reader.get_many(iter(wanted)) == expected
    assert list(reader.get_many(wanted)) == KEYS[0:count:2]


def test_hits_and_misses_are_counted(reader: Reader) -> None:
    reader.get_many(KEYS)
    assert reader._reads() == (len(KEYS) // 2, len(KEYS) // 2)


def test_wrong_keys(reader: Reader) -> None:
    for keys in ("key", b"key", 7, None):
        with pytest.raises(InvalidArgument, match="use a list of keys"):
            reader.get_many(keys)  # type: ignore[arg-type]
    for wrong in ("", 7, None, "k" * 1025, "\ud800"):
        with pytest.raises(InvalidKey):
            reader.get_many([*KEYS, wrong])  # type: ignore[list-item]


@pytest.mark.parametrize("place", [0, 1, GROUP - 1, GROUP, GROUP + 1])
def test_detached_in_the_middle(table: Table, reader: Reader, place: int) -> None:
    meddler = Meddler(b"meddler")
    table.set(meddler, codec.BYTES, b"", 0)
    meddler.does = reader._detach
    wanted: list[str | bytes] = [*KEYS[::2]]
    wanted.insert(place, meddler)
    found, rest = reader._get_many_here(wanted)
    assert [*found, *rest] == wanted
    assert len(found) == place + 1


@pytest.mark.parametrize("place", [0, 1, GROUP - 1, GROUP, GROUP + 1])
def test_another_table_is_attached_in_the_middle(table: Table, reader: Reader, place: int) -> None:
    """It hashes otherwise, and has another size, so that a key located in the first is lost."""
    other = PrivateTable(plan(memory=2**16, item_size=64, max_value=512, shards=1, workers=1))
    for key in KEYS:
        other.set(key, codec.BYTES, b"other", 0)
    meddler = Meddler(b"meddler")
    table.set(meddler, codec.BYTES, b"", 0)
    meddler.does = lambda: reader._attach(*other._maps, boot_id())
    wanted: list[str | bytes] = [*KEYS[::2]]
    wanted.insert(place, meddler)
    found, rest = reader._get_many_here(wanted)
    assert rest == []
    behind = wanted[place + 1 :]
    assert {key: found[key] for key in behind} == dict.fromkeys(behind, b"other")


def test_a_list_that_is_changed_meanwhile(reader: Reader, table: Table) -> None:
    meddler = Meddler(b"meddler")
    table.set(meddler, codec.BYTES, b"", 0)
    wanted: list[str | bytes] = [meddler, *KEYS]
    meddler.does = wanted.clear
    assert len(reader.get_many(wanted)) == 1 + len(KEYS) // 2


def test_keys_of_the_same_tag() -> None:
    """16 bits of the hash are in the index: among so many keys, some in one bucket share them."""
    keys = [f"key {n}" for n in range(100_000)]
    table = PrivateTable(plan(memory=2**25, item_size=16, max_value=1024, shards=1, workers=1))
    for key in keys:
        table.set(key, codec.TEXT, key.encode(), 0)
    assert table.get_many(keys) == {key: key for key in keys}

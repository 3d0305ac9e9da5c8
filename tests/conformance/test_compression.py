"""Compressed values are read by every client, compressing or not; limits are on the plain size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from support import ways
from support.servers import Server

import kvserve
from kvserve.limits import MIB
from kvserve.protocol import codec, commands

PAGE = "<li>Ada Lovelace, Countess</li>\n" * 400
VALUES = [PAGE, PAGE.encode(), "é" + PAGE, [PAGE, {"rows": [PAGE] * 3}], (PAGE,), bytes(MIB)]


@pytest.fixture(params=ways.SERVED)
def compressing(request: pytest.FixtureRequest, served: Server) -> Iterator[Any]:
    """A client of each way, which compresses."""
    with closing(ways.connect(request.param, served.name, compress=4096)) as client:
        yield client


@pytest.fixture
def plain(served: Server) -> Iterator[kvserve.Client]:
    """An ordinary client, which shows what is stored."""
    with served.connect() as client:
        yield client


def stored(client: kvserve.Client, key: str) -> tuple[int, bytes]:
    """The codec and the payload of a key's record."""
    codec_id, payload, _ = client._ask(commands.GET, (key,))
    return codec_id, payload


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_client_reads_it(
    compressing: Any, plain: kvserve.Client, key: str, value: Any
) -> None:
    compressing.set(key, value, ttl=60)
    number, payload = codec.encode(value)
    assert stored(plain, key)[0] == number | codec.COMPRESSED
    assert len(stored(plain, key)[1]) < len(payload) / 10
    for client in (compressing, plain):
        assert client.get(key) == value
        assert type(client.get(key)) is type(value)
        assert client.gets(key)[0] == value
        assert client.get_many([key]) == {key: value}
    assert 0 < plain.ttl(key) <= 60  # type: ignore[operator]


def test_every_way_to_store_compresses(compressing: Any, plain: kvserve.Client, key: str) -> None:
    def is_compressed(key: str) -> bool:
        assert plain.get(key) == PAGE
        return stored(plain, key)[0] == codec.TEXT | codec.COMPRESSED

    assert compressing.add(key, PAGE)
    assert is_compressed(key)
    plain.set(key, "short")
    assert compressing.replace(key, PAGE)
    assert is_compressed(key)
    version = plain.set(key, "short")
    assert compressing.cas(key, PAGE, version)
    assert is_compressed(key)
    compressing.set_many({key + "1": PAGE, key + "2": PAGE})
    assert is_compressed(key + "1")
    assert is_compressed(key + "2")
    assert compressing.cas(key, PAGE + "!", compressing.gets(key)[1])
    with compressing.pipeline() as pipe:
        pipe.set(key, PAGE).get(key)
    assert pipe.results[1] == PAGE
    assert is_compressed(key)


def test_what_does_not_gain_stays_as_it_is(
    compressing: Any, plain: kvserve.Client, key: str
) -> None:
    noise = os.urandom(100_000)
    compressing.set(key, noise)
    assert stored(plain, key) == (codec.BYTES, noise)
    for value in (7, "short", "x" * 4095, b"x" * 4095):
        compressing.set(key, value)
        assert stored(plain, key) == codec.encode(value)
    compressing.set(key, "x" * 4096)
    assert stored(plain, key)[0] == codec.TEXT | codec.COMPRESSED
    compressing.set(key, "é" + "x" * 4093)  # its bytes are counted
    assert stored(plain, key)[0] == codec.TEXT


def test_the_limit_is_on_the_plain_size(compressing: Any, plain: kvserve.Client, key: str) -> None:
    compressing.set(key, "before")
    for store in (compressing.set, compressing.replace, compressing.add):
        with pytest.raises(kvserve.ValueTooLarge, match=str(MIB + 1)):
            store(key, "x" * (MIB + 1))
    with pytest.raises(kvserve.ValueTooLarge):
        compressing.set_many({key: "x" * (MIB + 1)})
    assert plain.get(key) == "before"


def test_a_compressed_value_is_no_counter(compressing: Any, key: str) -> None:
    compressing.set(key, "7" * 5000)
    with pytest.raises(kvserve.NotACounter):
        compressing.incr(key)


@pytest.mark.parametrize(
    ("codec_id", "payload", "error"),
    [
        (codec.TEXT, b"no frame", kvserve.InvalidValue),
        (codec.TEXT, codec.compressed(codec.BYTES, b"\xff" * 5000)[1], kvserve.InvalidValue),
        (codec.MSGPACK, codec.compressed(codec.BYTES, b"\xc1" * 5000)[1], kvserve.InvalidValue),
        (codec.COUNTER, codec.compressed(codec.BYTES, b"1" * 5000)[1], kvserve.InvalidValue),
        (codec.BYTES, codec.compressed(codec.BYTES, bytes(5000))[1][:-1], kvserve.InvalidValue),
        (codec.BYTES, codec.compressed(codec.BYTES, bytes(5000))[1] + b"!", kvserve.InvalidValue),
        (codec.BYTES, codec.compressed(codec.BYTES, bytes(2 * MIB))[1], kvserve.ValueTooLarge),
        (0x55, codec.compressed(codec.BYTES, bytes(5000))[1], kvserve.InvalidValue),
    ],
    ids=[*"abcdefgh"],
)
def test_workers_refuse_what_no_client_could_read(
    plain: kvserve.Client, key: str, codec_id: int, payload: bytes, error: type[Exception]
) -> None:
    for command in (commands.SET, commands.ADD, commands.REPLACE):
        with pytest.raises(error):
            plain._ask(command, (key, codec_id | codec.COMPRESSED, payload, 0))
    assert key not in plain

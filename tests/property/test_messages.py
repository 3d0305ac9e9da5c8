"""Requests and replies from any bytes, any msgpack, and from good frames that were damaged."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from kvserve.errors import ProtocolError
from kvserve.protocol import commands
from kvserve.protocol.commands import Command
from kvserve.protocol.messages import BadRequest, Reply, Request, decode_reply, decode_request

IDS = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        TEXT,
        st.binary(),
        st.builds(msgpack.ExtType, st.integers(0, 127), st.binary()),
        st.builds(msgpack.Timestamp, st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**9 - 1)),
    ),
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.one_of(TEXT, st.integers(0, 99), st.none()), inner)
    ),
    max_leaves=20,
)
BY_TYPE: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    str: TEXT,
    bytes: st.binary(),
    type(None): st.none(),
    bool: st.booleans(),
}


def many(command: Command, rows: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The arguments of a command for many keys, from those of as many sets."""
    keys = [key for key, *_ in rows]
    if command is not commands.SET_MANY:
        return (keys,)
    return keys, bytes(row[1] % 256 for row in rows), [row[2] for row in rows], len(rows)


def arguments_of(command: Command) -> st.SearchStrategy[tuple[Any, ...]]:
    """Arguments that the command takes."""
    if command is commands.BATCH:
        operation = st.sampled_from(sorted(commands.BATCHABLE, key=lambda each: each.code)).flatmap(
            lambda each: arguments_of(each).map(lambda arguments: [each.code, *arguments])
        )
        return st.tuples(st.lists(operation, max_size=5))
    if command.code in commands.SINGLE_OF:
        return st.lists(arguments_of(commands.SET), max_size=5).map(
            lambda rows: many(command, rows)
        )
    return st.tuples(*[st.one_of([BY_TYPE[kind] for kind in types]) for _, types in command.fields])


REQUESTS = st.sampled_from(commands.ALL).flatmap(
    lambda command: st.builds(Request, IDS, IDS, st.just(command), IDS, arguments_of(command))
)
# Near misses: the shape of a request with anything in each place.
LIKE_REQUESTS = st.tuples(
    st.one_of(st.just(1), ANYTHING),
    st.one_of(IDS, ANYTHING),
    st.one_of(IDS, ANYTHING),
    st.one_of(st.sampled_from([command.code for command in commands.ALL]), ANYTHING),
    st.one_of(IDS, ANYTHING),
    st.one_of(st.lists(ANYTHING), ANYTHING),
).map(list)


def decode_or_refuse(frame: bytes) -> None:
    """A frame is a request, which survives the way back, or is refused by one error."""
    try:
        request = decode_request(frame)
    except BadRequest:
        return
    assert decode_request(request.encode()) == request
    request.command.check(request.arguments)


@given(REQUESTS)
def test_good_request_survives(request: Request) -> None:
    assert decode_request(request.encode()) == request


@given(st.binary())
def test_any_bytes(frame: bytes) -> None:
    decode_or_refuse(frame)


@given(st.one_of(ANYTHING, LIKE_REQUESTS))
def test_any_msgpack(content: Any) -> None:
    decode_or_refuse(msgpack.packb(content))


@given(REQUESTS, st.data())
def test_damaged_request(request: Request, data: st.DataObject) -> None:
    frame = bytearray(request.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(frame))
    decode_or_refuse(bytes(frame[: data.draw(st.integers(0, len(frame)))]))


@given(IDS, st.integers(0, 2**31), ANYTHING)
def test_reply_survives_or_is_refused(request_id: int, status: int, answer: Any) -> None:
    reply = Reply(request_id, status, answer)
    decoded = decode_reply(reply.encode(1), 1)
    assert decoded is not None
    assert decoded.encode(1) == reply.encode(1)


@given(st.one_of(st.binary(), ANYTHING.map(msgpack.packb)))
def test_any_bytes_as_a_reply(frame: bytes) -> None:
    with suppress(ProtocolError):
        decode_reply(frame, 1)

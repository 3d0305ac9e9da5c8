"""Requests and replies: frames there and back, and every wrong frame refused by name."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest

from kvserve.errors import (
    InternalError,
    KvserveError,
    NotACounter,
    ProtocolError,
    ServerBusy,
)
from kvserve.limits import (
    BATCH_OPERATIONS_MAX,
    FRAME_BYTES_MIN,
    KIB,
    MANY_KEYS_MAX,
    MIB,
    QUEUE_MESSAGE_BYTES,
)
from kvserve.protocol import commands
from kvserve.protocol.messages import (
    PROTOCOL_VERSION,
    STATUS_DONE,
    BadRequest,
    Reply,
    Request,
    decode_reply,
    decode_request,
)

GET = [PROTOCOL_VERSION, 7, 8, commands.GET.code, 1000, ["key"]]


@pytest.mark.parametrize(
    "request_",
    [
        Request(0, 0, commands.PING, 0, ()),
        Request(2**64 - 1, 2**64 - 1, commands.GET, 2**63, ("key",)),
        Request(1, 2, commands.SET, 3, (b"\xff\x00", 3, bytes(10_000), 60_000)),
        Request(1, 2, commands.INCR, 3, ("h\u00e9", -5, None, 0)),
        Request(1, 2, commands.BATCH, 3, ([[10, "a"], [12, "b", 0, b"v", 0]],)),
        Request(1, 2, commands.BATCH, 3, ([],)),
        Request(1, 2, commands.SCAN, 3, (255, 1023, b"")),
        Request(1, 2, commands.GET_MANY, 3, (["a", b"b"],)),
        Request(1, 2, commands.SET_MANY, 3, (["a", b"b"], b"\x00\x01", [b"v", b"w"], 0)),
        Request(1, 2, commands.DELETE_MANY, 3, ([],)),
    ],
    ids=lambda request_: request_.command.name,
)
def test_request_round_trip(request_: Request) -> None:
    assert decode_request(request_.encode()) == request_


def test_text_and_bytes_stay_apart() -> None:
    for key in ("key", b"key"):
        request = decode_request(Request(1, 2, commands.GET, 3, (key,)).encode())
        assert type(request.arguments[0]) is type(key)


def test_frame_is_the_documented_array() -> None:
    request = Request(7, 8, commands.GET, 1000, ("key",))
    assert msgpack.unpackb(request.encode()) == GET
    assert msgpack.unpackb(Reply(8, 0, b"v").encode(7)) == [7, 8, 0, b"v"]


@pytest.mark.parametrize("length", range(len(msgpack.packb(GET))))
def test_every_request_cut_short_is_refused(length: int) -> None:
    with pytest.raises(BadRequest):
        decode_request(msgpack.packb(GET)[:length])


def test_tail_after_a_request_is_refused() -> None:
    with pytest.raises(BadRequest):
        decode_request(msgpack.packb(GET) + b"\x00")


def changed(place: int, field: object) -> list[Any]:
    """A good request with one field replaced."""
    fields: list[Any] = list(GET)
    fields[place] = field
    return fields


@pytest.mark.parametrize(
    "fields",
    [
        None,
        7,
        {},
        "text",
        [],
        GET[:-1],
        [*GET, 0],
        changed(1, -1),
        changed(1, None),
        changed(1, True),
        changed(1, 1.0),
        changed(2, -1),
        changed(2, "8"),
        changed(2, [8]),
    ],
    ids=repr,
)
def test_frame_that_does_not_tell_its_sender(fields: object) -> None:
    with pytest.raises(BadRequest) as refusal:
        decode_request(msgpack.packb(fields))
    assert refusal.value.sender is None


@pytest.mark.parametrize(
    "fields",
    [
        changed(0, 0),
        changed(0, PROTOCOL_VERSION + 1),
        changed(0, None),
        changed(0, [1]),
        changed(3, 0),
        changed(3, 99),
        changed(3, -1),
        changed(3, True),
        changed(3, "get"),
        changed(3, []),
        changed(4, -1),
        changed(4, None),
        changed(4, 1.5),
        changed(5, None),
        changed(5, {}),
        changed(5, "key"),
        changed(5, []),
        changed(5, [1]),
        changed(5, ["key", "key"]),
    ],
    ids=repr,
)
def test_bad_request_tells_its_sender_so_that_it_gets_a_reply(fields: object) -> None:
    with pytest.raises(BadRequest) as refusal:
        decode_request(msgpack.packb(fields))
    assert refusal.value.sender == (7, 8)
    assert str(refusal.value)


@pytest.mark.parametrize(
    "operations",
    [
        [None],
        [[]],
        [["get", "key"]],
        [[True, "key"]],
        [[99, "key"]],
        [[commands.PING.code]],
        [[commands.FLUSH.code]],
        [[commands.BATCH.code, []]],
        [[commands.GET.code]],
        [[commands.GET.code, 1]],
        [[commands.GET.code, "key"], [commands.SET.code, "key", 0, "text", 0]],
        [{commands.GET.code: "key"}],
    ],
    ids=repr,
)
def test_batch_is_checked_to_the_last_operation(operations: list[Any]) -> None:
    with pytest.raises(BadRequest) as refusal:
        decode_request(Request(7, 8, commands.BATCH, 1, (operations,)).encode())
    assert refusal.value.sender == (7, 8)


def test_longest_batch_passes_and_one_more_does_not() -> None:
    operations = [[commands.GET.code, "key"]] * BATCH_OPERATIONS_MAX
    assert decode_request(Request(1, 2, commands.BATCH, 3, (operations,)).encode())
    operations.append([commands.GET.code, "key"])
    with pytest.raises(BadRequest, match=str(BATCH_OPERATIONS_MAX)):
        decode_request(Request(1, 2, commands.BATCH, 3, (operations,)).encode())


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (commands.GET_MANY, [["key", 1]]),
        (commands.GET_MANY, [["key", ["key"]]]),
        (commands.GET_MANY, [["key", None]]),
        (commands.GET_MANY, [["key"], ["key"]]),
        (commands.DELETE_MANY, [["key", True]]),
        (commands.SET_MANY, [["key", 1], bytes(2), [b"v", b"w"], 0]),
        (commands.SET_MANY, [["key", "k"], bytes(2), [b"v", "text"], 0]),
        (commands.SET_MANY, [["key", "k"], bytes(2), [b"v", None], 0]),
        (commands.SET_MANY, [["key", "k"], bytes(1), [b"v", b"w"], 0]),
        (commands.SET_MANY, [["key", "k"], bytes(2), [b"v"], 0]),
        (commands.SET_MANY, [["key"], bytes(2), [b"v", b"w"], 0]),
    ],
)
@pytest.mark.parametrize("frame_bytes", [0, QUEUE_MESSAGE_BYTES])
def test_lists_of_many_keys_are_checked_to_their_last_element(
    command: commands.Command, arguments: list[Any], frame_bytes: int
) -> None:
    arguments[0] = [b"x" * frame_bytes, *arguments[0]]
    if command is commands.SET_MANY:
        arguments[1:3] = [b"\x00" + arguments[1], [b"v", *arguments[2]]]
    with pytest.raises(BadRequest) as refusal:
        decode_request(Request(7, 8, command, 1, tuple(arguments)).encode())
    assert refusal.value.sender == (7, 8)


def test_most_keys_pass_and_one_more_does_not() -> None:
    keys = ["a key"] * MANY_KEYS_MAX
    request = Request(1, 2, commands.GET_MANY, 3, (keys,))
    assert decode_request(request.encode()) == request
    with pytest.raises(BadRequest, match=str(MANY_KEYS_MAX)):
        decode_request(request._replace(arguments=([*keys, "a key"],)).encode())


LONG = b"x" * QUEUE_MESSAGE_BYTES  # makes a frame one that comes through a FIFO


@pytest.mark.parametrize(
    "request_",
    [
        Request(2**64 - 1, 2**64 - 1, commands.SET, 2**63, (b"key", 3, LONG, 60_000)),
        Request(1, 2, commands.CAS, 3, ("h\u00e9", 3, LONG, 60_000, 2**64 - 1)),
        Request(1, 2, commands.SCAN, 3, (255, 1023, LONG)),
        Request(1, 2, commands.BATCH, 3, ([[12, "b", 0, LONG, 0], [18, b"", -5, None, 0]],)),
        Request(1, 2, commands.BATCH, 3, ([[15, "b", 0, LONG, 0, 9]] * 100,)),
        Request(1, 2, commands.GET_MANY, 3, (["a", LONG],)),
        Request(1, 2, commands.SET_MANY, 3, (["a", b"b"], b"\x00\x01", [LONG, b"w"], 2**62)),
    ],
    ids=lambda request_: request_.command.name,
)
def test_long_request_round_trip(request_: Request) -> None:
    frame = request_.encode()
    assert len(frame) > QUEUE_MESSAGE_BYTES
    assert decode_request(frame) == request_
    for length in (len(frame) - 1, len(frame) // 2, QUEUE_MESSAGE_BYTES + 1):
        with pytest.raises(BadRequest):
            decode_request(frame[:length])
    with pytest.raises(BadRequest):
        decode_request(frame + b"\xc0")


@pytest.mark.parametrize(
    ("version", "code", "deadline_ms", "arguments"),
    [
        (PROTOCOL_VERSION + 1, commands.GET.code, 1000, [LONG]),
        ([1], commands.GET.code, 1000, [LONG]),
        (PROTOCOL_VERSION, 99, 1000, [LONG]),
        (PROTOCOL_VERSION, [commands.BATCH.code], 1000, [LONG]),
        (PROTOCOL_VERSION, commands.GET.code, None, [LONG]),
        (PROTOCOL_VERSION, commands.GET.code, 1000, LONG),
        (PROTOCOL_VERSION, commands.GET.code, 1000, {"key": LONG}),
        (PROTOCOL_VERSION, commands.GET.code, 1000, [[LONG]]),
        (PROTOCOL_VERSION, commands.GET.code, 1000, [LONG] * 7),
        (PROTOCOL_VERSION, commands.GET.code, 1000, [msgpack.ExtType(1, LONG)]),
        (PROTOCOL_VERSION, commands.BATCH.code, 1000, LONG),
        (PROTOCOL_VERSION, commands.BATCH.code, 1000, [LONG]),
        (PROTOCOL_VERSION, commands.BATCH.code, 1000, [[], LONG]),
        (PROTOCOL_VERSION, commands.BATCH.code, 1000, [[LONG]]),
        (PROTOCOL_VERSION, commands.BATCH.code, 1000, [[[commands.GET.code, [LONG]]]]),
        (PROTOCOL_VERSION, commands.BATCH.code, 1000, [[[commands.GET.code, *[LONG] * 7]]]),
        (PROTOCOL_VERSION, commands.GET_MANY.code, 1000, LONG),
        (PROTOCOL_VERSION, commands.GET_MANY.code, 1000, [LONG]),
        (PROTOCOL_VERSION, commands.GET_MANY.code, 1000, [[LONG, {}]]),
        (PROTOCOL_VERSION, commands.GET_MANY.code, 1000, [[LONG, msgpack.ExtType(1, b"")]]),
    ],
)
def test_bad_long_request_tells_its_sender(
    version: object, code: object, deadline_ms: object, arguments: object
) -> None:
    with pytest.raises(BadRequest) as refusal:
        decode_request(msgpack.packb([version, 7, 8, code, deadline_ms, arguments]))
    assert refusal.value.sender == (7, 8)


def array(count: int) -> bytes:
    """The beginning of an array, as msgpack has it."""
    return b"\xdd" + count.to_bytes(4, "big")


HEADS = {
    command.name: msgpack.packb([*GET[:3], command.code, 1000, None])[:-1]
    for command in (commands.BATCH, commands.GET_MANY, commands.SET_MANY)
}
TINY = {"list": b"\x90", "map": b"\x80", "text": b"\xa2xy", "extension": b"\xc7\x00\x01"}
FILLINGS = {
    **{f"{name}s in one list": (array(2**23), filling) for name, filling in TINY.items()},
    **{f"{name}s in a batch": (b"\x91" + array(2**14), filling) for name, filling in TINY.items()},
    "operations of lists": (b"\x91" + array(2**14), b"\x96" + b"\x90" * 6),
    "operations of texts": (b"\x91" + array(2**14), b"\x96" + b"\xa2xy" * 6),
    "tree of lists": (b"\x91" + array(2**14), (b"\x96" + b"\x90" * 5) * 500 + b"\x90" * 500),
    "lists that promise much": (b"\x91", array(2**23)),
    "lists that promise as many as there are bytes": (b"\x91", array(QUEUE_MESSAGE_BYTES - 10)),
    "lists that promise as much as is allowed": (b"\x91", array(2**11)),
    "lists of lists that promise": (b"\x91" + array(2**11), array(2**11)),
    "lists of as many texts as are allowed": (b"\x93", array(2**11) + b"\xa2xy" * 2**11),
    "list of lists of as many": (b"\x91" + array(2**11), array(2**11) + b"\xa2xy" * 2**11),
}


@pytest.mark.parametrize("command", HEADS)
@pytest.mark.parametrize("filling", FILLINGS)
@pytest.mark.parametrize("frame_bytes", [QUEUE_MESSAGE_BYTES, MIB, FRAME_BYTES_MIN])
def test_no_frame_makes_much_more_than_its_length(
    command: str, filling: str, frame_bytes: int
) -> None:
    """What it makes is gone afterwards, too; in some versions of msgpack it was not."""
    beginning, repeated = FILLINGS[filling]
    beginning = HEADS[command] + beginning
    frame = beginning + repeated * ((frame_bytes - len(beginning)) // len(repeated))
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest):
            decode_request(frame)
        left_bytes, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 2 * len(frame) + 20 * MIB
    assert left_bytes < 100 * KIB


@pytest.mark.parametrize(
    "answer", [None, True, 5, b"value", "text", [1, [2, None]], {"items": 3}, 2.5]
)
def test_reply_round_trip(answer: object) -> None:
    reply = Reply(2**64 - 1, STATUS_DONE, answer)
    assert decode_reply(reply.encode(5), 5) == reply
    assert reply.result() == answer


def test_a_reply_to_another_client_is_none() -> None:
    """Nobody takes it for an answer to a request of its own that has the same number."""
    assert decode_reply(Reply(1, STATUS_DONE, "foreign").encode(5), 6) is None


def test_failure_crosses_the_wire_as_the_same_error() -> None:
    reply = decode_reply(Reply.failure(9, NotACounter("'k' holds a str")).encode(1), 1)
    assert reply is not None
    assert reply.request_id == 9
    with pytest.raises(NotACounter, match="'k' holds a str"):
        reply.result()


def test_unknown_status_is_our_bug() -> None:
    with pytest.raises(InternalError, match="new"):
        Reply(1, 999, "something new").result()


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [1, 0],
        [1, 0, None],
        [7, 1, 0, None, None],
        [7, "1", 0, None],
        [7, -1, 0, None],
        [7, 1, None, None],
        [7, 1, True, 0],
        ["7", 1, 0, None],
        [True, 1, 0, None],
    ],
    ids=repr,
)
def test_wrong_reply_is_refused(fields: list[Any]) -> None:
    with pytest.raises(ProtocolError):
        decode_reply(msgpack.packb(fields), 7)


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x93\x01", b"\x93\x01\x00\xc0\xc0"], ids=repr)
def test_reply_that_is_not_msgpack_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_reply(frame, 1)


def test_bad_request_is_an_error_of_ours_with_a_text() -> None:
    error: KvserveError = BadRequest("why")
    assert str(error) == "why"
    assert Reply.failure(1, error).status == ProtocolError.wire_code
    assert Reply.failure(1, ServerBusy("later")).status == ServerBusy.wire_code

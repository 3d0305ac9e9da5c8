"""The requests and replies that cross the kernel, and their frames.

A request frame is the msgpack array
    [version, client id, request id, command code, deadline ms, arguments]
with the deadline on the host's monotonic clock; a worker does not start a request after it.
A reply frame is
    [client id, request id, status, answer]
with the ids of the request, so that no client takes another's reply for its own, and request id 0
when a worker ends the session. The status is 0, or the wire code of an error whose text is the
answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgpack

from kvserve.errors import KvserveError, ProtocolError, from_wire
from kvserve.limits import BATCH_OPERATIONS_MAX, KIB, MANY_KEYS_MAX, QUEUE_MESSAGE_BYTES
from kvserve.protocol import commands
from kvserve.protocol.commands import Command

PROTOCOL_VERSION = 3
STATUS_DONE = 0
_unpack = msgpack.unpackb
_UINT64 = 2**64
_FIELDS = 6
_REPLY_FIELDS = 4
_CODE = 3  # the place of the command's
_HEAD_BYTES = 64  # all fields before the arguments: at most 9 bytes each
_LISTS_MAX = 3  # the arguments, and two among them
LONG_BYTES = QUEUE_MESSAGE_BYTES  # what is longer is decoded in steps
_OPERATIONS_A_STEP = 256
# No operation is shorter than 4 bytes. Room for an array's elements is made before they come, and
# the first may be another array: this bounds 1,024 nested arrays to 16 MiB.
_SHORT_ARRAY_MAX = LONG_BYTES // 4
_PACKED_BYTES_KEPT = 256 * KIB  # a packer never gives back the room that its longest frame took
_NOT_MSGPACK = (ValueError, TypeError, RecursionError, msgpack.UnpackException)
_OPERATION_FIELDS_MAX = 1 + max(len(command.fields) for command in commands.ALL)


class Request(NamedTuple):
    """One request, on either side."""

    client_id: int
    request_id: int
    command: Command
    deadline_ms: int
    arguments: tuple[Any, ...]

    def encode(self) -> bytes:
        """The frame, without a length prefix.

        Example:
            >>> request = Request(1, 2, commands.PING, 3_000, ())
            >>> decode_request(request.encode()) == request
            True
        """
        return Encoder().request(*self)


class Reply(NamedTuple):
    """One reply, on either side. `answer` is the error's text when the status is not 0."""

    request_id: int
    status: int
    answer: Any

    def encode(self, client_id: int) -> bytes:
        """The frame for a client, without a length prefix."""
        return Encoder().reply(client_id, self)

    def result(self) -> Any:
        """The answer; raises the error that the status names."""
        if self.status == STATUS_DONE:
            return self.answer
        raise from_wire(self.status, str(self.answer))

    @classmethod
    def failure(cls, request_id: int, error: KvserveError) -> Reply:
        return cls(request_id, error.wire_code, str(error))


# From their fields as one sequence, which takes a third of their constructors' time.
_request_of: Callable[[Sequence[Any]], Request] = partial(tuple.__new__, Request)
reply_of: Callable[[Sequence[Any]], Reply] = partial(tuple.__new__, Reply)


class Encoder:
    """Makes the frames of one thread. Making a packer for each would take longer than packing."""

    def __init__(self) -> None:
        self._packer = msgpack.Packer()

    def request(
        self,
        client_id: int,
        request_id: int,
        command: Command,
        deadline_ms: int,
        arguments: Sequence[Any],
    ) -> bytes:
        """The frame of a request, whose fields are those of `Request`."""
        frame: bytes = self._packer.pack(
            (PROTOCOL_VERSION, client_id, request_id, command.code, deadline_ms, arguments)
        )
        if len(frame) > _PACKED_BYTES_KEPT:
            self._packer = msgpack.Packer()
        return frame

    def reply(self, client_id: int, reply: Reply) -> bytes:
        """The frame of a reply to a client."""
        frame: bytes = self._packer.pack((client_id, *reply))
        if len(frame) > _PACKED_BYTES_KEPT:
            self._packer = msgpack.Packer()
        return frame


class BadRequest(ProtocolError):
    """A frame that is no valid request; `sender` is (client id, request id) if readable."""

    def __init__(self, text: str, sender: tuple[int, int] | None = None) -> None:
        super().__init__(text)
        self.sender = sender


def decode_request(frame: bytes) -> Request:
    """The request in a frame.

    Raises:
        BadRequest: not msgpack, cut short, of another version, an unknown command, or a field of
            a wrong type.
    """
    if len(frame) > LONG_BYTES:
        try:
            steps = decode_long(frame)
            while True:
                next(steps)
        except StopIteration as ended:
            request: Request = ended.value
            return request
    try:
        fields = _unpack(frame, strict_map_key=False, max_array_len=_SHORT_ARRAY_MAX)
    except _NOT_MSGPACK as error:
        raise BadRequest(f"a frame that is not msgpack: {error}") from None
    if type(fields) is not list or len(fields) != _FIELDS:
        raise BadRequest(f"a frame that is not an array of {_FIELDS}")
    request = _checked(fields)
    if request.command.code in _CHECKS_OF_LISTS:
        _check_lists(request, request.arguments)
    return request


def decode_long(frame: bytes) -> Generator[None, None, Request]:
    """As `decode_request`, for a frame of more than LONG_BYTES; yields where it may be interrupted.

    Unpacking and checking a batch takes some 3 us for each of its operations.
    """
    request = _checked((yield from _unpack_long(frame)))
    if request.command is commands.BATCH:
        operations = request.arguments[0]
        for first in range(0, len(operations), _OPERATIONS_A_STEP):
            _check_lists(request, (operations[first : first + _OPERATIONS_A_STEP],))
            yield
    elif request.command.code in _CHECKS_OF_LISTS:
        _check_lists(request, request.arguments)
    return request


def _checked(fields: list[Any]) -> Request:
    """The request with these fields, whose lists are not looked into."""
    version, client_id, request_id, code, deadline_ms, arguments = fields
    if not (
        type(client_id) is type(request_id) is int
        and 0 <= client_id < _UINT64
        and 0 <= request_id < _UINT64
    ):
        raise BadRequest("a frame without a client id and a request id")
    sender = (client_id, request_id)
    if version != PROTOCOL_VERSION:
        told = version if type(version) is int else f"of type {type(version).__name__}"
        raise BadRequest(f"protocol version {told}; this server speaks {PROTOCOL_VERSION}", sender)
    command = commands.BY_CODE.get(code) if type(code) is int else None
    if command is None:
        told = code if type(code) is int else f"of type {type(code).__name__}"
        raise BadRequest(f"unknown command {told}", sender)
    if not _is_id(deadline_ms) or type(arguments) is not list:
        raise BadRequest("a deadline or arguments of a wrong type", sender)
    try:
        if tuple(map(type, arguments)) not in command.shapes:
            command.check(arguments)
    except ProtocolError as error:
        raise BadRequest(str(error), sender) from None
    return _request_of((client_id, request_id, command, deadline_ms, tuple(arguments)))


def _check_lists(request: Request, arguments: tuple[Any, ...]) -> None:
    """Raises BadRequest unless the elements of a command's lists are what they should be."""
    try:
        _CHECKS_OF_LISTS[request.command.code](*arguments)
    except ProtocolError as error:
        raise BadRequest(str(error), (request.client_id, request.request_id)) from None


def decode_reply(frame: bytes, client_id: int) -> Reply | None:
    """The reply in a frame, None if it is for another client; raises ProtocolError if it is none.

    Example:
        >>> reply = Reply(2, STATUS_DONE, "value")
        >>> decode_reply(reply.encode(client_id=1), 1) == reply
        True
        >>> decode_reply(reply.encode(client_id=1), 3)
    """
    try:
        fields = _unpack(frame, strict_map_key=False, max_array_len=len(frame))
    except _NOT_MSGPACK as error:
        raise ProtocolError(f"a frame that is not msgpack: {error}") from None
    if type(fields) is not list or len(fields) != _REPLY_FIELDS:
        raise ProtocolError(f"a frame that is not an array of {_REPLY_FIELDS}")
    found_id, request_id, status, _ = fields
    if not (
        type(found_id) is type(request_id) is type(status) is int and 0 <= request_id < _UINT64
    ):
        raise ProtocolError("a reply without a client id, a request id and a status")
    return reply_of(fields[1:]) if found_id == client_id else None


def _check_batch(operations: list[Any]) -> None:
    for operation in operations:
        if type(operation) is not list or not operation or type(operation[0]) is not int:
            raise ProtocolError("a batch holds an operation that is no array with a code")
        command = commands.BY_CODE.get(operation[0])
        if command not in commands.BATCHABLE:
            raise ProtocolError(f"a batch holds command {operation[0]}, which cannot be batched")
        command.check(operation[1:])


def _check_keys(keys: list[Any]) -> None:
    if not {str, bytes}.issuperset(map(type, keys)):
        raise ProtocolError("a key is neither str nor bytes")


def _check_set_many(keys: list[Any], codecs: bytes, payloads: list[Any], _: int) -> None:
    _check_keys(keys)
    if not {bytes}.issuperset(map(type, payloads)):
        raise ProtocolError("set_many: a payload is not bytes")
    if not len(keys) == len(codecs) == len(payloads):
        raise ProtocolError("set_many: lists of different lengths")


def _unpack_long(frame: bytes) -> Generator[None, None, list[Any]]:
    """Returns the fields of a request's frame of any length.

    A byte can be an empty array, which takes 72 bytes in memory. So a long frame is not unpacked at
    once, but step by step, in the shape of a request.
    """
    fields: list[Any] = []
    try:
        head = msgpack.Unpacker(max_array_len=_FIELDS, max_map_len=0, max_ext_len=0)
        head.feed(frame[:_HEAD_BYTES])
        if head.read_array_header() != _FIELDS:
            raise ValueError(f"no array of {_FIELDS}")
        while len(fields) < _FIELDS - 1:
            fields.append(head.unpack())
        arguments = memoryview(frame)[head.tell() :]
        is_batch = fields[_CODE] == commands.BATCH.code
        if is_batch:
            fields.append((yield from _unpack_batch(arguments)))
        else:
            fields.append(_unpack_lists(arguments))
    except _NOT_MSGPACK as error:
        known = len(fields) > 2 and _is_id(fields[1]) and _is_id(fields[2])
        sender = (fields[1], fields[2]) if known else None
        raise BadRequest(f"a frame that is no request: {error}", sender) from None
    return fields


def _unpack_batch(arguments: memoryview) -> Generator[None, None, list[Any]]:
    """Returns the arguments of a batch, which are one list of operations, each a list."""
    unpacker = msgpack.Unpacker(
        read_size=1,  # its first buffer, which is replaced by one of the frame's length
        max_buffer_size=len(arguments),
        max_array_len=_OPERATION_FIELDS_MAX,
        max_map_len=0,
        max_ext_len=0,
        list_hook=_counting(BATCH_OPERATIONS_MAX),
    )
    unpacker.feed(arguments)
    if unpacker.read_array_header() != 1:
        raise ValueError("a batch takes one argument")
    operations = unpacker.read_array_header()
    if operations > BATCH_OPERATIONS_MAX:
        raise ValueError(f"a batch of {operations}; at most {BATCH_OPERATIONS_MAX}")
    unpacked: list[Any] = []
    while len(unpacked) < operations:
        step = min(_OPERATIONS_A_STEP, operations - len(unpacked))
        unpacked += [unpacker.unpack() for _ in range(step)]
        yield
    if unpacker.tell() != len(arguments):
        raise ValueError("something follows it")
    return [unpacked]


def _unpack_lists(arguments: memoryview) -> Any:
    """The arguments of any other command, at most two lists among them: at once.

    The room for lists in lists is bounded by the lists' length, as in a short frame.
    """
    return _unpack(
        arguments,
        max_array_len=MANY_KEYS_MAX,
        max_map_len=0,
        max_ext_len=0,
        list_hook=_counting(_LISTS_MAX),
    )


def _counting(arrays_max: int) -> Callable[[list[Any]], list[Any]]:
    """Takes each array that has been unpacked; raises ValueError when there are too many."""
    arrays = itertools.count(1)

    def count(array: list[Any]) -> list[Any]:
        if next(arrays) > arrays_max:
            raise ValueError(f"more than {arrays_max} arrays")
        return array

    return count


def _is_id(field: object) -> bool:
    return type(field) is int and 0 <= field < _UINT64


_CHECKS_OF_LISTS: dict[int, Callable[..., None]] = {
    commands.BATCH.code: _check_batch,
    commands.GET_MANY.code: _check_keys,
    commands.SET_MANY.code: _check_set_many,
    commands.DELETE_MANY.code: _check_keys,
}

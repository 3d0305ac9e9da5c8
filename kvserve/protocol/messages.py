"""The requests and replies that cross the kernel, and their frames.

A request frame is the msgpack array
    [version, client id, request id, command code, deadline ms, arguments]
with the deadline on the host's monotonic clock; a worker does not start a request after it.
A reply frame is
    [request id, status, answer]
with request id 0 when a worker ends the session, and
where the status is 0, or the wire code of an error whose text is the answer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from kvserve.errors import KvserveError, ProtocolError, from_wire
from kvserve.limits import BATCH_OPERATIONS_MAX
from kvserve.protocol import commands
from kvserve.protocol.commands import Command

PROTOCOL_VERSION = 1
STATUS_DONE = 0
_UINT64 = 2**64
_FIELDS = 6


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
        frame: bytes = msgpack.packb(
            (
                PROTOCOL_VERSION,
                self.client_id,
                self.request_id,
                self.command.code,
                self.deadline_ms,
                self.arguments,
            )
        )
        return frame


class Reply(NamedTuple):
    """One reply, on either side. `answer` is the error's text when the status is not 0."""

    request_id: int
    status: int
    answer: Any

    def encode(self) -> bytes:
        """The frame, without a length prefix."""
        frame: bytes = msgpack.packb(self)
        return frame

    def result(self) -> Any:
        """The answer; raises the error that the status names."""
        if self.status == STATUS_DONE:
            return self.answer
        raise from_wire(self.status, str(self.answer))

    @classmethod
    def failure(cls, request_id: int, error: KvserveError) -> Reply:
        return cls(request_id, error.wire_code, str(error))


class BadRequest(ProtocolError):
    """A frame that is no valid request; `sender` is (client id, request id) where it tells."""

    def __init__(self, text: str, sender: tuple[int, int] | None = None) -> None:
        super().__init__(text)
        self.sender = sender


def decode_request(frame: bytes) -> Request:
    """The request in a frame.

    Raises:
        BadRequest: not msgpack, cut short, of another version, an unknown command, or a field of
            a wrong type.
    """
    fields = _unpack_array(frame, _FIELDS)
    version, client_id, request_id, code, deadline_ms, arguments = fields
    if not (_is_id(client_id) and _is_id(request_id)):
        raise BadRequest("a frame without a client id and a request id")
    sender = (client_id, request_id)
    if version != PROTOCOL_VERSION:
        told = version if type(version) is int else f"of type {type(version).__name__}"
        raise BadRequest(f"protocol version {told}; this server speaks 1", sender)
    command = commands.BY_CODE.get(code) if type(code) is int else None
    if command is None:
        told = code if type(code) is int else f"of type {type(code).__name__}"
        raise BadRequest(f"unknown command {told}", sender)
    if not _is_id(deadline_ms) or type(arguments) is not list:
        raise BadRequest("a deadline or arguments of a wrong type", sender)
    try:
        command.check(arguments)
        if command is commands.BATCH:
            _check_batch(arguments[0])
    except ProtocolError as error:
        raise BadRequest(str(error), sender) from None
    return Request(client_id, request_id, command, deadline_ms, tuple(arguments))


def decode_reply(frame: bytes) -> Reply:
    """The reply in a frame; raises ProtocolError if it is none."""
    request_id, status, answer = _unpack_array(frame, 3)
    if not (_is_id(request_id) and type(status) is int):
        raise ProtocolError("a reply without a request id and a status")
    return Reply(request_id, status, answer)


def _check_batch(operations: list[Any]) -> None:
    if len(operations) > BATCH_OPERATIONS_MAX:
        raise ProtocolError(f"a batch of {len(operations)}; at most {BATCH_OPERATIONS_MAX}")
    for operation in operations:
        if type(operation) is not list or not operation or type(operation[0]) is not int:
            raise ProtocolError("a batch holds an operation that is no array with a code")
        command = commands.BY_CODE.get(operation[0])
        if command not in commands.BATCHABLE:
            raise ProtocolError(f"a batch holds command {operation[0]}, which cannot be batched")
        command.check(operation[1:])


def _unpack_array(frame: bytes, length: int) -> list[Any]:
    try:
        fields = msgpack.unpackb(frame, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise BadRequest(f"a frame that is not msgpack: {error}") from None
    if type(fields) is not list or len(fields) != length:
        raise BadRequest(f"a frame that is not an array of {length}")
    return fields


def _is_id(field: object) -> bool:
    return type(field) is int and 0 <= field < _UINT64

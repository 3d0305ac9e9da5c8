"""The commands' records: their codes stay, their checks bite, their promises hang together."""

from __future__ import annotations

from typing import Any

import pytest

from kvserve.errors import ProtocolError
from kvserve.protocol import commands
from kvserve.protocol.commands import Command, Priority

# Each command with arguments that it takes.
GOOD: dict[Command, list[Any]] = {
    commands.HELLO: [1, 4711],
    commands.PING: [],
    commands.STATS: [],
    commands.GET: ["key"],
    commands.TTL: [b"key"],
    commands.SET: ["key", 0, b"payload", 0],
    commands.ADD: [b"key", 1, b"payload", 1000],
    commands.REPLACE: ["key", 2, bytes(8), 0],
    commands.CAS: ["key", 3, b"\xc0", 0, 17],
    commands.DELETE: ["key"],
    commands.TOUCH: ["key", 1000],
    commands.INCR: ["key", -1, None, 0],
    commands.DELETE_VERSION: ["key", 17],
    commands.GET_RECORD: ["key"],
    commands.LIMIT: ["key", 5, 60_000, 1, 0],
    commands.LIMIT_PEEK: ["key", 60_000, 0],
    commands.LIMIT_RESET: ["key"],
    commands.BATCH: [[[commands.GET.code, "key"]]],
    commands.SCAN: [0, 0, b""],
    commands.FLUSH: [],
    commands.VERIFY: [3],
    commands.GET_MANY: [["key", b"key"]],
    commands.SET_MANY: [["key", b"key"], b"\x00\x01", [b"payload", b"text"], 0],
    commands.DELETE_MANY: [["key"]],
}


def test_codes_are_part_of_the_protocol() -> None:
    """A client and a server of different versions meet, so a code never changes its meaning."""
    assert {command.name: command.code for command in commands.ALL} == {
        "hello": 1,
        "ping": 2,
        "stats": 3,
        "get": 10,
        "ttl": 11,
        "set": 12,
        "add": 13,
        "replace": 14,
        "cas": 15,
        "delete": 16,
        "touch": 17,
        "incr": 18,
        "delete_version": 19,
        "limit": 20,
        "get_record": 21,
        "limit_peek": 22,
        "limit_reset": 23,
        "batch": 30,
        "scan": 31,
        "flush": 32,
        "verify": 33,
        "get_many": 34,
        "set_many": 35,
        "delete_many": 36,
    }


def test_every_command_can_be_found() -> None:
    for command in commands.ALL:
        assert commands.BY_CODE[command.code] is command
        assert commands.BY_NAME[command.name] is command


def test_control_overtakes_single_overtakes_bulk() -> None:
    assert Priority.CONTROL > Priority.SINGLE > Priority.BULK
    assert commands.PING.priority is Priority.CONTROL
    assert commands.GET.priority is commands.SET.priority is Priority.SINGLE
    assert commands.BATCH.priority is commands.FLUSH.priority is Priority.BULK


def test_what_must_not_happen_twice_is_not_idempotent() -> None:
    assert {command.name for command in commands.ALL if not command.idempotent} == {
        "add",
        "replace",
        "cas",
        "incr",
        "delete_version",
        "limit",
        "batch",
    }


def test_only_single_key_commands_can_be_batched() -> None:
    assert all(command.priority is Priority.SINGLE for command in commands.BATCHABLE)
    assert commands.BATCH not in commands.BATCHABLE


def test_a_command_for_many_keys_stands_for_one_that_can_be_batched() -> None:
    """As sent again, and as overtaken by others, as a batch of those."""
    for code, single in commands.SINGLE_OF.items():
        many = commands.BY_CODE[code]
        assert single in commands.BATCHABLE
        assert many.idempotent is single.idempotent
        assert many.priority is commands.BATCH.priority


@pytest.mark.parametrize("command", commands.ALL, ids=lambda command: command.name)
def test_good_arguments_pass(command: Command) -> None:
    command.check(GOOD[command])
    command.check(tuple(GOOD[command]))


@pytest.mark.parametrize("command", commands.ALL, ids=lambda command: command.name)
def test_number_of_arguments_is_checked(command: Command) -> None:
    with pytest.raises(ProtocolError, match=command.name):
        command.check([*GOOD[command], 0])
    if GOOD[command]:
        with pytest.raises(ProtocolError, match=command.name):
            command.check(GOOD[command][:-1])


@pytest.mark.parametrize("command", commands.ALL, ids=lambda command: command.name)
@pytest.mark.parametrize("wrong", [True, 1.5, {}, {"a": 1}], ids=repr)
def test_type_of_each_argument_is_checked(command: Command, wrong: object) -> None:
    """True is an int to isinstance; a frame that has it where an int belongs is still wrong."""
    for place, (field, types) in enumerate(command.fields):
        if type(wrong) in types:
            continue
        arguments = list(GOOD[command])
        arguments[place] = wrong
        with pytest.raises(ProtocolError, match=f"{command.name}: {field}"):
            command.check(arguments)


def test_only_the_initial_value_may_be_none() -> None:
    for command in commands.ALL:
        for place, (field, _) in enumerate(command.fields):
            arguments = list(GOOD[command])
            arguments[place] = None
            if field == "initial":
                command.check(arguments)
            else:
                with pytest.raises(ProtocolError):
                    command.check(arguments)

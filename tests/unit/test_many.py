"""Commands for many keys: cut into frames, put together, and what a failure in the middle means."""

from __future__ import annotations

from typing import Any

import pytest

from kvserve.client.calls.many import DeleteMany, GetMany, SetMany
from kvserve.client.values import NATIVE
from kvserve.errors import (
    InternalError,
    InvalidValue,
    OutcomeUnknown,
    RequestTimeout,
    ServerBusy,
    StoreUnavailable,
    ValueTooLarge,
)
from kvserve.execution import many
from kvserve.execution.slices import to_the_end
from kvserve.limits import (
    BATCH_REPLY_BYTES,
    FRAME_BYTES_MIN,
    KEY_BYTES_MAX,
    MANY_KEYS_MAX,
    MIB,
    VALUE_BYTES_MAX,
    frame_bytes_max,
)
from kvserve.protocol import codec, commands
from kvserve.protocol.messages import STATUS_DONE, Request, decode_request

Key = str | bytes


def test_each_worker_is_asked_for_its_keys_until_it_has_answered_all() -> None:
    """A worker may leave out the end, never the beginning."""
    gets = GetMany([["a", "b", "c"], [], ["d"]], NATIVE.decode)
    asked = [(each.shard, each.arguments) for each in gets.calls()]
    assert asked == [(0, (["a", "b", "c"],)), (2, (["d"],))]
    gets.take([(b"\x00\x01", [None, b"two"]), (b"\x02", [codec.encode(4)[1]])])
    assert [(each.shard, each.arguments) for each in gets.calls()] == [(0, (["c"],))]
    gets.take([(b"\x00", [b"three"])])
    assert gets.calls() == []
    assert gets.found == {"b": "two", "c": b"three", "d": 4}


@pytest.mark.parametrize("answer", [(b"", []), (bytes(2), [b"", b""]), (b"", [b""])], ids=repr)
def test_an_answer_of_another_length_is_our_bug(answer: Any) -> None:
    gets = GetMany([["a"]], NATIVE.decode)
    gets.calls()
    with pytest.raises(InternalError):
        gets.take([answer])


def test_deletes_are_counted_over_all_workers_and_frames() -> None:
    keys: list[Key] = [str(number) for number in range(MANY_KEYS_MAX + 1)]
    deletes = DeleteMany([keys, ["x"]])
    assert [len(each.arguments[0]) for each in deletes.calls()] == [MANY_KEYS_MAX, 1]
    deletes.take([7, 1])
    assert [each.arguments[0] for each in deletes.calls()] == [keys[MANY_KEYS_MAX:]]
    deletes.take([1])
    assert (deletes.count, deletes.calls()) == (9, [])


@pytest.mark.parametrize(
    ("sizes", "value_bytes_max"),
    [
        ([0] * (2 * MANY_KEYS_MAX + 1), MIB),
        ([MIB] * 20, MIB),
        ([VALUE_BYTES_MAX, 0, VALUE_BYTES_MAX, 1], VALUE_BYTES_MAX),
        ([FRAME_BYTES_MIN // MANY_KEYS_MAX] * MANY_KEYS_MAX, MIB),
    ],
    ids=["empty", "large", "largest", "as many as may be"],
)
def test_no_frame_is_too_long_and_no_item_is_lost(sizes: list[int], value_bytes_max: int) -> None:
    longest = frame_bytes_max(value_bytes_max)
    values = {str(n).rjust(KEY_BYTES_MAX, "k"): bytes(size) for n, size in enumerate(sizes)}
    sets = SetMany([list(values)], values, codec.encode, 0, longest)
    stored: dict[Key, bytes] = {}
    while questions := sets.calls():
        ((command, arguments, worker, idempotent),) = questions
        assert (command, worker, idempotent) == (commands.SET_MANY, 0, True)
        frame = Request(2**64 - 1, 2**64 - 1, command, 2**63, arguments).encode()
        assert len(frame) <= longest
        keys, numbers, payloads, _ = decode_request(frame).arguments
        assert numbers == bytes(len(keys))
        stored |= dict(zip(keys, payloads, strict=True))
        sets.take([len(keys)])
    assert stored == values


def test_reading_stops_when_the_reply_would_grow_too_long() -> None:
    half = bytes(BATCH_REPLY_BYTES // 2)
    found = {"a": (3, half, 1), "b": (0, half, 2), "c": (0, half, 3)}
    assert to_the_end(many.read(found.get, ["nobody", "a", "b", "c"])) == (
        b"\x00\x03\x00",
        [None, half, half],
    )


def refusing(wrong: dict[str, Exception], done: list[str]) -> Any:
    """A change that some keys refuse; keeps those that it was made for."""

    def change(key: str) -> bool:
        if key in wrong:
            raise wrong[key]
        done.append(key)
        return key != "missing"

    return change


def test_what_one_key_is_refused_for_does_not_stop_the_others() -> None:
    done: list[str] = []
    change = refusing({"b": ValueTooLarge("of b"), "c": InvalidValue("of c")}, done)
    with pytest.raises(ValueTooLarge, match="of b"):
        to_the_end(many.each(change, ["a", "b", "c", "d"]))
    assert done == ["a", "d"]
    assert to_the_end(many.each(change, ["a", "missing", "d"])) == 2


@pytest.mark.parametrize("others", [(STATUS_DONE, 1), (ValueTooLarge.wire_code, "long")], ids=str)
def test_busy_promises_that_also_where_there_is_a_store(others: tuple[int, Any]) -> None:
    """Whose jobs are refused one by one when too many wait."""
    busy = ServerBusy.wire_code, "too many wait"
    code = commands.SET_MANY.code
    assert many.as_answer(code, [busy, busy]) == busy
    for outcomes in ([busy, (STATUS_DONE, 1)], [(STATUS_DONE, 1), busy, others]):
        assert many.as_answer(code, outcomes)[0] == RequestTimeout.wire_code


@pytest.mark.parametrize(("place", "error"), [(0, ServerBusy), (1, RequestTimeout)])
def test_busy_promises_that_nothing_was_changed(place: int, error: type[Exception]) -> None:
    """And ends it: to wait for each key's lock would hold up all clients for a second each."""
    done: list[str] = []
    keys = ["a", "b", "c"]
    with pytest.raises(error, match="stopped"):
        to_the_end(many.each(refusing({keys[place]: ServerBusy("stopped")}, done), keys))
    assert done == keys[:place]


def test_where_some_keys_were_changed_nobody_is_told_that_nothing_was() -> None:
    away = (StoreUnavailable.wire_code, "node b is away")
    for command in (commands.SET_MANY, commands.DELETE_MANY):
        status, text = many.as_answer(command.code, [(STATUS_DONE, 1), away])
        assert status == OutcomeUnknown.wire_code
        assert "node b" in text
        assert many.as_answer(command.code, [away, away]) == away
    assert many.as_answer(commands.GET_MANY.code, [(STATUS_DONE, None), away]) == away

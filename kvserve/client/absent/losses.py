"""What the operations of a batch return when it is lost: as the methods of their names do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvserve.client.absent.kinds import Kind, kind_of
from kvserve.client.absent.outage import Outage
from kvserve.client.calls.naming import naming
from kvserve.client.calls.operations import TTL, Key, Operation, Operations
from kvserve.errors import ServerError, ValueTooLarge
from kvserve.protocol import commands
from kvserve.protocol.codec import Value
from kvserve.table._core import check_key

LOST_SET = 0  # no value has this version
# Whose answer the caller needs to go on: they raise as ever.
_NEEDED = {commands.INCR, commands.CAS, *commands.LIMITING}


def losses(operations: list[Operation], results: list[Any], outage: Outage) -> list[Any]:
    """The results of a batch, with a miss or a lost write in each error's place; counts them."""
    lost: list[Key] = []
    last: ServerError | None = None
    instead: list[Any] = []
    is_read = False
    for operation, result in zip(operations, results, strict=True):
        if not isinstance(result, ServerError) or operation.command in _NEEDED:
            instead.append(result)
            continue
        last = result
        if kind_of(operation.command) is Kind.READ:
            is_read = True
            instead.append(operation.interpret(None))
        else:
            lost.append(operation.key)
            instead.append(LOST_SET if operation.command is commands.SET else False)
    if last is not None and lost:
        outage.lose_write(last, lost)
    if last is not None and is_read:
        outage.lose_read(last)
    return instead


def check_items(
    names: Mapping[Key, Key], items: Mapping[Key, Value], ttl: TTL, operations: Operations
) -> None:
    """Raises what is wrong with the caller's items: they may never come to a server to say so."""
    with naming(operations, names, items, lambda: items):
        operations.ttl_ms(ttl)
        for key, value in items.items():
            check_key(key)
            try:
                operations.encode(value)
            except ValueTooLarge:  # what was stored before is removed then, if somebody is there
                if operations.rules.too_large == "keep":
                    raise

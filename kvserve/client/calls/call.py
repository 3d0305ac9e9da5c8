"""A request before it has a session, and one error for the outcomes of several. No I/O."""

from __future__ import annotations

from typing import Any, NamedTuple

from kvserve.errors import (
    KvserveError,
    OutcomeUnknown,
    RequestTimeout,
    ServerBusy,
    ServerUnavailable,
    WorkerCrashed,
    WrongWorker,
)
from kvserve.protocol.commands import Command

LOOK_AGAIN_SECONDS = 0.02
_LOOKS_MAX = 20  # at a manifest that does not fit the workers yet


class Call(NamedTuple):
    """One request, before it has a session.

    Args:
        command: what to do.
        arguments: as the command's fields.
        shard: whose worker is asked.
        idempotent: whether it may be sent again.
    """

    command: Command
    arguments: tuple[Any, ...]
    shard: int
    idempotent: bool


def split_off_misrouted(
    calls: list[Call], outcomes: list[Any]
) -> tuple[list[Call], list[Any], bool]:
    """The calls that came to the right worker, their outcomes, and whether there are others."""
    right = [
        (call, outcome)
        for call, outcome in zip(calls, outcomes, strict=True)
        if not isinstance(outcome, WrongWorker)
    ]
    return [each[0] for each in right], [each[1] for each in right], len(right) < len(calls)


def instead_of_misrouted(outcomes: list[Any], error: KvserveError) -> list[Any]:
    """The outcomes of calls, with another error for those that came to a wrong worker."""
    return [error if isinstance(each, WrongWorker) else each for each in outcomes]


class Looks:
    """How often one call has looked for the right workers of its keys."""

    def __init__(self) -> None:
        self._count = 0

    def may_look(self, now: float, deadline: float) -> bool:
        """Whether there is time to look again and to ask again, both by the call's deadline."""
        self._count += 1
        return self._count <= _LOOKS_MAX and now + LOOK_AGAIN_SECONDS < deadline


def raise_combined(calls: list[Call], outcomes: list[Any], *, begun: bool = False) -> None:
    """Raises one error for calls that belong together, if one of them failed.

    `ServerBusy` and `ServerUnavailable` promise that nothing was changed. So unless that is true of
    all calls, the error is `RequestTimeout`, which says that all may be sent again, or
    `OutcomeUnknown`, if they may not.

    Args:
        calls: what was asked.
        outcomes: the answer of each, or its error.
        begun: whether earlier calls of the same call were answered.
    """
    errors = [outcome for outcome in outcomes if isinstance(outcome, KvserveError)]
    if not errors:
        return
    for error in errors:
        if isinstance(error, (OutcomeUnknown, WorkerCrashed)):
            raise error
    first: KvserveError = errors[0]
    if isinstance(first, (ServerBusy, ServerUnavailable, RequestTimeout)):
        untouched = (ServerBusy, ServerUnavailable)
        if begun or not all(isinstance(outcome, untouched) for outcome in outcomes):
            if all(call.idempotent for call in calls):
                raise RequestTimeout(f"not everything was done in time: {first}")
            raise OutcomeUnknown(f"a part was done, and it is not known which: {first}")
    raise first

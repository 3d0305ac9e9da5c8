"""What a failure means for a request: it is sent again, refused, or its outcome is unknown. No I/O.

A request that a worker never began, and one that may be executed twice without harm, is sent to the
worker's successor. The outcome of any other is unknown. `ServerBusy` promises that nothing was
changed, so it is not passed on where an earlier worker may have changed something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvserve.errors import (
    KvserveError,
    OutcomeUnknown,
    RequestTimeout,
    ServerBusy,
    WorkerCrashed,
    WrongWorker,
)
from kvserve.protocol.messages import Reply

_DEATHS_MAX = 2  # one may be chance


class Attempt:
    """One request, from the first time that it is sent to its answer.

    Args:
        idempotent: whether it may be executed twice.
        died_over: whether a worker died while it executed the request of these ids.
    """

    def __init__(self, idempotent: bool, died_over: Callable[[int, int], bool]) -> None:
        self._idempotent = idempotent
        self._died_over = died_over
        self._was_sent = False  # to a worker that is gone
        self._deaths = 0  # of workers, over this request

    def on_worker_gone(self, client_id: int, request_id: int) -> None:
        """The session that carried the request has ended. Returns if the request may be sent again.

        Args:
            client_id: of the session.
            request_id: 0: the worker cannot have begun with it.

        Raises:
            OutcomeUnknown: it may have been executed, and must not be sent again.
            WorkerCrashed: workers died while they executed it, too often to send it again.
        """
        if not request_id:
            return
        if not self._idempotent:
            raise OutcomeUnknown(
                "the worker died before it replied: it was executed once, or not at all"
            )
        self._was_sent = True
        self._deaths += self._died_over(client_id, request_id)
        if self._deaths >= _DEATHS_MAX:
            raise WorkerCrashed(
                f"{_DEATHS_MAX} workers died while they executed this request, so it is not sent "
                "again; it may have been executed; see the server's log for how they ended"
            )

    def error_of(self, error: ServerBusy | RequestTimeout) -> KvserveError:
        """The error for the caller when the request was not taken, or not answered, in time."""
        if isinstance(error, ServerBusy):
            if self._was_sent and not isinstance(error, WrongWorker):
                return RequestTimeout(f"the worker died, and its successor: {error}")
            return error
        if self._idempotent:
            return error
        return OutcomeUnknown("no reply before the deadline: it was executed once, or not at all")

    def result_of(self, reply: Reply) -> Any:
        """The answer; raises the worker's error."""
        try:
            return reply.result()
        except ServerBusy as error:
            raise self.error_of(error) from None

"""Notes in the table which request is being executed, step by step; see core/deaths.c.

A request that waits for the store is executed in steps, and other requests in between. Each step
is noted, so that a worker's death shows which request it died over, and not which one waited.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

from kvserve.table.table import Table

Answer = TypeVar("Answer")


class Running:
    """One request; what runs in a `with` block of it is noted as its execution.

    A load that several requests share is executed for the one that came first.

    Args:
        table: where it is noted.
        worker: which one executes it.
        client_id, request_id: of the request.
    """

    __slots__ = ("_client_id", "_request_id", "_table", "_worker")

    def __init__(self, table: Table, worker: int, client_id: int, request_id: int) -> None:
        self._table = table
        self._worker = worker
        self._client_id = client_id
        self._request_id = request_id

    def __enter__(self) -> None:
        self._table.begin_request(self._worker, self._client_id, self._request_id)

    def __exit__(self, *_: object) -> None:
        self._table.end_request(self._worker)

    async def noted(self, job: Coroutine[Any, Any, Answer]) -> Answer:
        """Returns what a job returns, and notes each of its steps."""
        return await _Steps(self, job)


class _Steps(Generic[Answer]):
    """A coroutine, awaited step by step."""

    def __init__(self, running: Running, job: Coroutine[Any, Any, Answer]) -> None:
        self._running = running
        self._job = job

    def __await__(self) -> Generator[Any, Any, Answer]:
        job = self._job
        error: BaseException | None = None
        try:
            while True:
                with self._running:
                    awaited = job.send(None) if error is None else job.throw(error)
                error = None
                try:
                    yield awaited
                except BaseException as thrown:  # such as CancelledError: the job's, not ours
                    error = thrown
        except StopIteration as ended:
            answer: Answer = ended.value
            return answer
        finally:
            job.close()

"""One job a key at a time, in the order in which they came; the keys do not wait for each other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from kvserve.errors import ServerBusy

Job = Callable[[], Coroutine[Any, Any, Any]]
JOBS_MAX = 16_384  # that wait or run in one worker; each holds its request


class _Entry:
    """A job in its key's queue; the first of a queue runs."""

    __slots__ = ("began", "is_detached", "is_read", "job", "result")

    def __init__(self, job: Job | None, result: asyncio.Future[Any], *, is_read: bool) -> None:
        self.job = job  # None: it runs elsewhere, and was adopted
        self.result = result
        self.is_read = is_read
        self.began: float | None = None  # on the loop's clock
        self.is_detached = False


class KeyQueues:
    """The jobs of a worker that wait for the store.

    Args:
        loop: the worker's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queues: dict[bytes, deque[_Entry]] = {}
        # The last job of a key, if it only reads: the next read may share it.
        self._reads: dict[bytes, _Entry] = {}
        self._runners: set[asyncio.Task[None]] = set()
        self._jobs = 0

    def __len__(self) -> int:
        return self._jobs

    @property
    def is_full(self) -> bool:
        """Whether no more may be submitted."""
        return self._jobs >= JOBS_MAX

    def is_busy(self, raw_key: bytes) -> bool:
        """Whether a job of this key waits or runs."""
        return raw_key in self._queues

    def is_read_for(self, raw_key: bytes, seconds: float) -> bool:
        """Whether the read that the next one would share has run for longer than this."""
        entry = self._reads.get(raw_key)
        return (
            entry is not None
            and entry.began is not None
            and self._loop.time() - entry.began > seconds
        )

    def read(self, raw_key: bytes, job: Job) -> asyncio.Future[Any]:
        """As `submit`, for a job that changes nothing; shares the result of one that is on its way,
        unless a change was submitted after it."""
        shared = self._reads.get(raw_key)
        if shared is None:
            shared = self._reads[raw_key] = self._submit(raw_key, job, is_read=True)
        return shared.result

    def adopt(self, raw_key: bytes, result: asyncio.Future[Any], *, is_read: bool) -> None:
        """Takes in a job that runs already, of a key that is not busy; others wait for it, or
        share it if it is a read, as if it had been submitted."""
        self._jobs += 1
        entry = _Entry(None, result, is_read=is_read)
        entry.began = self._loop.time()
        queue = self._queues[raw_key] = deque([entry])
        if is_read:
            self._reads[raw_key] = entry
        result.add_done_callback(lambda _: self._end(raw_key, queue, entry))

    def _end(self, raw_key: bytes, queue: deque[_Entry], entry: _Entry) -> None:
        """Called when an adopted job has ended."""
        self._jobs -= 1
        if entry.is_detached:
            return
        queue.popleft()
        if self._reads.get(raw_key) is entry:
            del self._reads[raw_key]
        if queue:
            self._start(raw_key, queue)
        else:
            del self._queues[raw_key]

    def submit(self, raw_key: bytes, job: Job) -> asyncio.Future[Any]:
        """Runs a job after those of its key that came before; returns its future result.

        Raises:
            ServerBusy: too many wait already.
        """
        return self._submit(raw_key, job, is_read=False).result

    def _submit(self, raw_key: bytes, job: Job, *, is_read: bool) -> _Entry:
        if self.is_full:
            raise ServerBusy(f"{JOBS_MAX} requests wait for the store already")
        self._jobs += 1
        self._reads.pop(raw_key, None)
        entry = _Entry(job, self._loop.create_future(), is_read=is_read)
        queue = self._queues.get(raw_key)
        if queue is not None:
            queue.append(entry)
        else:
            queue = self._queues[raw_key] = deque([entry])
            self._start(raw_key, queue)
        return entry

    def detach(self, raw_key: bytes) -> None:
        """Lets the jobs of a key that come, or wait, go on beside the read that runs just now.

        Callers that wait for that read get its answer. No other shares it: it is out of date.
        """
        queue = self._queues.get(raw_key)
        if not queue or not queue[0].is_read or queue[0].began is None:
            return
        entry = queue.popleft()
        entry.is_detached = True
        if self._reads.get(raw_key) is entry:
            del self._reads[raw_key]
        if queue:
            self._start(raw_key, queue)
        else:
            del self._queues[raw_key]

    def _start(self, raw_key: bytes, queue: deque[_Entry]) -> None:
        runner = self._loop.create_task(self._run(raw_key, queue))
        self._runners.add(runner)
        runner.add_done_callback(self._runners.discard)

    async def _run(self, raw_key: bytes, queue: deque[_Entry]) -> None:
        while queue:
            entry = queue[0]
            entry.began = self._loop.time()
            assert entry.job is not None
            try:
                answer = await entry.job()
            except Exception as error:  # it is raised where the result is awaited
                entry.result.set_exception(error)
            else:
                entry.result.set_result(answer)
            self._jobs -= 1
            if entry.is_detached:
                return  # the others have a runner of their own
            queue.popleft()
            if self._reads.get(raw_key) is entry:
                del self._reads[raw_key]
        del self._queues[raw_key]

"""One job a key at a time, in the order in which they came; the keys do not wait for each other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from kvserve.errors import ServerBusy

Job = Callable[[], Coroutine[Any, Any, Any]]
JOBS_MAX = 16_384  # that wait or run in one worker; each holds its request


class KeyQueues:
    """The jobs of a worker that wait for the store.

    Args:
        loop: the worker's.
        on_idle: is told a key whose last job has ended.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_idle: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._on_idle = on_idle
        self._queues: dict[bytes, deque[tuple[Job, asyncio.Future[Any]]]] = {}
        # The last job of a key, if it only reads: whoever reads next may share it.
        self._reads: dict[bytes, asyncio.Future[Any]] = {}
        self._runners: set[asyncio.Task[None]] = set()
        self._jobs = 0

    def __len__(self) -> int:
        return self._jobs

    def is_busy(self, name: bytes) -> bool:
        """Whether a job of this key waits or runs."""
        return name in self._queues

    def read(self, name: bytes, job: Job) -> asyncio.Future[Any]:
        """As `submit`, for a job that changes nothing; shares the result of one that is on its way,
        unless a change was submitted after it."""
        shared = self._reads.get(name)
        if shared is None:
            shared = self.submit(name, job)
            self._reads[name] = shared
        return shared

    def submit(self, name: bytes, job: Job) -> asyncio.Future[Any]:
        """Runs a job after those of its key that came before; returns its result to be.

        Raises:
            ServerBusy: too many wait already.
        """
        if self._jobs >= JOBS_MAX:
            raise ServerBusy(f"{JOBS_MAX} requests wait for the store already")
        self._jobs += 1
        self._reads.pop(name, None)
        result: asyncio.Future[Any] = self._loop.create_future()
        queue = self._queues.get(name)
        if queue is not None:
            queue.append((job, result))
            return result
        self._queues[name] = deque([(job, result)])
        runner = self._loop.create_task(self._run(name))
        self._runners.add(runner)
        runner.add_done_callback(self._runners.discard)
        return result

    async def _run(self, name: bytes) -> None:
        queue = self._queues[name]
        while queue:
            job, result = queue[0]
            try:
                answer = await job()
            except Exception as error:  # it is raised where the result is awaited
                result.set_exception(error)
            else:
                result.set_result(answer)
            queue.popleft()
            self._jobs -= 1
            if self._reads.get(name) is result:
                del self._reads[name]
        del self._queues[name]
        self._on_idle(name)

"""An asyncio client's way to the workers: one channel each, deadlines, and what is sent again.

The rules are those of `blocking.workers.WorkerPool`; only the waiting differs.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from kvserve import limits
from kvserve.client import forks
from kvserve.client.aio.channel import AsyncChannel
from kvserve.client.calls.attempt import Attempt
from kvserve.client.calls.call import LOOK_AGAIN_SECONDS, Call
from kvserve.client.deadlines import deadline_of
from kvserve.client.options import Options
from kvserve.client.session import NOT_TAKEN, Session, WorkerGone
from kvserve.errors import (
    ClientClosed,
    KvserveError,
    RequestTimeout,
    ServerBusy,
)
from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.runtime import named_errors

_GRACE_SECONDS = 0.05


class _Sessions:
    """The sessions of one event loop, by worker."""

    def __init__(self) -> None:
        self.channels: dict[int, AsyncChannel] = {}
        self.opening: dict[int, asyncio.Lock] = {}

    def close(self) -> None:
        """Ends them; requests under way fail. In the loop's own thread, or when it is closed."""
        for channel in list(self.channels.values()):
            channel.close()
        self.channels.clear()


class AsyncWorkerPool:
    """The workers of an instance, with sessions of its own for each event loop that uses it.

    Loops come and go: each `asyncio.run` makes one, and threads have theirs. They are referred to
    weakly, and the sessions of one that was closed are closed at the next use in any other.

    Arguments as for `WorkerPool`.
    """

    def __init__(
        self,
        names: Names,
        manifest: Manifest,
        options: Options,
        on_manifest: Callable[[Manifest], None],
        died_over: Callable[[int, int], bool] = lambda *_: False,
    ) -> None:
        self._names = names
        self.manifest = manifest
        self.timeout = options.timeout
        self._queue_bytes = options.queue_bytes
        self._on_manifest = on_manifest
        self._died_over = died_over
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Sessions]
        self._by_loop = WeakKeyDictionary()
        self._closed = False
        _all_workers.add(self)

    @property
    def frame_bytes_max(self) -> int:
        """The longest frame that the workers take."""
        return limits.frame_bytes_max(self.manifest.value_bytes_max)

    def deadline(self) -> float:
        """See `blocking.workers.WorkerPool.deadline`."""
        return deadline_of(asyncio.get_running_loop().time(), self.timeout)

    async def count(self) -> int:
        """The number of workers now. See `blocking.workers.WorkerPool.count`."""
        deadline = self.deadline()
        while True:
            with suppress(WorkerGone):
                channel = await self._channel(0, deadline)
                if channel.look():
                    return self.manifest.workers

    async def look_again(self) -> None:
        """See `blocking.workers.WorkerPool.look_again`."""
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        with named_errors():
            self.manifest = Manifest.read(self._names)
            self._on_manifest(self.manifest)

    async def ask(self, call: Call, deadline: float) -> Any:
        """The answer to one request. Raises as `blocking.workers.WorkerPool.ask` does."""
        attempt = Attempt(call.idempotent, self._died_over)
        while True:
            try:
                channel = await self._channel(call.shard, deadline)
            except WorkerGone:
                continue  # nothing was sent there
            except ServerBusy as error:
                raise attempt.error_of(error) from None
            try:
                reply = await channel.ask(call.command, call.arguments, deadline)
            except WorkerGone as gone:
                attempt.on_worker_gone(*gone.ids)
            except (ServerBusy, RequestTimeout) as error:
                raise attempt.error_of(error) from None
            else:
                return attempt.result_of(reply)

    async def ask_each(self, calls: list[Call], deadline: float) -> list[Any]:
        """The outcomes of several requests at the same time: answers, and errors as objects."""
        asked = [self.ask(call, deadline) for call in calls]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, KvserveError):
                raise outcome
        return outcomes

    async def _channel(self, shard: int, deadline: float) -> AsyncChannel:
        sessions = self._sessions()
        worker = shard % self.manifest.workers
        channel = sessions.channels.get(worker)
        opening = sessions.opening.setdefault(worker, asyncio.Lock())
        if channel is not None and channel.is_open and not opening.locked():
            return channel
        # Another request's greeting may take longer than this request may; its own ends by itself.
        patience = asyncio.timeout_at(deadline + _GRACE_SECONDS)
        try:
            async with patience, opening:
                channel = sessions.channels.get(worker)
                if channel is not None and channel.is_open:
                    return channel
                if channel is not None:
                    channel.close()  # an interrupted greeting may not have closed it
                with named_errors():
                    self.manifest = Manifest.read(self._names)
                    self._on_manifest(self.manifest)
                    if shard % self.manifest.workers == worker:
                        return await self._open(sessions, worker, deadline)
        except TimeoutError:
            if not patience.expired():  # it is an error of ours, or of a signal's handler
                raise
            raise ServerBusy(NOT_TAKEN) from None
        # The server was restarted with another number of workers.
        return await self._channel(shard, deadline)

    async def _open(self, sessions: _Sessions, worker: int, deadline: float) -> AsyncChannel:
        queue_bytes = self.manifest.queue_message_bytes
        if self._queue_bytes is not None:
            queue_bytes = min(self._queue_bytes, queue_bytes)
        session = Session(self._names, self.manifest, worker, queue_bytes)
        # Stored before the event loop knows it, so that `close` finds it whatever comes between.
        channel = sessions.channels[worker] = AsyncChannel(session)
        await channel.greet(self._names, deadline)
        if self._closed:
            channel.close()
            raise ClientClosed("this client was closed")
        return channel

    def _sessions(self) -> _Sessions:
        """Those of the running loop."""
        if self._closed:
            raise ClientClosed("this client was closed")
        forks.notice()
        loop = asyncio.get_running_loop()
        sessions = self._by_loop.get(loop)
        if sessions is None:
            sessions = self._by_loop[loop] = _Sessions()
        if len(self._by_loop) > 1:
            self._close_ended()
        return sessions

    def _close_ended(self) -> None:
        """Closes the sessions of loops that were closed."""
        for reference in self._by_loop.keyrefs():
            loop = reference()
            if loop is not None and loop.is_closed():
                ended = self._by_loop.pop(loop, None)  # another thread may do the same
                if ended is not None:
                    ended.close()

    def close(self) -> None:
        """Ends all sessions; requests under way fail. Those of a loop that runs in another thread
        end in its next turn."""
        self._closed = True
        here = asyncio._get_running_loop()
        for reference in self._by_loop.keyrefs():
            loop = reference()
            sessions = None if loop is None else self._by_loop.pop(loop, None)
            if loop is None or sessions is None:
                continue
            if loop is here or not loop.is_running():
                sessions.close()
                continue
            try:
                loop.call_soon_threadsafe(sessions.close)
            except RuntimeError:  # it was closed meanwhile
                sessions.close()

    def forget(self) -> None:
        """In a forked child: lets go of the parent's sessions and of its loops."""
        self._by_loop = WeakKeyDictionary()


# A process-wide fact in process-wide state, see forks.py.
_all_workers: weakref.WeakSet[AsyncWorkerPool] = weakref.WeakSet()


def _forget_all() -> None:
    for workers in list(_all_workers):
        workers.forget()


forks.in_child(_forget_all)

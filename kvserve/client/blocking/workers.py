"""A blocking client's way to the workers: pooled channels, deadlines, and what is sent again.

A channel is used by one thread at a time; threads that ask at once get one each. Only the thread
that borrowed a channel refers to it: when an exception from outside, such as Ctrl-C, drops it, its
session ends, and with it the replies that are no longer awaited.

What happens when a worker dies under a request is decided in calls/attempt.py.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from kvserve import limits
from kvserve.client import forks
from kvserve.client.blocking.channel import Channel
from kvserve.client.calls.attempt import Attempt
from kvserve.client.calls.call import LOOK_AGAIN_SECONDS, Call
from kvserve.client.deadlines import deadline_of
from kvserve.client.options import Options
from kvserve.client.session import Session, WorkerGone
from kvserve.errors import (
    ClientClosed,
    ForeignObject,
    KvserveError,
    RequestTimeout,
    ServerBusy,
    ServerUnavailable,
)
from kvserve.live import settings
from kvserve.live.applying import from_page
from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.protocol.commands import Command
from kvserve.runtime import named_errors, verify_directory
from kvserve.transport.spinning import Spin

Begun = tuple[int, Channel, int]  # a worker, the session with it, the id of what was sent or 0


class WorkerPool:
    """The workers of an instance.

    Args:
        names: the instance's.
        manifest: what it consists of.
        options: the client's.
        on_manifest: is called with the manifest that each new session finds.
        died_over: whether a worker died while it executed a request, by its two ids.
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
        self._idle: defaultdict[int, list[Channel]] = defaultdict(list)
        self._closed = False

    @property
    def frame_bytes_max(self) -> int:
        """The longest frame that the workers take."""
        return limits.frame_bytes_max(self.manifest.value_bytes_max)

    def deadline(self) -> float:
        """The deadline of a request that begins now, however often it has to be sent.

        Raises:
            ServerBusy: the call that it belongs to has no time left.
        """
        return deadline_of(time.monotonic(), self.timeout)

    def count(self) -> int:
        """The number of workers now. Call this before splitting keys among them: a restarted server
        may have more workers, and each must get only the keys of its shards.

        Raises:
            ServerUnavailable, ServerBusy, RequestTimeout: there is no session with any.
        """
        deadline = self.deadline()
        while True:
            worker, channel = self._borrow(0, deadline)
            try:
                channel.look()
            except WorkerGone:
                channel.close()
                continue
            except BaseException:
                channel.close()
                raise
            self._give_back(worker, channel)
            return self.manifest.workers

    def look_again(self) -> None:
        """Reads the manifest anew, because a worker said that the keys are another worker's."""
        time.sleep(LOOK_AGAIN_SECONDS)  # the server is just starting, perhaps
        with named_errors():
            self.manifest = Manifest.read(self._names)
            self._on_manifest(self.manifest)

    def ask(self, command: Command, arguments: tuple[Any, ...], shard: int, deadline: float) -> Any:
        """The answer to one request, from the worker that serves its shard.

        Raises:
            ServerUnavailable, ServerBusy, RequestTimeout: see kvserve.errors.
            OutcomeUnknown: it may have been executed, and must not be sent again.
            KvserveError: the error that the worker returned.
        """
        return self._ask(command, arguments, shard, command.idempotent, deadline)

    def _ask(
        self,
        command: Command,
        arguments: tuple[Any, ...],
        shard: int,
        idempotent: bool,
        deadline: float,
        begun: Begun | None = None,
    ) -> Any:
        """Asks until there is an answer; `begun`: where it was sent already."""
        attempt = Attempt(idempotent, self._died_over)
        while True:
            worker, channel, request_id = begun or self._start(attempt, shard, deadline)
            begun = None
            try:
                request_id = request_id or channel.send(command, arguments, deadline)
                reply = channel.receive(request_id, deadline)
            except WorkerGone:
                channel.close()
                attempt.on_worker_gone(channel.session.client_id, request_id)
            except (ServerBusy, RequestTimeout) as error:
                self._give_back(worker, channel)  # its late reply will be dropped
                raise attempt.error_of(error) from None
            except BaseException:
                channel.close()
                raise
            else:
                self._give_back(worker, channel)
                return attempt.result_of(reply)

    def _start(self, attempt: Attempt, shard: int, deadline: float) -> Begun:
        """A worker and the channel to it; nothing is sent yet."""
        try:
            return *self._borrow(shard, deadline), 0
        except ServerBusy as error:
            raise attempt.error_of(error) from None

    def ask_each(self, requests: list[Call], deadline: float) -> list[Any]:
        """The outcomes of requests to several workers, which work on them at the same time.

        Returns:
            For each its answer, or the error that `ask` would have raised, as an object.
        """
        begun = [self._begin(call, deadline) for call in requests]
        return [
            self._finish(call, each, deadline) for call, each in zip(requests, begun, strict=True)
        ]

    def _begin(self, call: Call, deadline: float) -> Begun | KvserveError | None:
        """Sends it; None: its worker is gone, it must be sent again."""
        try:
            worker, channel = self._borrow(call.shard, deadline)
            try:
                request_id = channel.send(call.command, call.arguments, deadline)
            except ServerBusy:
                self._give_back(worker, channel)
                raise
            except WorkerGone:
                channel.close()
                return None
            except BaseException:
                channel.close()
                raise
        except KvserveError as error:
            return error
        return worker, channel, request_id

    def _finish(self, call: Call, begun: Begun | KvserveError | None, deadline: float) -> Any:
        if isinstance(begun, KvserveError):
            return begun
        try:
            return self._ask(*call, deadline, begun)
        except KvserveError as error:
            return error

    def _borrow(self, shard: int, deadline: float) -> tuple[int, Channel]:
        if self._closed:
            raise ClientClosed("this client was closed")
        forks.notice()
        worker = shard % self.manifest.workers
        idle = self._idle[worker]
        try:
            while True:
                channel = idle.pop()  # now it is this thread's alone
                if not channel.session.closed:  # as in a forked child all of its parent's are
                    return worker, channel
        except IndexError:
            pass
        while True:
            try:
                return self._open(shard, deadline)
            except WorkerGone:
                continue  # of a server that another one has replaced

    def _open(self, shard: int, deadline: float) -> tuple[int, Channel]:
        # The server may have been restarted, with other numbers, since we looked last.
        with named_errors():
            self.manifest = Manifest.read(self._names)
            self._on_manifest(self.manifest)
            worker = shard % self.manifest.workers
            queue_bytes = self.manifest.queue_message_bytes
            if self._queue_bytes is not None:
                queue_bytes = min(self._queue_bytes, queue_bytes)
            session = Session(self._names, self.manifest, worker, queue_bytes)
            return worker, Channel(self._names, session, self._spin(), deadline)

    def _spin(self) -> Spin:
        """By the server's setting just now; a session keeps it."""
        try:
            with closing(settings.attach(self._names, verify_directory(self._names))) as page:
                config = from_page(page.read().values)
                return Spin(config.spin, for_remote=config.has_remote_store)
        except (FileNotFoundError, ForeignObject, ServerUnavailable):
            return Spin(0)  # perhaps of another version; opening the session will show it

    def _give_back(self, worker: int, channel: Channel) -> None:
        if not channel.session.closed:
            self._idle[worker].append(channel)
        if self._closed:  # meanwhile
            self.close()

    def close(self) -> None:
        """Ends all sessions; those in use by other threads when their request has ended."""
        self._closed = True
        for idle in list(self._idle.values()):
            with suppress(IndexError):  # another thread may take the last one, and bring it back
                while True:
                    idle.pop().close()

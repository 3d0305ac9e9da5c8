"""One worker process: attach, serve, drain, exit code.

It receives a frame from the queue or a FIFO, decodes it, finds its session, executes it, replies.
None of these steps waits.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import time
from typing import Any

import uvloop

from kvserve import limits
from kvserve.config import LOG_LEVELS, Config
from kvserve.errors import KvserveError
from kvserve.execution.budget import Budget
from kvserve.execution.executor import Executor
from kvserve.execution.slices import Slices
from kvserve.execution.stored.backing import backing
from kvserve.live import feed_segment, settings
from kvserve.live.applying import Follower, differences
from kvserve.live.settings import SettingsPage
from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.table.lease import Lease
from kvserve.table.table import Table
from kvserve.transport.mqueue import ReceivingQueue
from kvserve.transport.spinning import Spin
from kvserve.worker import exit_codes
from kvserve.worker.frontends.session import Session
from kvserve.worker.frontends.sessions import Sessions
from kvserve.worker.log_pipe import PipeHandler
from kvserve.worker.notes import NotesOfOthers
from kvserve.worker.service import Requests
from kvserve.worker.sweeper import Sweeper
from kvserve.worker.trimming import Trimmer

_log = logging.getLogger(__name__)
_MESSAGES_A_TURN = 32  # then the FIFOs have their turn
_DRAIN_SECONDS = 2.0


class Worker:
    """Serves the requests of one queue and of the sessions that were opened through it.

    Args:
        names: the instance's.
        manifest: what the parent made.
        table: this process's.
        page: the live settings; closed with this.
        store_url: of the store behind the table.
        index: which worker this is, from 0.
        loop: its event loop.
    """

    def __init__(
        self,
        names: Names,
        manifest: Manifest,
        table: Table,
        page: SettingsPage,
        store_url: str,
        index: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        shards = range(index, manifest.shards, manifest.workers)
        self._index = index
        self._loop = loop
        self._started = time.monotonic()
        self._queue = ReceivingQueue(names.worker_queue(index), os.geteuid())
        table.keep_to(index, manifest.workers)
        self._lease = table.lease
        first = limits.LEASE_SLOT_WRITER_FIRST
        self._writer_slots = range(first, first + manifest.writers)
        self._table = table
        table.keep_request(index)
        self._executor = Executor(table, shards, self.stats)
        self._budget = Budget(limits.buffer_bytes(0, manifest.value_bytes_max))
        self._slices: Slices[Session] = Slices(
            loop,
            lambda session: self._sessions.resume(session),
            lambda session: self._sessions.is_alive(session),
        )
        self._sessions = Sessions(
            names,
            loop,
            manifest.group_id,
            manifest.value_bytes_max,
            self._budget,
            self._take,
            self._slices.is_busy,
            self._slices.leave,
        )
        self._trimmer = Trimmer(self._budget, lambda: self._sessions.arriving_bytes)
        self._latest: Session | None = None  # its FIFO is polled beside the queue
        self._sweeper = Sweeper(table, shards, loop)
        self._notes: NotesOfOthers | None = None
        if manifest.group_id is not None:  # else there are no other users
            self._notes = NotesOfOthers(names, table, index, manifest.workers)
        self._spin = Spin(0)
        self._store_spin = Spin(0)  # while requests wait for a remote store
        self._follower = Follower(page, self._apply)
        config = self._follower.config
        self._backing = backing(store_url, config, table, shards, index, self._executor, loop)
        if self._backing is not None:
            self._budget.beside = self._backing.held
        self._requests = Requests(
            table, index, self._sessions, self._slices, self._budget, self._executor, self._backing
        )
        self._configure(self._follower.config)
        self._next_tick = loop.call_later(limits.TICK_SECONDS, self._tick)
        self._draining = False
        self._finished: asyncio.Future[int] = loop.create_future()
        loop.add_reader(self._queue.descriptor, self._receive)
        self._next_turn = loop.call_soon(self._look_on)

    async def finished(self) -> int:
        """Serves until it is stopped; returns the exit code."""
        return await self._finished

    def stop(self, exit_code: int) -> None:
        """Ends the service at once."""
        if not self._finished.done():
            self._finished.set_result(exit_code)

    def drain(self) -> None:
        """Finishes what was received before now, sends the replies, and ends the service.

        A second call does nothing: a signal to the whole process group comes twice.
        """
        if self._draining:
            return
        self._draining = True
        self._loop.remove_reader(self._queue.descriptor)
        self._next_turn.cancel()
        for _ in range(self._queue.waiting):
            if frame := self._queue.receive():
                self._requests.take(frame, None)
        self._await_replies(time.monotonic() + _DRAIN_SECONDS)

    def _await_replies(self, deadline: float) -> None:
        if self._requests.is_idle or time.monotonic() > deadline:
            self.stop(exit_codes.DONE)
        else:
            self._loop.call_later(0.01, self._await_replies, deadline)

    async def close(self) -> None:
        """Lets go of the store, the sessions and the queue."""
        self._next_tick.cancel()
        self._sweeper.stop()
        self._slices.stop()
        # Nothing is taken any more: what came while the store closes would be lost.
        self._sessions.close_all()
        self._loop.remove_reader(self._queue.descriptor)
        self._next_turn.cancel()
        if self._backing is not None:
            await self._backing.close()
        self._follower.close()
        self._queue.close()

    def _receive(self) -> None:
        if self._look():
            self._look_on()

    def _look_on(self) -> None:
        """Polls queue and latest FIFO, at most 32 messages, then yields to the loop."""
        for _ in range(_MESSAGES_A_TURN):
            # While requests wait for the store, the loop has to send to it and to hear from it.
            is_free = self._backing is None or self._backing.is_idle
            if is_free:
                self._store_spin.end()
                found = self._spin.until(self._look) or self._look()
            else:
                found = self._look()
            if not found and (is_free or not self._store_spin.goes_on()):
                return
            if not found:
                break
        # Not when the queue is readable: it may be empty just now, and waking up takes long.
        self._next_turn = self._loop.call_soon(self._look_on)

    def _look(self) -> bool:
        """Takes one message, or what the latest session sent through its FIFO, if there is any."""
        frame = self._queue.receive()
        if frame is not None:
            self._latest = None
            self._requests.take(frame, None)
            return True
        return self._latest is not None and self._sessions.look(self._latest)

    def _take(self, frame: bytes, session: Session) -> None:
        """Takes a frame that came through a FIFO; its client's next may come the same way."""
        self._requests.take(frame, session)
        if self._latest is not session and not self._draining:
            self._latest = session
            self._next_turn.cancel()
            self._next_turn = self._loop.call_soon(self._look_on)

    def _tick(self) -> None:
        """Does all periodic work by one timer, because waking up is most of the cost."""
        self._next_tick = self._loop.call_later(limits.TICK_SECONDS, self._tick)
        self._follow_settings()
        self._sweeper.turn()
        self._sessions.tick()
        for handler in logging.getLogger().handlers:
            if isinstance(handler, PipeHandler):
                handler.tell_suppressed()
        self._trimmer.turn()
        if self._notes is not None:
            self._notes.turn()

    def _follow_settings(self) -> None:
        try:
            self._follower.poll()
        except KvserveError as error:
            _log.error("%s", error)

    def _apply(self, old: Config, new: Config) -> None:
        # The more verbose level of both, so that the change itself is logged. If that is above
        # info, or the parent, which filters too, was quicker, the parent's line must do.
        _set_log_level(min(old.log_level, new.log_level, key=LOG_LEVELS.index))
        if changes := differences(old, new):
            _log.info("settings version %d: %s", self._follower.version, "; ".join(changes))
        self._configure(new)

    def _configure(self, config: Config) -> None:
        """Puts the live settings in force; called again with each change of them."""
        _set_log_level(config.log_level)
        self._budget.bytes_max = config.buffer_bytes
        self._executor.configure(config)
        if self._backing is not None:
            self._backing.configure(config)
        self._requests.slow_seconds = config.slow_request
        self._spin = Spin(config.spin)
        self._store_spin = Spin(config.spin if config.has_remote_store else 0, for_remote=True)

    def _count_writers(self) -> int:
        parent = os.getppid()  # it has a killed writer's slot while it reports the death
        return sum(pid != parent for pid in self._lease.holders(self._writer_slots).values())

    def stats(self) -> dict[str, Any]:
        """This worker's own statistics."""
        return {
            "index": self._index,
            "pid": os.getpid(),
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "settings_version": self._follower.version,
            "writers": self._count_writers(),
            "cut_off_clients": self._sessions.cut_off,
            "sessions": len(self._sessions),
            "queue_length": self._queue.waiting,
            "cpu_seconds": round(time.process_time(), 3),
            **self._requests.stats(),
            "store": {} if self._backing is None else self._backing.stats(),
        }


def _set_log_level(level: str) -> None:
    logging.getLogger().setLevel(level.upper())


def run(names: Names, index: int, store_url: str, control: int, ready: int) -> int:
    """The whole life of a worker, in a process that was just forked.

    Args:
        names: the instance's.
        index: which worker this is, from 0.
        store_url: of the store behind the table; with its password, so it is in no shared page.
        control: a pipe's reading end, whose end-of-file means that the parent is gone.
        ready: a pipe's writing end; gets one byte when the worker serves.

    Returns:
        The exit code, one of `kvserve.worker.exit_codes`.
    """
    # Everything, until the settings say what is wanted. The parent, which reads it, filters too.
    logging.basicConfig(handlers=[PipeHandler(2)], level=logging.DEBUG, force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    _raise_descriptor_limit()
    try:
        manifest = Manifest.read(names)
        page = settings.attach(names, os.geteuid())
        table = Table(names, Lease.join(names.lease_file, limits.LEASE_SLOT_WORKER_FIRST + index))
        if names.feed in manifest.memory_objects:
            feed_segment.produce(names, table, index)
    except (KvserveError, OSError) as error:
        _log.error("worker %d cannot boot: %s", index, error)
        return exit_codes.CANNOT_BOOT
    try:
        return uvloop.run(_serve(names, manifest, table, page, store_url, index, control, ready))
    except Exception:
        _log.exception("worker %d crashed", index)
        return exit_codes.CRASHED
    finally:
        table.close()


async def _serve(
    names: Names,
    manifest: Manifest,
    table: Table,
    page: SettingsPage,
    store_url: str,
    index: int,
    control: int,
    ready: int,
) -> int:
    loop = asyncio.get_running_loop()
    try:
        worker = Worker(names, manifest, table, page, store_url, index, loop)
    except (KvserveError, OSError) as error:
        _log.error("worker %d cannot boot: %s", index, error)
        return exit_codes.CANNOT_BOOT
    loop.add_signal_handler(signal.SIGTERM, worker.drain)
    loop.add_signal_handler(signal.SIGQUIT, worker.stop, exit_codes.DONE)
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(ignored, signal.SIG_IGN)  # these signals are for the parent
    loop.add_reader(control, worker.stop, exit_codes.PARENT_GONE)
    gc.collect()
    gc.freeze()  # these objects stay: no collection need look at them again
    os.write(ready, b"1")
    os.close(ready)
    try:
        return await worker.finished()
    finally:
        await worker.close()


def _raise_descriptor_limit() -> None:
    """Each client costs two descriptors; take all that the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

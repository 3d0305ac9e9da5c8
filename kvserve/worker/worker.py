"""One worker process: attach, serve, drain, exit code.

Its way through a request: receive a frame from the queue or a FIFO, decode it, find its session,
execute it, reply. Nothing in that waits.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import time
from functools import partial
from typing import Any

import uvloop

from kvserve import limits
from kvserve.config import LOG_LEVELS, Config
from kvserve.errors import KvserveError, ServerBusy
from kvserve.live import feed_segment, settings
from kvserve.live.applying import Follower, differences
from kvserve.live.settings import SettingsPage
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.protocol.messages import (
    PROTOCOL_VERSION,
    STATUS_DONE,
    BadRequest,
    Reply,
    Request,
    decode_request,
    reply_of,
)
from kvserve.runtime import Manifest
from kvserve.table.lease import Lease
from kvserve.table.table import Table
from kvserve.transport.mqueue import ReceivingQueue
from kvserve.transport.spinning import Spin
from kvserve.worker import exit_codes
from kvserve.worker.backing import backing
from kvserve.worker.executor import Executor
from kvserve.worker.figures import Figures
from kvserve.worker.lines import PipeHandler
from kvserve.worker.sessions import Session, Sessions
from kvserve.worker.sweeper import Sweeper

_log = logging.getLogger(__name__)
_MESSAGES_A_TURN = 32  # then the FIFOs have their turn
_DRAIN_SECONDS = 2.0
_KEY_CHARACTERS = 100  # of a key in the log


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
        self._figures = Figures()
        self._requests = self._replies = self._bad = self._late = self._unknown = 0
        self._queue = ReceivingQueue(names.worker_queue(index), os.geteuid())
        self._lease = table.lease
        first = limits.LEASE_SLOT_WRITER_FIRST
        self._writer_slots = range(first, first + manifest.writers)
        self._table = table
        table.keep_request(index)
        self._executor = Executor(table, shards, self.stats)
        self._sessions = Sessions(
            names,
            loop,
            manifest.group_id,
            limits.frame_bytes_max(manifest.value_bytes_max),
            self._take,
        )
        self._latest: Session | None = None  # whose FIFO is looked at beside the queue
        self._sweeper = Sweeper(table, shards, loop)
        self._spin = Spin(0)
        self._follower = Follower(page, self._apply)
        config = self._follower.config
        self._backing = backing(store_url, config, table, shards, index, self._executor, loop)
        self._configure(self._follower.config)
        self._next_tick = loop.call_later(limits.TICK_SECONDS, self._tick)
        self._draining = False
        self._finished: asyncio.Future[int] = loop.create_future()
        loop.add_reader(self._queue.descriptor, self._receive)
        self._next_turn = loop.call_soon(self._look_on)

    async def finished(self) -> int:
        """Serves until told to stop; returns the exit code."""
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
                self._handle(frame, None)
        self._await_replies(time.monotonic() + _DRAIN_SECONDS)

    def _await_replies(self, deadline: float) -> None:
        idle = self._sessions.drained and (self._backing is None or self._backing.is_idle)
        if idle or time.monotonic() > deadline:
            self.stop(exit_codes.DONE)
        else:
            self._loop.call_later(0.01, self._await_replies, deadline)

    async def close(self) -> None:
        """Lets go of the store, the sessions and the queue."""
        self._next_tick.cancel()
        self._sweeper.stop()
        if self._backing is not None:
            await self._backing.close()
        self._follower.close()
        self._sessions.close_all()
        self._loop.remove_reader(self._queue.descriptor)
        self._next_turn.cancel()
        self._queue.close()

    def _receive(self) -> None:
        if self._look():
            self._look_on()

    def _look_on(self) -> None:
        """Looks for more, each time for a little while."""
        for _ in range(_MESSAGES_A_TURN):
            if not (self._spin.until(self._look) or self._look()):
                return
        # Not when the queue is readable: it may be empty just now, and to be woken takes long.
        self._next_turn = self._loop.call_soon(self._look_on)

    def _look(self) -> bool:
        """Takes one message, or what the latest session sent through its FIFO, if there is any."""
        frame = self._queue.receive()
        if frame is not None:
            self._latest = None
            self._handle(frame, None)
            return True
        return self._latest is not None and self._sessions.look(self._latest)

    def _take(self, frame: bytes, session: Session) -> None:
        """Takes a frame that came through a FIFO; its client's next may come the same way."""
        self._handle(frame, session)
        if self._latest is not session and not self._draining:
            self._latest = session
            self._next_turn.cancel()
            self._next_turn = self._loop.call_soon(self._look_on)

    def _handle(self, frame: bytes, session: Session | None) -> None:
        """Takes one frame; `session` is that of the FIFO through which it came, if it did."""
        started_ns = time.monotonic_ns()
        self._requests += 1
        try:
            request = decode_request(frame)
        except BadRequest as error:
            self._refuse(error, session)
            return
        client_id, request_id, command, deadline_ms, arguments = request
        if command is commands.HELLO:
            self._welcome(request)
            return
        if session is None:
            session = self._sessions.get(client_id)
            if session is None:
                self._unknown += 1
                return
        elif session.client_id != client_id:
            self._bad += 1
            return
        if started_ns > deadline_ms * 1_000_000:
            self._late += 1  # its client has given up: executing it now would surprise
            return
        if not self._sessions.has_room(session):
            busy = ServerBusy("this client has too many replies to read; read them first")
            self._reply(session, Reply.failure(request_id, busy))
            return
        self._table.begin_request(self._index, client_id, request_id)
        if self._backing is None:
            reply = reply_of((request_id, *self._executor.run(command.code, arguments)))
            self._table.end_request(self._index)
            self._answer(session, request, started_ns, reply)
        else:
            self._backing.submit(request, partial(self._answer, session, request, started_ns))
            self._table.end_request(self._index)

    def _answer(self, session: Session, request: Request, started_ns: int, reply: Reply) -> None:
        taken_ns = self._figures.note(request, reply, started_ns)
        if self._slow_seconds and taken_ns >= self._slow_seconds * 1e9:
            _log.warning("slow request: %s took %.3f ms", _describe(request), taken_ns / 1e6)
        self._sessions.reply(session, reply)
        self._replies += 1

    def _refuse(self, error: BadRequest, session: Session | None) -> None:
        self._bad += 1
        _log.debug("a bad frame: %s", error)
        if error.sender is None:
            return
        client_id, request_id = error.sender
        session = session or self._sessions.get(client_id)
        if session is not None and session.client_id == client_id:
            self._reply(session, Reply.failure(request_id, error))

    def _welcome(self, request: Request) -> None:
        session = self._sessions.open(request.client_id)
        if session is None:
            self._unknown += 1
            return
        answer = (PROTOCOL_VERSION, os.getpid())
        self._reply(session, Reply(request.request_id, STATUS_DONE, answer))

    def _reply(self, session: Session, reply: Reply) -> None:
        self._sessions.reply(session, reply)
        self._replies += 1

    def _tick(self) -> None:
        """What is done without being asked: one timer for all, as waking up costs most of it."""
        self._next_tick = self._loop.call_later(limits.TICK_SECONDS, self._tick)
        self._follow_settings()
        self._sweeper.turn()

    def _follow_settings(self) -> None:
        try:
            self._follower.poll()
        except KvserveError as error:
            _log.error("%s", error)

    def _apply(self, old: Config, new: Config) -> None:
        # The more talkative level of both, so that the change is not lost by the change. If that
        # is above info, or the parent, who filters too, was quicker, its line must do.
        _set_log_level(min(old.log_level, new.log_level, key=LOG_LEVELS.index))
        if changes := differences(old, new):
            _log.info("settings version %d: %s", self._follower.version, "; ".join(changes))
        self._configure(new)

    def _configure(self, config: Config) -> None:
        """Puts the live settings in force; called again with each change of them."""
        _set_log_level(config.log_level)
        self._executor.configure(config)
        if self._backing is not None:
            self._backing.configure(config)
        self._slow_seconds = config.slow_request
        self._spin.microseconds = config.spin

    def _count_writers(self) -> int:
        parent = os.getppid()  # who has a killed writer's slot while it tells of the death
        return sum(pid != parent for pid in self._lease.holders(self._writer_slots).values())

    def stats(self) -> dict[str, Any]:
        """This worker's own figures."""
        return {
            "index": self._index,
            "pid": os.getpid(),
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "settings_version": self._follower.version,
            "writers": self._count_writers(),
            "requests": self._requests,
            "replies": self._replies,
            "bad_requests": self._bad,
            "late_requests": self._late,
            "unknown_sessions": self._unknown,
            "cut_off_clients": self._sessions.cut_off,
            "sessions": len(self._sessions),
            "queue_length": self._queue.waiting,
            "cpu_seconds": round(time.process_time(), 3),
            **self._figures.stats(),
            "store": {} if self._backing is None else self._backing.stats(),
        }


def _describe(request: Request) -> str:
    """A request for the log: its command, and its key or how many operations. Never a value."""
    command = request.command
    if command is commands.BATCH or command.code in commands.SINGLE_OF:
        return f"{command.name} of {len(request.arguments[0])}"
    if command.fields and command.fields[0][0] == "key":
        return f"{command.name} {request.arguments[0]!r:.{_KEY_CHARACTERS}}"
    return command.name


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
    # All of it, until the settings say what is wanted. The parent, who reads it, filters too.
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
        signal.signal(ignored, signal.SIG_IGN)  # these are the parent's
    loop.add_reader(control, worker.stop, exit_codes.PARENT_GONE)
    gc.collect()
    gc.freeze()  # what is here stays: no collection need look at it again
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

"""The parent process: spawns, reaps, replaces and stops the workers, and serves no requests.

One loop over one selector, without threads. It handles four kinds of events: a worker wrote to a
pipe, a signal came, a worker is dead, a timer is due.

A stop is term, wait, kill. A worker that dies is replaced, and its locks are freed first, so that
no process waits for a dead one; `respawning` says when. Once the server has served, no failure in
here ends it; `attempts` says how.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import selectors
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from kvserve import limits
from kvserve.config import LOG_LEVELS, Config
from kvserve.errors import KvserveError
from kvserve.live import settings
from kvserve.live.applying import Follower, differences
from kvserve.names import Names, instance
from kvserve.parent.attempts import Attempts
from kvserve.parent.child import Child
from kvserve.parent.daemon import Daemon, launch, open_standard_descriptors
from kvserve.parent.doctor import start_checks
from kvserve.parent.instance_lock import claim, unlink_claim
from kvserve.parent.logs import Log
from kvserve.parent.prefault import touch_memory
from kvserve.parent.reloading import ConfigFile
from kvserve.parent.repair import Repair
from kvserve.parent.respawning import Respawns
from kvserve.parent.rounds import Rounds
from kvserve.parent.signals import SignalInbox
from kvserve.parent.starting import Instance, find_group, queue_mode, started
from kvserve.parent.timers import Timers
from kvserve.parent.workers import Workers
from kvserve.runtime import PidFile, prepared_directory
from kvserve.shortages import take_all_descriptors
from kvserve.store import urls
from kvserve.units import format_size
from kvserve.worker import exit_codes

BOOT_ATTEMPTS_MAX = 3  # deaths of one worker in a row before the server has ever served
QUIT_SECONDS = 1.0
REPEAT_SECONDS = 0.2  # a second signal to stop counts only after that
LOG_RETRY_SECONDS = 0.1


def serve(config: Config, *, config_file: Path | None = None, daemon: bool = False) -> int:
    """Serves an instance until a signal ends it.

    Args:
        config: from all sources.
        config_file: the file among them, to be read again on SIGHUP.
        daemon: serve in the background, and return when the server is ready.

    Returns:
        The exit status: 0, or 1 if the server ended by a failure, which is in the log.

    Raises:
        AlreadyServed: another server has this name.
        ConfigError: no such group, or a bad file.
        ForeignObject: an object of this name is another user's.
        LimitError: the system's limits do not allow it; the text says how to fix that.

    Example:
        >>> serve(Config(name="sessions", memory=256 * limits.MIB))  # doctest: +SKIP
        0
    """
    names = instance(config.name)
    # A daemon changes its working directory, so relative paths are made absolute here.
    names = Names(names.name, names.runtime_directory.absolute())
    config = dataclasses.replace(config, store=urls.absolute(config.store))
    file = None if config_file is None else ConfigFile(config_file.absolute(), config)
    open_standard_descriptors()
    if daemon:
        return launch(lambda ours: _live(names, config, file, ours), names.log_file)
    return _live(names, config, file, None)


def _live(names: Names, config: Config, file: ConfigFile | None, daemon: Daemon | None) -> int:
    """A server's whole life, in the background if there is a `daemon`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload before there is anything to reload
    os.umask(0o022)  # files that need another mode set it themselves
    take_all_descriptors()
    group_id = find_group(config)
    start_checks(names, config)
    urls.check(config.store)
    with ExitStack() as undo:
        undo.enter_context(prepared_directory(names, group_id))
        pid_file = claim(names)
        undo.callback(unlink_claim, names, pid_file)
        if group_id is not None:
            os.chown(names.pid_file, -1, group_id)
        if daemon is not None:
            daemon.open_log()
        log = Log(2, config.log_level, config.log_format)
        inbox = SignalInbox()
        undo.callback(inbox.close)
        running = undo.enter_context(started(names, config, group_id, log))
        parent = Parent(running, log, inbox, file, daemon, pid_file)
        undo.callback(parent.close)
        status = parent.run()
    log.info("stopped")
    return status


class Parent:
    """Supervises the workers of a started instance.

    Args:
        instance: what was made for them.
        log: the log of this process and its workers.
        inbox: the signals.
        file: what SIGHUP reads again, if there is a file.
        daemon: gets the report that the server is ready, if it is a daemon.
        pid_file: its lock says that the instance is served.
    """

    def __init__(
        self,
        instance: Instance,
        log: Log,
        inbox: SignalInbox,
        file: ConfigFile | None,
        daemon: Daemon | None,
        pid_file: PidFile,
    ) -> None:
        self._instance = instance
        self._config: Config = instance.config
        self._log = log
        self._inbox = inbox
        self._file = file
        self._daemon = daemon
        self._unserved: Counter[int] = Counter()  # deaths in a row before the first service
        self._respawns = Respawns()
        self._has_served = False
        self._is_stopping = False
        self._stopping_since = 0.0
        self._status = 0
        self._timers = Timers()
        self._attempts = Attempts(log, self._timers, lambda: self._has_served)
        self._selector = selectors.DefaultSelector()
        self._follower = Follower(
            settings.attach(instance.names, os.geteuid()), self.apply_settings
        )
        self._workers = Workers(
            instance.names,
            instance.config.store,
            instance.held.table,
            log,
            self._selector,
            in_child=self._become_child,
            on_serving=self._on_worker_ready,
            on_end=self._on_worker_exit,
        )
        repair = Repair(
            instance.names,
            instance.manifest,
            queue_mode(instance.config),
            pid_file,
            daemon,
            log,
            self._workers.replace,
        )
        self._rounds = Rounds(instance, repair, self._timers, log, self._fail)
        self._handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self.handle_term,
            signal.SIGINT: self.handle_term,
            signal.SIGQUIT: self.handle_quit,
            signal.SIGHUP: self.handle_hup,
            signal.SIGUSR1: self.handle_usr1,
        }

    def run(self) -> int:
        """Serves until a signal or a failure ends it; returns the exit status."""
        self._selector.register(self._inbox, selectors.EVENT_READ, lambda: None)
        self._rounds.begin()
        gc.freeze()  # a worker's first collection then neither visits nor copies what it inherits
        for index in range(self._config.workers):
            self.spawn_worker(index)
        while self._workers or not self._is_stopping:
            self._attempts.run("the parent's loop", self._turn)
        return self._status

    def _turn(self) -> None:
        """Waits for events, and handles all that came."""
        attempts = self._attempts
        events = self._selector.select(self._timers.seconds_left())
        # First, so that a line which a worker logs after a change is filtered by the new level.
        # The workers poll, and each logs what it applied: so the parent needs no timer for it.
        attempts.run("looking at the settings", self.follow_settings)
        for key, _ in events:
            attempts.run("reading from a worker", key.data)
        # Signals before deaths: a worker that a signal to the whole process group killed must not
        # look like a failure. Both after the pipes, so that none is closed while its event waits.
        for number in dict.fromkeys(self._inbox.take()):  # several of a kind count once
            if handler := self._handlers.get(number):
                attempts.run(number.name, handler)
        # Even without SIGCHLD: two deaths close together may make one signal.
        attempts.run("cleaning up after a worker", self._workers.reap)
        self._timers.run_due(attempts.run_timer)
        if not self._log.flush():
            self._timers.set("log", LOG_RETRY_SECONDS, lambda: None)

    def close(self) -> None:
        """Kills what is left of the workers, if the loop ended by an error."""
        self._is_stopping = True
        self._workers.kill()
        self._follower.close()
        self._selector.close()

    # Spawn and replace.

    def spawn_worker(self, index: int) -> None:
        """Forks worker `index`; tries again later if the system refuses."""
        try:
            self._workers.spawn(index)
        except OSError as error:
            self._log.error(f"worker {index} cannot be forked: {error.strerror}")
            self._replace(index, has_served=False)

    def _on_worker_ready(self, child: Child) -> None:
        if self._has_served:
            self._log.info(f"{child.title} serves")
            return
        if sum(child.is_serving for child in self._workers) < self._config.workers:
            return
        self._has_served = True
        self._instance.held.is_kept = self._config.keep
        workers = self._config.workers
        self._log.info(
            f"ready: instance {self._instance.names.name!r}, pid {os.getpid()}, "
            f"{workers} worker{'s' if workers > 1 else ''}, "
            f"{format_size(self._instance.geometry.memory_bytes)}, "
            f"{self._instance.held.items} items kept from before"
        )
        if self._daemon is not None:
            self._daemon.ready()
        touch_memory(self._instance.held.table, self._timers)

    def _on_worker_exit(self, child: Child, code: int, phrase: str) -> None:
        text = f"{child.title} {phrase}"
        if self._is_stopping:
            self._log.write("debug" if code == exit_codes.DONE else "warning", text)
            return
        self._log.error(text)
        if code == exit_codes.CANNOT_BOOT and not self._has_served:
            self._fail(f"worker {child.index} cannot boot, so the server stops")
            return
        self._replace(child.index, has_served=child.is_serving)

    def _replace(self, index: int, *, has_served: bool) -> None:
        if not self._has_served:
            self._unserved[index] = 0 if has_served else self._unserved[index] + 1
            if self._unserved[index] >= BOOT_ATTEMPTS_MAX:
                times = f"{self._unserved[index]} times in a row"
                self._fail(f"worker {index} failed {times}, so the server stops")
                return
        pause = self._respawns.pause(index, has_served=has_served)
        self._timers.set(f"worker {index}", pause, partial(self.spawn_worker, index))

    def _become_child(self) -> None:
        """Closes, in a new worker, what belongs to the parent alone."""
        self._inbox.close_in_child()
        self._follower.close()
        self._instance.held.table.close()
        if self._daemon is not None:
            self._daemon.close_in_child()

    # Stop.

    def handle_term(self) -> None:
        """TERM and INT: lets the workers finish what they received. The second time: quits."""
        if self._is_stopping:
            # A tool that signals a process and then its group, as timeout(1) does, means one stop.
            if time.monotonic() - self._stopping_since >= REPEAT_SECONDS:
                self.handle_quit()
            return
        self._log.info("stopping: workers finish what they received")
        self._stop(signal.SIGTERM, limits.STOP_SECONDS)

    def handle_quit(self) -> None:
        """QUIT: ends the workers at once."""
        self._log.info("stopping at once")
        self._stop(signal.SIGQUIT, QUIT_SECONDS)

    def _fail(self, text: str) -> None:
        self._log.error(text)
        self._status = 1
        self._stop(signal.SIGTERM, limits.STOP_SECONDS)

    def _stop(self, number: signal.Signals, seconds: float) -> None:
        self._is_stopping = True
        self._stopping_since = time.monotonic()
        self._timers.clear()
        self._timers.set("kill", seconds, self.kill_workers)
        self._workers.send(number)

    def kill_workers(self) -> None:
        """KILL: for workers that did not leave in time."""
        for child in self._workers:
            self._log.warning(f"{child.title} did not leave in time and is killed")
        self._workers.send(signal.SIGKILL)

    # Signals that do not stop.

    def handle_hup(self) -> None:
        """HUP: reopens the log and reads the configuration file again: both, or nothing."""
        try:
            if self._daemon is not None:
                self._daemon.open_log()
            if self._file is None:
                self._log.info("reload: there is no configuration file; start with --config")
                return
            remarks = self._file.publish(
                self._instance.names, self._instance.geometry.value_bytes_max
            )
        except Exception as error:  # the next HUP is the next attempt
            self._log.error(f"reload: nothing changed: {error or type(error).__name__}")
            return
        version = self._follower.version
        self.follow_settings()
        for level, text in remarks:
            self._log.write(level, f"reload: {text}")
        if not remarks and self._follower.version == version:
            self._log.info("reload: nothing changed")

    def follow_settings(self) -> None:
        """Applies published settings."""
        try:
            self._follower.poll()
        except KvserveError as error:
            self._log.error(str(error))

    def apply_settings(self, old: Config, new: Config) -> None:
        """Changes the log's level, the one live setting that is the parent's."""
        # The more verbose of both levels, so that the change of the level itself is logged.
        self._log.level = min((old.log_level, new.log_level), key=LOG_LEVELS.index)
        if changes := differences(old, new):
            self._log.info(f"settings version {self._follower.version}: {'; '.join(changes)}")
        self._log.level = new.log_level

    def handle_usr1(self) -> None:
        """USR1: logs the statistics."""
        table = self._instance.held.table
        hits, misses = table.reads()
        totals = {
            "workers": sum(child.is_serving for child in self._workers),
            "respawns": self._respawns.count,
            "hits": hits,
            "misses": misses,
        }
        for shard in range(table.shards):
            for name, count in table.shard_stats(shard).items():
                totals[name] = totals.get(name, 0) + count
        counts = " ".join(f"{name}={count}" for name, count in totals.items())
        self._log.info(f"statistics: {counts}")

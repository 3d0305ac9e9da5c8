"""What the parent does by the clock: sweeps FIFOs, cleans up after writers, watches the names."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvserve.names import memory_path
from kvserve.parent.housekeeping import sweep_dead_fifos
from kvserve.parent.logs import Log
from kvserve.parent.repair import Repair
from kvserve.parent.starting import Instance
from kvserve.parent.timers import Timers

FIFO_SWEEP_SECONDS = 10.0
FIFO_PAUSE_SECONDS = 0.05  # between two pieces of a sweep
NAME_WATCH_SECONDS = 1.0  # 0.1 ms each, with 256 shards 1.4 ms
WRITERS_SECONDS = 0.5


class Rounds:
    """Sets its timers anew each time. `attempts` sets the timer of a failed action again.

    Args:
        instance: the parent's.
        repair: of its names.
        timers: the parent's.
        log: where it logs what it did.
        stop: ends the server, given the reason.
    """

    def __init__(
        self,
        instance: Instance,
        repair: Repair,
        timers: Timers,
        log: Log,
        stop: Callable[[str], None],
    ) -> None:
        self._instance = instance
        self._repair = repair
        self._timers = timers
        self._log = log
        self._stop = stop
        self._sweep: Iterator[int] | None = None

    def begin(self) -> None:
        """Sets the timers."""
        self._timers.set("watching the names", NAME_WATCH_SECONDS, self.watch_names)
        self._timers.set("sweeping the FIFOs", FIFO_SWEEP_SECONDS, self.sweep_fifos)
        if self._instance.config.writers:
            self._timers.set("reaping writers", WRITERS_SECONDS, self.reap_writers)

    def sweep_fifos(self) -> None:
        """Removes dead clients' FIFOs, piece by piece, and again ten seconds after the last."""
        sweep, self._sweep = self._sweep or sweep_dead_fifos(self._instance.names), None
        removed = next(sweep, None)
        if removed:
            self._log.debug(f"removed {removed} FIFOs of clients that are gone")
        if removed is not None:
            self._sweep = sweep
        pause = FIFO_SWEEP_SECONDS if removed is None else FIFO_PAUSE_SECONDS
        self._timers.set("sweeping the FIFOs", pause, self.sweep_fifos)

    def reap_writers(self) -> None:
        """Frees the locks of dead trusted writers, now and from time to time."""
        if freed := self._instance.writers.reap_writers():
            self._log.info(f"freed {freed} locks that a killed writer held")
        self._timers.set("reaping writers", WRITERS_SECONDS, self.reap_writers)

    def watch_names(self) -> None:
        """Makes removed objects again; stops the server if one cannot be made again."""
        names = self._instance.names
        if lost := self._repair.lost():
            if {str(memory_path(names.table)), str(memory_path(names.hints))} & set(lost):
                self._instance.held.is_kept = False  # half a table is of no use
            self._stop(
                f"{lost[0]} was removed by another process, so new clients cannot see this server; "
                "it stops. If a user's logout did it, see systemd's RemoveIPC and kvserve doctor"
            )
            return
        self._repair.repair()
        self._timers.set("watching the names", NAME_WATCH_SECONDS, self.watch_names)

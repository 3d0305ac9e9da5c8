"""The worker processes as a set: spawned, read from, reaped and cleaned up after. Decides nothing.

The parent decides what to do when a worker dies or is ready.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections.abc import Callable, Iterator
from functools import partial

from kvserve import limits
from kvserve.names import Names
from kvserve.parent.child import Child, describe_end, fork_worker
from kvserve.parent.logs import Log, OutputPipe
from kvserve.table.table import Table


class Workers:
    """The workers that live, or are dead and not reaped yet.

    Args:
        names: the instance's.
        store_url: of the store behind the table, passed to the workers.
        table: the parent's; frees the locks of dead workers.
        log: where their output goes.
        selector: what the parent waits with. Its keys' data are functions to call.
        in_child: closes the parent's descriptors in a worker, beside its siblings' pipes.
        on_serving: called when a worker reports that it serves.
        on_end: called after the clean-up with the worker, its exit code (negative: the signal
            that killed it) and a phrase for it.
    """

    def __init__(
        self,
        names: Names,
        store_url: str,
        table: Table,
        log: Log,
        selector: selectors.BaseSelector,
        *,
        in_child: Callable[[], None],
        on_serving: Callable[[Child], None],
        on_end: Callable[[Child, int, str], None],
    ) -> None:
        self._names = names
        self._store_url = store_url
        self._table = table
        self._log = log
        self._selector = selector
        self._in_child = in_child
        self._on_serving = on_serving
        self._on_end = on_end
        self._by_pid: dict[int, Child] = {}

    def __len__(self) -> int:
        return len(self._by_pid)

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._by_pid.values()))

    def spawn(self, index: int) -> None:
        """Forks worker `index` and watches its pipes.

        Raises:
            OSError: the system refused; there is no such worker now.
        """
        child = fork_worker(self._names, index, self._store_url, self._log, self._become_child)
        self._by_pid[child.pid] = child
        try:
            for output in child.outputs:
                self._listen(output, partial(self._pump, child, output))
            if child.ready is not None:
                self._listen(child.ready, partial(self._hear_ready, child))
        except OSError as error:  # of no use if its pipes are not read; it is reaped later
            self._log.error(f"{child.title} cannot be read from: {error.strerror}")
            os.kill(child.pid, signal.SIGKILL)

    def reap(self) -> None:
        """Reaps and cleans up after every dead worker."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # As pid 1 of a container we also inherit orphans that are not our workers.
            if child := self._by_pid.pop(pid, None):
                self._clean_up_after(child, status)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to all of them."""
        # A pid stays its worker's until it is reaped, and only this class reaps.
        for pid in self._by_pid:
            with contextlib.suppress(OSError):  # the others must get it, too
                os.kill(pid, number)

    def replace(self, index: int) -> None:
        """Makes worker `index` finish what it received, and leave."""
        for child in self:
            if child.index == index:
                os.kill(child.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kills all that are left, and reaps them."""
        self.send(signal.SIGKILL)
        for child in self:
            _, status = os.waitpid(child.pid, 0)
            self._clean_up_after(self._by_pid.pop(child.pid), status)

    def _clean_up_after(self, child: Child, status: int) -> None:
        """Frees a dead worker's locks, logs its last output, and calls `on_end` in any case.

        This runs once for a worker, so a failure here must not cost it its successor.
        """
        code, phrase = describe_end(status)
        try:
            # First of all, so that no process waits for a dead one. If it fails, a process that
            # meets the lock takes it from the dead one itself.
            freed = self._table.recover(limits.LEASE_SLOT_WORKER_FIRST + child.index)
            if freed:
                phrase += f"; freed {freed} locks that it held"
            with contextlib.suppress(BlockingIOError):
                if child.ready is not None and os.read(child.ready, 1):
                    child.is_serving = True  # it served, and died before its report was read
        finally:
            try:
                self._close_pipes(child)
            finally:
                self._on_end(child, code, phrase)

    def _close_pipes(self, child: Child) -> None:
        descriptors = child.descriptors()
        try:
            for output in child.outputs:
                output.drain()  # what it printed last
            for source in (child.ready, *child.outputs):
                if source is not None:
                    self._ignore(source)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _pump(self, child: Child, output: OutputPipe) -> None:
        if not output.pump():
            # End-of-file: the worker is about to be reaped, or it closed its output.
            output.drain()
            self._ignore(output)
            child.outputs.remove(output)
            output.close()

    def _hear_ready(self, child: Child) -> None:
        assert child.ready is not None
        word = os.read(child.ready, 1)
        self._ignore(child.ready)
        ready, child.ready = child.ready, None
        os.close(ready)
        if word:  # empty: the worker is dead, and will be reaped
            child.is_serving = True
            self._on_serving(child)

    def _listen(self, source: OutputPipe | int, react: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, react)

    def _ignore(self, source: OutputPipe | int) -> None:
        with contextlib.suppress(KeyError):  # it could not be registered
            self._selector.unregister(source)

    def _become_child(self) -> None:
        """Closes, in a new worker, its siblings' pipes and the selector."""
        # Closing is enough: unregistering would change the parent's epoll instance too.
        self._selector.close()
        for sibling in self:
            for descriptor in sibling.descriptors():
                os.close(descriptor)
        self._in_child()

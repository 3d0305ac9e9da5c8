"""The worker processes as a set: spawned, listened to, reaped, buried. Decides nothing.

What a death or a readiness means, and what is to be done about it, is the parent's to say.
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
    """The workers that live, or are dead and not buried yet.

    Args:
        names: whose.
        store_url: of the store behind the table, for them.
        table: the parent's; frees the locks of the dead.
        log: where their output goes.
        selector: what the parent waits with. Its keys' data are functions to call.
        in_child: closes what a worker must not have of the parent's, beside its siblings' pipes.
        on_serving: called when a worker says that it serves.
        on_end: called after a burial with the worker, its exit code (negative: the signal that
            killed it) and a phrase that tells it.
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
        """Forks worker `index` and listens to it.

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
        except OSError as error:  # a worker that nobody hears is none; its end is heard of
            self._log.error(f"{child.title} cannot be listened to: {error.strerror}")
            os.kill(child.pid, signal.SIGKILL)

    def reap(self) -> None:
        """Buries every worker that is dead."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # As pid 1 of a container we also inherit other people's orphans.
            if child := self._by_pid.pop(pid, None):
                self._clean_up_after(child, status)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to all of them."""
        # A pid stays its worker's until it is reaped, and nobody else reaps.
        for pid in self._by_pid:
            with contextlib.suppress(OSError):  # the others must get it, too
                os.kill(pid, number)

    def replace(self, index: int) -> None:
        """Has worker `index` finish what it received, and leave."""
        for child in self:
            if child.index == index:
                os.kill(child.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kills all that are left, and buries them."""
        self.send(signal.SIGKILL)
        for child in self:
            _, status = os.waitpid(child.pid, 0)
            self._clean_up_after(self._by_pid.pop(child.pid), status)

    def _clean_up_after(self, child: Child, status: int) -> None:
        """Frees what a dead worker held, hears its last words, and tells the parent, at any rate.

        It is buried once: whatever fails here must not cost it its successor.
        """
        code, phrase = describe_end(status)
        try:
            # First of all, so that nobody waits for a dead process. Should it fail, those who
            # meet the lock take it from the dead themselves.
            freed = self._table.recover(limits.LEASE_SLOT_WORKER_FIRST + child.index)
            if freed:
                phrase += f"; freed {freed} locks that it held"
            with contextlib.suppress(BlockingIOError):
                if child.ready is not None and os.read(child.ready, 1):
                    child.is_serving = True  # it has served, and died before that was heard
        finally:
            try:
                self._close_pipes(child)
            finally:
                self._on_end(child, code, phrase)

    def _close_pipes(self, child: Child) -> None:
        descriptors = child.descriptors()
        try:
            for output in child.outputs:
                output.drain()  # its last words
            for source in (child.ready, *child.outputs):
                if source is not None:
                    self._ignore(source)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _pump(self, child: Child, output: OutputPipe) -> None:
        if not output.pump():
            # The end of the file: it is about to be reaped, or it closed its output.
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
        if word:  # none: it is dead, and will be reaped
            child.is_serving = True
            self._on_serving(child)

    def _listen(self, source: OutputPipe | int, react: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, react)

    def _ignore(self, source: OutputPipe | int) -> None:
        with contextlib.suppress(KeyError):  # it could not be listened to
            self._selector.unregister(source)

    def _become_child(self) -> None:
        """Closes, in a new worker, its siblings' pipes and the selector."""
        # Closing is enough: unregistering would change the parent's epoll instance too.
        self._selector.close()
        for sibling in self:
            for descriptor in sibling.descriptors():
                os.close(descriptor)
        self._in_child()

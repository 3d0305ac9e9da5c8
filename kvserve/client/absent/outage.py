"""A client's view of a server that does not answer: a circuit breaker, and what was lost meanwhile.

The first error opens the breaker: from then on nothing is sent, so that no request waits for a dead
or a hung server. A thread asks in the requests' place, at once and then in growing pauses. When all
workers have answered, they have been told what was lost, before anything else is sent, and requests
go through again. What was lost in this last moment is missing until the next round has told that,
too, at once; a value that is written under such a key just then may be deleted with it. If all had
to be told before, a program that writes all the time would wait for ever: there is always something
new. The store's breaker (store/breaker.py) lets a request be the probe; here that would cost it the
client's whole timeout each time where a worker hangs.

A forked child has what was lost in its memory, and begins a thread of its own at its first loss or
its first read of a lost key.
"""

from __future__ import annotations

import _thread
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any

from kvserve.client import deadlines, forks
from kvserve.client.absent.lost import Lost, LostKeys, Told
from kvserve.client.calls.operations import Key
from kvserve.descriptors import fork_count
from kvserve.errors import (
    KvserveError,
    LockLost,
    LockTimeout,
    ServerError,
    StoreUnavailable,
    UnreadableValue,
    WorkerCrashed,
    WriteRefused,
)
from kvserve.names import Names
from kvserve.table._core import check_key

LOG_SECONDS = 1.0
_PAUSE_SECONDS_FIRST = 0.02
_PAUSE_SECONDS_MAX = 0.5
_ROUNDS_MAX = 5  # without a pause
# Of one request, or its key: others may well be answered.
_OF_ONE_REQUEST = (
    *(StoreUnavailable, WorkerCrashed, WriteRefused),
    *(LockTimeout, LockLost, UnreadableValue),
)
_log = logging.getLogger(__name__)


class Outage:
    """Whether the server answers, and what was lost while it did not.

    Args:
        names: the instance's.
        tell: asks all workers whether they live, and tells them what was lost; raises if they do
            not answer. Called in a thread of its own.
        owner: the client; when it is gone, so is the thread.
    """

    def __init__(self, names: Names, tell: Callable[[Told], None], owner: object) -> None:
        self.keys = LostKeys(on_change=self._hide_some)
        self._names = names
        self._tell = tell
        self._owner = weakref.ref(owner)
        # While the breaker is open, as it is while any key is lost.
        self.error: KvserveError | None = None
        self._answers = False  # again: only what was lost in the last moment is to be told
        self._reads = 0
        self._writes = 0
        self._logged_at = -LOG_SECONDS
        self._mending_since = -1  # the count of forks when the thread was begun
        self.is_over = False  # the client was closed
        _all_outages.add(self)

    @property
    def lost(self) -> Lost:
        """The counts."""
        keys, error = self.keys, self.error
        return Lost(
            self._reads,
            self._writes,
            len(keys),
            keys.is_everything,
            None if error is None else _text(error),
        )

    def check(self) -> None:
        """Raises the server's last error if the breaker is open: nothing is sent then."""
        error = self.error
        if error is not None:
            self._mend()
            if not self._answers:
                raise type(error)(*error.args)

    def failed(self, error: ServerError) -> None:
        """A request that was sent, or should have been, has failed."""
        if isinstance(error, _OF_ONE_REQUEST) or deadlines.is_over():
            return  # also a caller who had too little time
        self.error = error
        self._answers = False
        self._mend()

    def lose_read(self, error: ServerError) -> None:
        """A read is answered as a miss."""
        self._reads += 1
        self._tell_log(error)

    def lose_write(self, error: ServerError, keys: list[Key] | None) -> None:
        """A write is lost, of these keys; None: it was about everything."""
        self._writes += 1
        if keys is None:
            self.keys.add_everything()
        else:
            self.keys.add(keys)
        # Whatever the error was: while there is something to tell, nothing else is sent.
        self.error = error
        self._answers = False
        self._mend()
        self._tell_log(error)

    def has_lost(self, key: Key) -> bool:
        """Whether a key is missing until the server has been told."""
        if not self.keys:
            return False
        check_key(key)
        if not self.keys.has(key):
            return False
        self._mend()
        return True

    def _hide_some(self, are_some: bool) -> None:
        owner: Any = self._owner()
        if owner is not None:
            owner._reader._hides_some = are_some
            owner._reader._hides_tagged = self.keys.has_tags

    def _tell_log(self, error: ServerError) -> None:
        now = time.monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            _log.warning(
                "kvserve %r: reads are misses and writes are lost (%d and %d so far): %s",
                self._names.name,
                self._reads,
                self._writes,
                _text(error),
            )

    def _mend(self) -> None:
        """Begins the thread, unless this process has one."""
        now = fork_count()
        if self._mending_since != now:
            self._mending_since = now
            try:
                _thread.start_new_thread(_mend, (weakref.ref(self), self._owner))
            except RuntimeError:  # no thread can be begun; the next loss tries again
                self._mending_since = -1

    def mend_once(self) -> bool:
        """Asks the server, and tells it what was lost; returns whether the thread may end."""
        for _ in range(_ROUNDS_MAX):
            told = self.keys.to_tell()
            try:
                self._tell(told)
            except ServerError as error:
                self._answers = False
                if self.error is not None:
                    self.error = error
                return False
            except BaseException:
                self._mending_since = -1  # the next loss tries again
                raise
            self._answers = True
            if self.keys.forget(told):
                break
        else:  # it answers, and what it is asked to store it loses: that may take long
            return False
        before, self.error = self.error, None
        self._mending_since = -1
        if self.keys:  # lost since `forget`; it found a thread, this one
            self.error = before
            self._mend()
            return True
        _log.warning(
            "kvserve %r answers again: %d reads were misses and %d writes were lost",
            self._names.name,
            self._reads,
            self._writes,
        )
        return True

    def become_child(self) -> None:
        """In a forked child."""
        self.keys.renew_lock()


def _mend(reference: weakref.ref[Outage], owner: weakref.ref[object]) -> None:
    pause_seconds = _PAUSE_SECONDS_FIRST
    began = fork_count()
    while fork_count() == began:
        outage = reference() if owner() is not None else None
        if outage is None or outage.is_over or outage.mend_once():
            return
        del outage  # nothing refers to it while the thread sleeps
        time.sleep(pause_seconds)
        pause_seconds = min(1.5 * pause_seconds, _PAUSE_SECONDS_MAX)


def _text(error: KvserveError) -> str:
    return str(error) or type(error).__name__


# See forks.py.
_all_outages: weakref.WeakSet[Outage] = weakref.WeakSet()


def _become_child() -> None:
    for outage in list(_all_outages):
        outage.become_child()


forks.in_child(_become_child)

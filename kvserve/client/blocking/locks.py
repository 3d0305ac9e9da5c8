"""Locks and limiters of the blocking client, and the thread that renews claims."""

from __future__ import annotations

import _thread
import weakref
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from kvserve.client._scopes import Holder
from kvserve.client.calls.operations import TTL
from kvserve.client.contract import Cache
from kvserve.client.recipes.claims import RENEWALS_A_TTL, Claim
from kvserve.client.recipes.driver import Driver, run_to_end
from kvserve.client.recipes.limiters import Hit, LimiterTerms, Sliding, Usage, as_hit
from kvserve.client.recipes.locks import LockState
from kvserve.errors import KvserveError


class Lock(LockState, Holder):
    """A lock between processes, threads and tasks; made by `Client.lock`.

    Threads may share the object: one at a time holds it.

    Example:
        >>> with cache.lock("nightly-job", ttl=30) as lock:
        ...     lock.held
        True
    """

    def __init__(
        self,
        client: Cache,
        path: Sequence[str],
        name: str,
        *,
        ttl: TTL,
        timeout: float | None,
        renew: bool,
        max_hold: TTL,
        thread_bound: bool,
    ) -> None:
        super().__init__(Driver.of(client), path, name, ttl, timeout, renew, max_hold)
        self._thread_bound = thread_bound
        self._waits_for_itself = not thread_bound

    def _keep(self, claim: Claim, until_ms: float) -> None:
        keep_in_thread(claim, self._driver, until_ms, bound=self._thread_bound)

    def locked(self) -> bool:
        """Whether anybody holds the lock: this object or another, in any process.

        It is read from shared memory. Only where that cannot tell, as with a store behind it, a
        worker is asked. The answer may be outdated when it is there: to take the lock, acquire it.

        Raises:
            ServerError: a worker had to be asked, and did not answer.

        Example:
            >>> lock = cache.lock("looked at")
            >>> with cache.lock("looked at"):
            ...     lock.locked(), lock.held
            (True, False)
            >>> lock.locked()
            False
        """
        return run_to_end(self._is_locked())

    def _take(self, blocking: bool | None, timeout: float | None) -> Claim | None:
        return run_to_end(self._got(blocking, timeout))

    def _give_back(self, claim: Claim | None) -> None:
        run_to_end(self._end(claim))

    def _leave(self, claim: Claim | None, exception_type: type[BaseException] | None) -> None:
        try:
            run_to_end(self._end(claim))
        except KvserveError:
            if exception_type is None:  # else the block's own exception matters more
                raise


class Limiter(LimiterTerms):
    """A rate limit that all processes share; made by `Client.limiter`.

    Example:
        >>> limiter = cache.limiter("login", rate=2, per=60)
        >>> [bool(limiter.hit("192.0.2.7")) for attempt in range(3)]
        [True, True, False]
    """

    def __init__(
        self,
        client: Cache,
        prefix: Callable[[], str],
        name: str,
        rate: int,
        per: TTL,
        sliding: Sliding,
    ) -> None:
        super().__init__(name, rate=rate, per=per, sliding=sliding)
        self._client = client
        self._operations = client._operations
        self._prefix = prefix  # of the namespace's keys, now

    def hit(self, id: str | int, cost: int = 1) -> Hit:
        """Counts a hit, if the limit allows it.

        Args:
            id: whose hit: an address, a user's number; each id has a limit of its own.
            cost: how many hits this one counts for; all of them are counted, or none. One that is
                more than the rate is always refused.

        Raises:
            InvalidArgument: the cost is no positive int, or the id is not valid.
            OutcomeUnknown: a worker died; it was counted once or not at all.

        Example:
            >>> hit = cache.limiter("search", rate=10, per=1.5).hit("Ada", cost=4)
            >>> hit.allowed, hit.remaining, hit.retry_after
            (True, 6, 0.0)
        """
        return as_hit(self._client._run(self._hit(self._operations, self._prefix(), id, cost)))

    def peek(self, id: str | int) -> Usage:
        """Looks at what is counted for an id; counts nothing, changes nothing.

        Another process may hit between a look and what is made of it. To be exact, hit.

        Raises:
            InvalidArgument: the id is not valid.

        Example:
            >>> limiter = cache.limiter("export", rate=3, per=3600)
            >>> limiter.hit("Ada").remaining, limiter.peek("Ada").remaining
            (2, 2)
            >>> usage = limiter.peek("Ada")
            >>> usage.used, 0 < usage.reset_after <= 3600, bool(usage)
            (1, True, True)
        """
        return self._as_usage(self._client._run(self._peek(self._operations, self._prefix(), id)))

    def reset(self, id: str | int) -> bool:
        """Forgets all hits of an id; returns whether there were any.

        Raises:
            InvalidArgument: the id is not valid.

        Example:
            >>> limiter = cache.limiter("reset", rate=1, per=60)
            >>> bool(limiter.hit("Ada")), limiter.reset("Ada"), bool(limiter.hit("Ada"))
            (True, True, True)
        """
        return bool(self._client._run(self._reset(self._operations, self._prefix(), id)))


def keep_in_thread(claim: Claim, driver: Driver, until_ms: float, *, bound: bool) -> None:
    """Keeps a claim of a blocking client alive, in a thread that an exit does not wait for.

    Args:
        bound: whether to stop when the calling thread has ended.

    Raises:
        RuntimeError: no thread can be started.
    """
    # Its `put` is a function in C: waking the thread cannot be interrupted half way.
    woken: SimpleQueue[object] = SimpleQueue()
    if bound:
        claim.bind(woken.put)
    claim.when_over(woken.put)
    reference = weakref.ref(claim, woken.put)
    pause_seconds = claim.ttl_ms / 1000 / RENEWALS_A_TTL
    # Not `threading.Thread`, whose `start` does not survive an exception from a signal's handler.
    _thread.start_new_thread(_keep, (reference, driver, woken, pause_seconds, until_ms))


def _keep(
    reference: weakref.ref[Claim],
    driver: Driver,
    woken: SimpleQueue[object],
    pause_seconds: float,
    until_ms: float,
) -> None:
    going_on = True
    while going_on:
        try:
            woken.get(timeout=pause_seconds)
            return
        except Empty:
            going_on = _keep_once(reference, driver, until_ms)


def _keep_once(reference: weakref.ref[Claim], driver: Driver, until_ms: float) -> bool:
    # A function of its own, so that nothing refers to the claim while the thread sleeps.
    claim = reference()
    return claim is not None and run_to_end(claim.keep(driver, until_ms))

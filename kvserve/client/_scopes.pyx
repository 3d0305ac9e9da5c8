"""Vouches for a claim while a call or a block lasts, and not a moment longer.

Python runs signal handlers, and raises exceptions that were sent to a thread (Ctrl-C, a time limit,
a kill), between any two calls: even before the first line of a `finally`, a `release` or an
`__exit__`. So no Python code can promise to be run when a block is left. A C function can: nothing
of the kind happens between its own steps. This file has the few steps that need it.

Must not know what is claimed, nor how.
"""

from posix.unistd cimport getpid

import inspect
import threading
from weakref import ref

from kvserve.errors import LockLost, MisuseError

cdef enum State:
    NEW  # not vouched for yet
    GIVEN
    OVER


cdef class _Alive:
    """Lives as long as the thread that it was made in: nothing else refers to it for long."""

    cdef object __weakref__


_here = threading.local()


cdef object this_thread():
    """The object that stands for this thread, of whatever kind the thread is."""
    alive = getattr(_here, "alive", None)
    if alive is None:
        alive = _here.alive = _Alive()
    return alive


cdef class Vouched:
    """A claim that may be renewed only while it is vouched for.

    That is from the moment an `acquire` returns until a `release` or `__exit__` begins, or while
    the function runs that `vouched` calls; and only while this object lives, in the process that
    made it, and as long as the thread lives that it was bound to.

    Example:
        >>> claim = Vouched()
        >>> vouched(claim, lambda: claim.is_vouched), claim.is_vouched
        (True, False)
    """

    cdef State _state
    cdef int _pid
    cdef object _owner  # a weak reference to the thread or the task that holds it
    cdef bint _bound
    cdef object _wake
    cdef object __weakref__

    def __cinit__(self, *_, **__):
        self._state = NEW
        self._pid = getpid()
        self._owner = None
        self._bound = False
        self._wake = None

    @property
    def is_ours(self):
        """Whether this process made it, and is no fork of the one that did."""
        return self._pid == getpid()

    @property
    def is_vouched(self):
        """Whether it may be renewed now."""
        return self._state == GIVEN and self._pid == getpid() and self._is_owned()

    @property
    def may_be_vouched(self):
        """Whether it may be renewed now, or later."""
        return self._state != OVER and self._pid == getpid() and self._is_owned()

    cdef bint _is_owned(self):
        return not self._bound or self._owner is None or self._owner() is not None

    def bind(self, wake):
        """Binds it to this thread.

        Args:
            wake: called with one argument when the thread has ended.
        """
        self._owner = ref(this_thread(), wake)
        self._bound = True

    def when_over(self, wake):
        """Sets what to call, with one argument, when it is no longer vouched for: a C function."""
        self._wake = wake

    cpdef withdraw(self):
        """From now on it is not vouched for."""
        self._state = OVER
        wake, self._wake = self._wake, None
        if wake is not None and self._pid == getpid():
            wake(None)


def vouched(Vouched claim not None, function):
    """Runs a function that may take long; vouches for the claim meanwhile; returns its result."""
    claim._state = GIVEN
    try:
        return function()
    finally:
        claim.withdraw()


async def vouched_async(Vouched claim not None, function):
    """The same for a function or a coroutine function."""
    claim._state = GIVEN
    try:
        value = function()
        if inspect.isawaitable(value):
            value = await value
        return value
    finally:
        claim.withdraw()


def with_value(variable not None, value, function, *args):
    """Runs a function while the context variable has this value; returns its result."""
    token = variable.set(value)
    try:
        return function(*args)
    finally:
        _set_back(variable, token)


async def with_value_async(variable not None, value, function, *args):
    """The same for a coroutine function."""
    token = variable.set(value)
    try:
        return await function(*args)
    finally:
        _set_back(variable, token)


cdef int _set_back(variable, token) except -1:
    """Ends a value, in the context that it was set in.

    A coroutine that was left half-way is closed when it is collected, in the context of whatever
    runs then; that one never had the value.
    """
    try:
        variable.reset(token)
    except ValueError:  # made in another context
        pass
    return 0


cdef class _Holder:
    """The owner, a thread or a task, of each hold that was acquired through this object."""

    cdef dict _holds  # by the id of the owner
    cdef Vouched _latest
    cdef bint _for_all  # whether others than its owner may release a hold

    def __cinit__(self, *_, **__):
        self._holds = {}
        self._latest = None
        self._for_all = True

    cdef object _me(self):
        raise NotImplementedError

    cdef Vouched _mine(self):
        cdef Vouched hold
        me = self._me()
        hold = self._holds.get(id(me))
        return hold if hold is not None and hold._owner() is me else None

    @property
    def _hold(self):
        """The caller's hold, else the one acquired last, if any."""
        cdef Vouched mine = self._mine()
        return self._latest if mine is None else mine

    @property
    def _has_mine(self):
        """Whether the caller has acquired the lock, and not released it, through this object."""
        cdef Vouched hold = self._mine()
        return hold is not None and hold._state == GIVEN and hold._pid == getpid()

    def _check_new(self):
        """Forgets the holds of threads and tasks that ended.

        Raises:
            MisuseError: the caller has the lock already.
        """
        cdef Vouched hold
        if self._has_mine:
            raise MisuseError(
                "this thread or task acquired this lock already; it is not reentrant: release it "
                "first"
            )
        for owner, hold in list(self._holds.items()):
            if hold._owner() is None:
                self._holds.pop(owner, None)

    cdef int _hand_over(self, Vouched hold) except -1:
        me = self._me()
        if me is not None:
            if not hold._bound:
                hold._owner = ref(me)
            self._holds[id(me)] = hold
        self._latest = hold
        hold._state = GIVEN
        return 0

    cdef Vouched _take_back(self):
        """The hold to release, no longer vouched for, or None."""
        cdef Vouched hold = self._mine()
        if hold is None and self._latest is not None and self._latest._state == GIVEN:
            if self._for_all or self._latest._pid != getpid():
                hold = self._latest
        if hold is not None:
            hold.withdraw()
        return hold

    def _forget(self, Vouched hold):
        """Forgets a hold that is given up.

        Raises:
            MisuseError: there is no hold.
            LockLost: it is held by the process that forked this one.
        """
        if hold is None:
            if self._latest is not None and self._latest._state == GIVEN:
                raise MisuseError(
                    "this lock is held by another thread, which must release it; for one that any "
                    "thread may release: lock(..., thread_bound=False)"
                )
            raise MisuseError("this lock is not held: acquire it first")
        for owner, each in list(self._holds.items()):
            if each is hold:
                self._holds.pop(owner, None)
        if hold._pid != getpid():
            raise LockLost("the lock is held by the process that forked this one, not by this one")


cdef class Holder(_Holder):
    """How a blocking lock is taken and given up.

    A subclass has `_take(blocking, timeout)`, which returns the new hold, or None if another has it
    and `blocking` is not None; `_give_back(hold)`, which ends the one given up, or None; and
    `_leave(hold, exception_type)`, the same at the end of a block.
    """

    cdef object _me(self):
        return this_thread()

    @property
    def _thread_bound(self):
        return not self._for_all

    @_thread_bound.setter
    def _thread_bound(self, bound):
        self._for_all = not bound

    def acquire(self, blocking=None, timeout=None):
        """Takes the lock, and waits for it if it must.

        Args:
            blocking: None: to be told by LockTimeout that another has it. True or False: to be told
                by the answer, as by threading.Lock; False does not wait for another holder.
            timeout: seconds to wait, for the lock and for the workers; 0: try once; math.inf, or
                -1 as in threading.Lock: for ever; None: the lock's own timeout.

        Returns:
            The fencing number; if `blocking` was given, whether the lock was taken.

        Raises:
            LockTimeout: another holder had it all the time, perhaps a thread with this same object.
                Not if `blocking` was given.
            MisuseError: this thread has acquired it through this object already. Not if `blocking`
                is False: the answer is False then. Nor if it is True and any thread may release the
                lock (`thread_bound=False`): then this waits until one does.
            InvalidArgument: `blocking` is no bool, or False with a timeout.
            LimitError: no thread can be started to renew it.
            ServerError: a worker did not answer.

        Example:
            >>> lock = cache.lock("by hand")
            >>> number = lock.acquire(timeout=5)
            >>> cache.lock("by hand").acquire(blocking=False)
            False
            >>> lock.release()
        """
        hold = self._take(blocking, timeout)
        if hold is None:
            return False
        answer = hold.fencing if blocking is None else True
        self._hand_over(hold)
        return answer

    def release(self):
        """Gives the lock up.

        Raises:
            LockLost: it had run out, or is held by the parent process.
            MisuseError: it was not acquired, or another thread acquired it.
        """
        self._give_back(self._take_back())

    def __enter__(self):
        self._hand_over(self._take(None, None))
        return self

    def __exit__(self, exception_type, exception, traceback):
        self._leave(self._take_back(), exception_type)


cdef class AsyncHolder(_Holder):
    """The same for asyncio, whose `_take`, `_give_back` and `_leave` are coroutine functions."""

    cdef object _current_task
    cdef object _running_loop

    def __cinit__(self, *_, **__):
        from asyncio import events, tasks

        # In Python 3.11 `current_task` is no C function; the lookups that it makes are.
        current = tasks.current_task
        self._current_task = current if type(current) is type(len) else None
        self._running_loop = events._get_running_loop

    cdef object _me(self):
        if self._running_loop() is None:  # as in `asyncio.run(lock.release())`
            return None
        if self._current_task is not None:
            return self._current_task()
        from asyncio.tasks import _current_tasks

        return _current_tasks.get(self._running_loop())

    async def acquire(self, blocking=None, timeout=None):
        """See `Lock.acquire`."""
        hold = await self._take(blocking, timeout)
        if hold is None:
            return False
        answer = hold.fencing if blocking is None else True
        self._hand_over(hold)
        return answer

    def release(self):
        """See `Lock.release`."""
        return self._give_back(self._take_back())

    async def __aenter__(self):
        hold = await self._take(None, None)
        self._hand_over(hold)
        return self

    def __aexit__(self, exception_type, exception, traceback):
        return self._leave(self._take_back(), exception_type)

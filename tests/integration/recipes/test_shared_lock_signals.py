"""A lock object that threads share, while a signal handler raises in one of them."""

from __future__ import annotations

import signal
import threading

from conftest import Eventually
from support.crews import TIMEOUT
from support.servers import Server

from kvserve.errors import LockLost, MisuseError


def test_signal_handler_that_raises_in_a_shared_lock_leaves_it_usable(
    served: Server, eventually: Eventually
) -> None:
    """Other threads with the same object go on; what was given up ends by its ttl."""

    class GivenUp(Exception):
        """What the handler raises."""

    def give_up(*_: object) -> None:
        raise GivenUp

    over = threading.Event()
    turns = [0, 0]
    before = signal.signal(signal.SIGALRM, give_up)
    with served.connect(timeout=TIMEOUT) as cache:
        lock = cache.lock("job", ttl=0.2)

        def work(number: int) -> None:
            while not over.is_set():
                if lock.acquire(blocking=bool(turns[number] % 2), timeout=None):
                    turns[number] += 1
                    lock.release()

        crew = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in crew:
            thread.start()
        try:
            struck = 0
            while struck < 60:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0001 + struck % 17 / 4000)
                    if lock.acquire(True, TIMEOUT):
                        lock.release()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except (LockLost, MisuseError):  # it was given up after it was acquired
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except GivenUp:
                    struck += 1
                    if lock._has_mine:
                        lock.release()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            reached = list(turns)
            eventually(lambda: all(now > then for now, then in zip(turns, reached, strict=True)))
            over.set()
            for thread in crew:
                thread.join()
        eventually(lambda: not lock.locked())

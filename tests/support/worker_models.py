"""What every worker model must stand: many writers at once, and a server that stops or dies."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from kvserve.names import Names
from support.servers import Server, StartServer
from support.services import Answer, Service

TRUSTING = ("--writers", "8")  # what a server of trusted writers is started with
REQUESTS = 90
THREADS = 6
AS_MANY_MORE = 12  # answers that show that a phase is what it is
PAUSE_SECONDS = 0.004  # between two requests of a thread of the crew: two cores do all the work


def variables(names: Names, **options: Any) -> dict[str, str]:
    """What leads an application to an instance; `options` are further ones of its `connect`."""
    return {
        "KVSERVE_NAME": names.name,
        "KVSERVE_RUNTIME_DIR": str(names.runtime_directory.parent),
        "CONNECT_OPTIONS": json.dumps(options),
    }


class Crew:
    """Threads that send requests all the time, for a block of code.

    Attributes:
        reads: how many reads were answered rightly.
        counted: the numbers that the counting requests got.
        failed: how many of these failed, by the error's name.
        wrong: all other answers, and what was raised.
    """

    def __init__(self, ask: Callable[[str], Answer], page: str) -> None:
        self._ask = ask
        self._page = page
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=[work])
            for work in (self._read, self._count, self._read, self._count)
        ]
        self.reads = 0
        self.counted: list[int] = []
        self.failed: Counter[str] = Counter()
        self.wrong: list[object] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, work: Callable[[], None]) -> None:
        while not self._over.is_set():
            try:
                work()
            except Exception as error:
                self.wrong.append(error)
            time.sleep(PAUSE_SECONDS)

    def _read(self) -> None:
        answered = self._ask("/read")
        if answered == (200, self._page):
            self.reads += 1
        else:
            self.wrong.append(answered)

    def _count(self) -> None:
        status, text = self._ask("/count")
        if status == 200:
            self.counted.append(int(text))
        elif status == 503:
            self.failed[text] += 1
        else:
            self.wrong.append((status, text))


def count_exactly(service: Service, expected: int = 0) -> int:
    """Many requests at once, each of which gets a number of its own; `expected` were counted."""
    wrong: list[Answer] = []

    def ask_once(_: int) -> int:
        if wrong:  # each further one would perhaps wait for its timeout
            return 0
        status, text = service.ask("/count")
        if status != 200:
            wrong.append((status, text))
            return 0
        return int(text)

    with ThreadPoolExecutor(THREADS) as pool:
        numbers = sorted(pool.map(ask_once, range(REQUESTS)))
    assert not wrong, (wrong, service.log)
    assert numbers == list(range(expected + 1, expected + REQUESTS + 1)), service.log
    return expected + REQUESTS


def outlive_servers(
    service: Service,
    server: Server,
    make_server: StartServer,
    eventually: Callable[..., None],
    *,
    trusted: bool = False,
) -> Server:
    """Requests go on while the server is stopped and started, and killed and started.

    Args:
        trusted: the application writes into the table itself, and so also after a server's death.

    Returns:
        The last server.


    What finds its answer in the table is answered, all the time. What does not fails with an error
    of kvserve while there is no server, and not afterwards.
    """
    status, page = service.ask("/read")
    assert status == 200
    before = count_exactly(service)
    with Crew(service.ask, page) as crew:

        def go_on(of: Callable[[], int]) -> None:
            begin = of()
            eventually(lambda: crew.wrong or of() >= begin + AS_MANY_MORE)
            assert not crew.wrong, (crew.wrong[:3], service.log)

        for end in (stop, kill):
            go_on(lambda: len(crew.counted))
            end(server)
            if not (trusted and end is kill):
                go_on(crew.failed.total)
            go_on(lambda: crew.reads)
            server = make_server(*(TRUSTING if trusted else ()), names=server.names)
            go_on(lambda: len(crew.counted))
    assert not crew.wrong, (crew.wrong[:3], service.log)
    with server.connect() as cache:
        known = before + len(crew.counted)
        # One that failed was perhaps counted, when the server ended before it could answer.
        assert known <= cache["counter"] <= known + crew.failed.total()
        assert len(set(crew.counted)) == len(crew.counted)
        assert cache.verify() == []
    return server


def stop(server: Server) -> None:
    """As its operator does."""
    assert server.stop() == 0


def kill(server: Server) -> None:
    """Its parent alone: the workers notice, and leave."""
    server.process.kill()
    server.process.wait()


def leave_nothing(
    service: Service, server: Server, eventually: Callable[..., None], *, trusted: bool = False
) -> None:
    """The application stops, without complaints; none of its FIFOs is left."""
    assert trusted or any(server.names.clients_directory.iterdir())  # trusted writers have none
    service.stop()
    eventually(lambda: not any(server.names.clients_directory.iterdir()))


def try_everything(
    service: Service,
    server: Server,
    make_server: StartServer,
    eventually: Callable[..., Any],
    *,
    trusted: bool = False,
    importing: int = 1,
) -> None:
    """The whole of it, for an application that was just started; see `outlive_servers`.

    It begins when `importing` processes have imported the application, which needs the server.
    """
    try:
        with server.connect() as cache:
            eventually(lambda: service.is_ready and cache.get("imported", 0) >= importing)
        server = outlive_servers(service, server, make_server, eventually, trusted=trusted)
        leave_nothing(service, server, eventually, trusted=trusted)
    finally:
        service.end()


def boot_without_server(
    service: Service, names: Names, make_server: StartServer, eventually: Callable[..., Any]
) -> None:
    """For a lazy application that was started before the server of its instance.

    It boots, and what does not need the server is answered; all is, as soon as there is one.
    """

    def has_booted() -> bool:
        assert service.process.poll() is None, service.log
        try:
            return service.ask("/other") == (404, "/other")
        except OSError:
            return False

    try:
        eventually(has_booted)
        for path in ("/count", "/read"):
            assert service.ask(path) == (503, "ServerUnavailable"), service.log
        server = make_server(names=names)
        total = count_exactly(service)
        pages = {service.ask("/read") for _ in range(THREADS)}
        assert [status for status, _ in pages] == [200], pages  # one, for all processes
        with server.connect() as cache:
            assert cache["counter"] == total
        leave_nothing(service, server, eventually)
    finally:
        service.end()

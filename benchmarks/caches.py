"""What a user could take in kvserve's place, behind one face: get, put, put_many.

Each is set up as its documentation tells, in memory: files lie in /dev/shm and are not synced.
"""

from __future__ import annotations

import multiprocessing
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import kvserve
from benchmarks.instance import running
from benchmarks.peers import memcached, package, valkey

SHARED_MEMORY = "/dev/shm"
ULTRADICT_STREAM_BYTES = 2**26  # what it can hold before it writes everything anew


@dataclass(frozen=True)
class Opened:
    """A process's own access to a cache."""

    get: Callable[[bytes], bytes | None]
    put: Callable[[bytes, bytes], Any]
    put_many: Callable[[Mapping[bytes, bytes]], Any]


Open = Callable[[], Opened]  # called in the process that will use it
Write = Literal["worker", "direct"]


@contextmanager
def kvserve_direct(
    memory_mib: int, item_bytes: int, write: Write = "worker", writers: int = 0
) -> Iterator[Open]:
    """Hits from shared memory; writes through a worker, or by so many trusted writers."""
    flags = f"--memory {memory_mib}MiB --item-size {item_bytes} --max-value {max(item_bytes, 1024)}"
    with running(*flags.split(), "--writers", str(writers)) as name:

        def opened() -> Opened:
            cache = kvserve.connect(name, write=write)
            return Opened(cache.get, cache.set, cache.set_many)

        yield opened


@contextmanager
def valkey_by_redis(memory_mib: int, policy: str = "allkeys-lru") -> Iterator[Open]:
    """redis-py, with hiredis where installed."""
    redis = package("redis", "redis[hiredis]")
    limit = ("--maxmemory", f"{memory_mib}mb", "--maxmemory-policy", policy)
    with valkey(*limit) as peer:

        def opened() -> Opened:
            client = redis.Redis(unix_socket_path=peer.socket)
            return Opened(client.get, client.set, client.mset)

        yield opened


@contextmanager
def memcached_by_pymemcache(memory_mib: int) -> Iterator[Open]:
    """Writes are acknowledged, as everybody else's."""
    pymemcache = package("pymemcache.client.base", "pymemcache")
    with memcached(memory_mib) as peer:

        def opened() -> Opened:
            client = pymemcache.Client(peer.socket, default_noreply=False)
            return Opened(client.get, client.set, client.set_many)

        yield opened


@contextmanager
def memcached_by_pylibmc(memory_mib: int) -> Iterator[Open]:
    pylibmc = package("pylibmc", "pylibmc", "apt-get install libmemcached-dev, then ")
    with memcached(memory_mib) as peer:

        def opened() -> Opened:
            client = pylibmc.Client([peer.socket], binary=True)
            return Opened(client.get, client.set, client.set_multi)

        yield opened


@contextmanager
def lmdb_no_sync(memory_mib: int) -> Iterator[Open]:
    """One transaction for each operation. It does not evict: its map is large enough for all.

    With a writable map, as our writers have it; a put takes it less than half of the time then.
    """
    lmdb = package("lmdb", "lmdb")
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory:

        def opened() -> Opened:
            size_bytes = 8 * memory_mib * 2**20
            environment = lmdb.open(directory, map_size=size_bytes, sync=False, writemap=True)

            def get(key: bytes) -> bytes | None:
                with environment.begin() as transaction:
                    found: bytes | None = transaction.get(key)
                    return found

            def put(key: bytes, value: bytes) -> None:
                with environment.begin(write=True) as transaction:
                    transaction.put(key, value)

            def put_many(items: Mapping[bytes, bytes]) -> None:
                with environment.begin(write=True) as transaction:
                    transaction.cursor().putmulti(items.items())

            return Opened(get, put, put_many)

        yield opened


@contextmanager
def diskcache_in_memory(memory_mib: int) -> Iterator[Open]:
    diskcache = package("diskcache", "diskcache")
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory:

        def opened() -> Opened:
            cache = diskcache.Cache(directory, size_limit=memory_mib * 2**20)

            def put_many(items: Mapping[bytes, bytes]) -> None:
                with cache.transact():
                    for key, value in items.items():
                        cache.set(key, value)

            return Opened(cache.get, cache.set, put_many)

        yield opened


@contextmanager
def ultradict(memory_mib: int) -> Iterator[Open]:
    """One dictionary, made before the fork: its lock is shared by inheritance."""
    made = package("UltraDict", "UltraDict").UltraDict(
        name=f"bench-{secrets.token_hex(4)}",
        create=True,
        buffer_size=ULTRADICT_STREAM_BYTES,
        full_dump_size=memory_mib * 2**20,
        auto_unlink=False,
    )
    try:
        yield lambda: Opened(made.get, made.__setitem__, made.update)
    finally:
        made.unlink()


@contextmanager
def manager_dict(memory_mib: int) -> Iterator[Open]:
    """A dict in a process of its own; it holds whatever it is given."""
    del memory_mib
    with multiprocessing.get_context("fork").Manager() as manager:
        shared = manager.dict()
        yield lambda: Opened(shared.get, shared.__setitem__, shared.update)


OURS = ("kvserve", "kvserve, writers")


def all_caches(
    memory_mib: int, item_bytes: int, processes: int
) -> dict[str, AbstractContextManager[Open]]:
    """Every cache by the name that the tables give it, ours first, for so many processes.

    Valkey is asked by redis-py; pymemcache and pylibmc ask a memcached of their own each.
    """
    return {
        "kvserve": kvserve_direct(memory_mib, item_bytes),
        "kvserve, writers": kvserve_direct(memory_mib, item_bytes, "direct", processes),
        "Valkey": valkey_by_redis(memory_mib),
        "pymemcache": memcached_by_pymemcache(memory_mib),
        "pylibmc": memcached_by_pylibmc(memory_mib),
        "LMDB": lmdb_no_sync(memory_mib),
        "diskcache": diskcache_in_memory(memory_mib),
        "UltraDict": ultradict(memory_mib),
        "Manager": manager_dict(memory_mib),
    }

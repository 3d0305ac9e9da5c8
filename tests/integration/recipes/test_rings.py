"""Factories that need each other's values: threads, tasks, processes; and long ones that do not."""

from __future__ import annotations

import asyncio
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import pytest
from support.crews import TIMEOUT, Member, together
from support.servers import Server

import kvserve
from kvserve.errors import (
    MisuseError,
)


def needing(cache: kvserve.Client, keys: str, own: str) -> str:
    """What comes of asking for a key whose factory needs the next one, in a ring."""
    needed = keys[(keys.index(own) + 1) % len(keys)]

    def factory() -> Any:
        while f"kvserve:claim:{needed}" not in cache:  # until all of the ring are under way
            time.sleep(0.001)
        return cache.get_or_set(needed, lambda: needing(cache, keys, needed), claim_ttl=3600)

    try:
        return str(cache.get_or_set(own, factory, claim_ttl=3600))
    except MisuseError as error:
        return str(error)


def is_told(texts: list[str]) -> bool:
    return all("computed from each other" in text or "waits for" in text for text in texts)


@pytest.mark.parametrize("keys", ["ab", "abc"])
def test_factories_that_need_each_other_in_threads(cache: kvserve.Client, keys: str) -> None:
    texts: list[str] = []

    def work(key: str) -> None:
        texts.append(needing(cache, keys, key))

    crew = [threading.Thread(target=work, args=(key,)) for key in keys]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert is_told(texts), texts


def test_factories_that_need_each_other_in_processes(served: Server) -> None:
    def work(number: int) -> str:
        with served.connect(timeout=TIMEOUT) as cache:
            return needing(cache, "ab", "ab"[number])

    texts = together(2, work)
    assert is_told(texts), texts


def test_factories_that_need_each_other_in_tasks(served: Server) -> None:
    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:
            both = asyncio.Barrier(2)

            async def ask(own: str, needed: str) -> Any:
                async def factory() -> Any:
                    await both.wait()
                    return await client.get_or_set(needed, dict, claim_ttl=3600)

                return await client.get_or_set(own, factory, claim_ttl=3600)

            results = await asyncio.gather(ask("a", "b"), ask("b", "a"), return_exceptions=True)
            assert any(isinstance(result, MisuseError) for result in results), results

    asyncio.run(main())


def test_factory_that_waits_long_for_another_value_is_no_ring(
    cache: kvserve.Client, served: Server
) -> None:
    """And it says for which, as long as it waits."""

    def slow(pipe: Connection) -> None:
        with served.connect(timeout=TIMEOUT) as client:

            def compute() -> str:
                pipe.send("computing")
                pipe.recv()
                return "b"

            client.get_or_set("b", compute, claim_ttl=3600)

    member = Member(slow)
    try:
        assert member.hear() == "computing"
        said: list[Any] = []

        def watch() -> None:
            with served.connect(timeout=TIMEOUT) as client:
                while not isinstance(lease := client.get("kvserve:claim:a"), (tuple, list)):
                    time.sleep(0.001)
                said.append(lease[1])
                time.sleep(0.3)  # for some looks at what is no ring
                member.tell()

        watcher = threading.Thread(target=watch)
        watcher.start()
        value = cache.get_or_set("a", lambda: "a" + cache.get_or_set("b", str, claim_ttl=3600), 60)
        watcher.join()
        assert (value, said) == ("ab", ["b"])
    finally:
        member.end()

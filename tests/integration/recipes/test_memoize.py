"""memoize in real processes: the same keys everywhere, one computation, and a way to forget."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from support.crews import TIMEOUT, Journal, Member, together
from support.servers import Server

import kvserve
from kvserve.errors import InvalidArgument, InvalidKey, InvalidTTL

KEYS_OF_A_MODULE = '''
"""A module with functions whose keys are printed."""
import datetime, enum, json, sys, uuid, zoneinfo
import kvserve

class Color(enum.Enum):
    RED = "red"

class Permission(enum.Flag):
    READ = 1
    WRITE = 2

class Shop:
    @staticmethod
    def load(*args, **kwargs): ...

def keys(cache):
    load = cache.memoize(ttl=60)(Shop.load)
    paris = zoneinfo.ZoneInfo("Europe/Paris")
    calls = [
        ((), {}),
        ((1, 2.5, True, None, "text \\u00e9 \\ud800", b"\\xff"), {}),
        ((), {"b": 1, "a": {"z": 1, "y": [1, (2,)]}}),
        (({"ten", "of", "these", "strings", "come", "in", "any", "order", "each", "time"},), {}),
        ((frozenset({1, "a", None}), {"x": {3, 2, 1}}), {}),
        ((Color.RED, Permission.READ | Permission.WRITE), {}),
        ((datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC), datetime.date.min), {}),
        ((datetime.datetime(2026, 7, 2, tzinfo=paris), datetime.timedelta(days=-1)), {}),
        ((uuid.UUID(int=7), 10**400, 1e300, float("nan"), -0.0), {}),
        (("x" * 5000,), {}),
    ]
    return [load.cache_key(*args, **kwargs) for args, kwargs in calls]

if __name__ == "__main__":
    import shop
    with kvserve.connect(sys.argv[1], timeout=20) as cache:
        print(json.dumps(shop.keys(cache)))
'''


def keys_in_a_process(served: Server, module: Path, hash_seed: str) -> list[str]:
    """The keys that another process finds."""
    code = f"import sys; sys.path.insert(0, {str(module.parent)!r}); import runpy; " + (
        f"sys.argv[1:] = [{served.name!r}]; runpy.run_path({str(module)!r}, run_name='__main__')"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        check=True,
        capture_output=True,
    ).stdout
    keys: list[str] = json.loads(printed)
    return keys


def test_keys_are_the_same_in_every_process(served: Server, tmp_path: Path) -> None:
    module = tmp_path / "shop.py"
    module.write_text(KEYS_OF_A_MODULE)
    keys = keys_in_a_process(served, module, "0")
    for hash_seed in ("1", "2", "random"):
        assert keys_in_a_process(served, module, hash_seed) == keys
    assert len(set(keys)) == len(keys)
    assert all(len(key.encode()) <= 256 for key in keys)
    # These are what later versions of kvserve must find again, too.
    assert keys[:3] == [
        "kvserve:memo:shop.Shop.load(args=(),kwargs={})",
        "kvserve:memo:shop.Shop.load"
        '(args=(1,2.5,True,None,"text \\u00e9 \\ud800",b"ff"),kwargs={})',
        'kvserve:memo:shop.Shop.load(args=(),kwargs={"a":{"y":[1,(2)],"z":1},"b":1})',
    ]
    assert keys[5] == (
        'kvserve:memo:shop.Shop.load(args=(shop.Color("RED"),shop.Permission(3)),kwargs={})'
    )
    assert keys[7] == (
        "kvserve:memo:shop.Shop.load(args=(datetime(2026-07-02T00:00:00+02:00,Europe/Paris,0),"
        "timedelta(-1,0,0)),kwargs={})"
    )
    assert re.fullmatch(r"kvserve:memo:shop\.Shop\.load\(#[0-9a-f]{64}\)", keys[9])


def test_script_and_its_multiprocessing_children_agree(served: Server, tmp_path: Path) -> None:
    """Each sees the module under another name, and another script has functions of that name."""
    text = (
        "import multiprocessing, os, sys, kvserve\n"
        "def load(): return 1\n"
        "def show(name):\n"
        "    with kvserve.connect(name, timeout=20) as cache:\n"
        "        print(cache.memoize(60)(load).cache_key(), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    show(sys.argv[1])\n"
        "    for method in ('spawn', 'fork'):\n"
        "        context = multiprocessing.get_context(method)\n"
        "        child = context.Process(target=show, args=sys.argv[1:])\n"
        "        child.start(); child.join()\n"
    )
    for script in (tmp_path / "one.py", tmp_path / "two.py"):
        script.write_text(text)
        printed = subprocess.run(
            [sys.executable, script.name, served.name], cwd=tmp_path, check=True,
            capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert printed.splitlines() == [f"kvserve:memo:{script}.load()"] * 3


def test_processes_share_results(served: Server, journal: Journal) -> None:
    def work(_: int) -> list[int]:
        with served.connect(timeout=TIMEOUT) as client:

            @client.memoize(ttl=60)
            def double(value: int, *, offset: int = 0) -> int:
                journal.write(value)
                return 2 * value + offset

            calls = [double(value) for value in range(5)]
            return [*calls, double(value=3), double(offset=0, value=3)]

    assert together(4, work) == [[0, 2, 4, 6, 8, 6, 6]] * 4
    assert sorted(journal.lines) == ["0", "1", "2", "3", "4"]


def test_coroutines(served: Server, cache: kvserve.Client, journal: Journal) -> None:
    async def main() -> list[Any]:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:

            @client.memoize(ttl=60)
            async def double(value: int) -> int:
                """Doubles."""
                journal.write(value)
                return 2 * value

            assert asyncio.iscoroutinefunction(double)
            assert double.__doc__ == "Doubles."
            together = await asyncio.gather(*[double(4) for _ in range(10)])
            key = double.cache_key(4)
            assert cache.get(key) == 8
            told = [await double.invalidate(4), await double.invalidate(4), await double(4)]
            return [*together, *told, await double.__wrapped__(4)]

    assert asyncio.run(main()) == [8] * 10 + [True, False, 8, 8]
    assert journal.lines == ["4"] * 3


def test_typed_arguments_differ(cache: kvserve.Client) -> None:
    def plain(value: object) -> str:
        return repr(value)

    same = cache.memoize(60)(plain)
    assert [same(value) for value in (1, 1.0, True, (1.0,), (1,))] == [
        "1", "1", "True", "(1.0,)", "(1.0,)"]  # fmt: skip
    typed = cache.memoize(60, typed=True, key=None)(plain)
    assert [typed(value) for value in (1.0, 2, {1}, frozenset([1]))] == [
        "1.0", "2", "{1}", "frozenset({1})"]  # fmt: skip


class Account:
    """An object with a memoized method; see the test."""

    def __init__(self, number: int) -> None:
        self.number = number


def test_methods_make_their_keys_themselves(cache: kvserve.Client) -> None:
    class Bank(Account):
        @cache.memoize(ttl=60, key=lambda self, year: f"balance:{self.number}:{year}")
        def balance(self, year: int) -> int:
            return self.number * year

        @cache.memoize(ttl=60)
        def owner(self) -> str:
            raise AssertionError("never called")

    first, second = Bank(1), Bank(2)
    assert (first.balance(10), second.balance(10), first.balance(year=10)) == (10, 20, 10)
    assert cache.get("balance:2:10") == 20
    assert Bank.balance.cache_key(first, 10) == "balance:1:10"
    assert first.balance.invalidate(first, 10)  # type: ignore[attr-defined]
    assert "balance:1:10" not in cache
    with pytest.raises(InvalidArgument, match=r"'self' is or contains a .*Bank.*key="):
        first.owner()


def test_stale_results(cache: kvserve.Client, journal: Journal) -> None:
    @cache.memoize(ttl=60, stale=3600, jitter=0.1)
    def load() -> int:
        journal.write("called")
        return len(journal.lines)

    assert (load(), load()) == (1, 1)
    cache.touch(load.cache_key(), 3600)  # as if the ttl were over
    assert (load(), load()) == (2, 2)


def test_results_in_a_namespace_go_with_it(cache: kvserve.Client, journal: Journal) -> None:
    eu = cache.namespace("eu")

    @eu.memoize(ttl=60)
    def load() -> int:
        journal.write("called")
        return 1

    assert (load(), load(), len(journal.lines)) == (1, 1, 1)
    assert eu.get(load.cache_key()) == 1
    assert load.invalidate()
    eu.clear()
    assert (load(), len(journal.lines)) == (1, 2)


def test_result_that_was_invalidated_while_it_was_computed_is_not_kept(
    served: Server, cache: kvserve.Client
) -> None:
    @cache.memoize(ttl=60, key=lambda: "result")
    def load() -> str:
        return "new"

    def compute(pipe: Connection) -> Any:
        with served.connect(timeout=TIMEOUT) as client:

            @client.memoize(ttl=60, key=lambda: "result")
            def load() -> str:
                pipe.send("computing")
                pipe.recv()
                return "old"

            return load()

    computer = Member(compute)
    try:
        computer.hear()
        assert load.invalidate() is False
        computer.tell()
        assert computer.hear() == "old"
        assert "result" not in cache
        assert load() == "new"
    finally:
        computer.end()


def test_result_that_was_invalidated_while_it_was_stored_is_withdrawn(
    cache: kvserve.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    @cache.memoize(ttl=60, key=lambda: "result")
    def load() -> str:
        return "old"

    store = type(cache).set

    def invalidated_meanwhile(self: Any, *arguments: Any) -> int:
        load.invalidate()
        return store(self, *arguments)

    monkeypatch.setattr(type(cache), "set", invalidated_meanwhile)
    assert load() == "old"
    assert "result" not in cache


async def _coroutine() -> None: ...


class _Callable:
    def __call__(self) -> None: ...


@pytest.mark.parametrize("function", [_coroutine, lambda: 1, _Callable()])
def test_functions_that_are_refused(cache: kvserve.Client, function: Any) -> None:
    with pytest.raises(InvalidArgument):
        cache.memoize(ttl=60)(function)


def test_mistakes_are_said_when_the_function_is_made(served: Server, cache: kvserve.Client) -> None:
    with pytest.raises(InvalidTTL):
        cache.memoize(ttl=0)
    with pytest.raises(InvalidArgument, match="no name of its own; give key="):
        cache.memoize(lambda: 1)
    assert cache.memoize(ttl=60, key=lambda: "lambda")(lambda: 1)() == 1
    with pytest.raises(InvalidKey):
        cache.memoize(ttl=60, key=lambda: 7)(lambda: 1)()  # type: ignore[arg-type, return-value]

    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=20) as client:
            with pytest.raises(InvalidArgument, match="blocking client"):
                client.memoize(ttl=60)(keys_in_a_process)  # type: ignore[arg-type]

    asyncio.run(main())


def test_call_that_the_function_does_not_take_is_its_type_error(cache: kvserve.Client) -> None:
    @cache.memoize(ttl=60)
    def load(user_id: int) -> int:
        return user_id

    with pytest.raises(TypeError):
        load()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        load.cache_key(1, 2)  # type: ignore[call-arg]

"""Every example in a docstring runs and says what it says it does."""

from __future__ import annotations

import asyncio
import datetime
import doctest
import importlib
import math
import pkgutil
from collections.abc import Iterator

import pytest
from servers import Server

import kvserve

FINDER = doctest.DocTestFinder(exclude_empty=True)


def module_names() -> list[str]:
    """Every module of the package that can be imported without running it."""
    found = pkgutil.walk_packages(kvserve.__path__, "kvserve.")
    return ["kvserve", *(module.name for module in found if module.name != "kvserve.__main__")]


def examples() -> Iterator[doctest.DocTest]:
    """Each docstring with an example, once, though it may be inherited."""
    seen = set()
    for name in module_names():
        for test in FINDER.find(importlib.import_module(name), name):
            if test.examples and (test.docstring, test.name.rpartition(".")[2]) not in seen:
                seen.add((test.docstring, test.name.rpartition(".")[2]))
                yield test


@pytest.fixture(scope="module")
def served(served: Server) -> Iterator[Server]:
    """The instance that `kvserve.connect()` finds without a name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVSERVE_NAME", served.name)
        yield served


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_example(example: doctest.DocTest, served: Server) -> None:
    """Examples speak of the instance `default`, and of `cache`, a client of it."""
    with kvserve.connect() as cache:
        cache.flush()
        example.globs |= {
            "kvserve": kvserve,
            "cache": cache,
            "asyncio": asyncio,
            "datetime": datetime,
            "math": math,
        }
        for each in example.examples:
            if "kvserve.connect" in each.source or "cache." in each.source:
                each.source = each.source.replace('"default"', repr(served.name))
                each.want = each.want.replace("'default'", repr(served.name))
        report: list[str] = []
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
        failed, _ = runner.run(example, out=report.append)
    assert failed == 0, "".join(report)

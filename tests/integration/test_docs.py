"""The Python in the pages of docs/ runs, from top to bottom, and gives what it shows."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
from servers import Server

PAGES = [Path(__file__).parents[2] / "docs" / "recipes.md"]


def blocks(page: Path) -> list[tuple[int, str]]:
    """The fenced blocks of Python, each with the line that it begins at."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start()) + 1, match[1])
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVSERVE_NAME", server.name)
    found: dict[str, Any] = {"__name__": "example"}
    runner = doctest.DocTestRunner()
    parser = doctest.DocTestParser()
    for line, source in blocks(page):
        if ">>>" in source:
            example = parser.get_doctest(source, found, page.name, str(page), line)
            runner.run(example, clear_globs=False)
            found = example.globs
        else:
            exec(compile("\n" * line + source, page, "exec"), found)
    found["cache"].close()
    assert runner.tries > 10
    assert runner.failures == 0

"""docs/internals.md leads where it says: its files exist, its links too, its numbers are ours."""

from __future__ import annotations

import re
from pathlib import Path

from kvserve.table._core import LAYOUT_VERSION

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "internals.md").read_text()
# Where a file that is named without its folder may be.
FOLDERS = (ROOT / "kvserve", ROOT / "kvserve" / "table", ROOT / "kvserve" / "table" / "core", ROOT)


def anchor(heading: str) -> str:
    """A heading's name in a link."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|c|h|pyx|pxi))`", PAGE))
    assert len(named) > 40
    missing = {name for name in named if not any((folder / name).exists() for folder in FOLDERS)}
    assert missing == set()


def test_every_link_leads_somewhere() -> None:
    headings = {anchor(text) for text in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)}
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert {link for link in links if link.startswith("#") and link[1:] not in headings} == set()
    files = {link for link in links if not link.startswith("#")}
    assert {link for link in files if not (ROOT / "docs" / link).exists()} == set()


def test_the_layout_number_is_the_tables() -> None:
    assert f"The layout number is {LAYOUT_VERSION}." in PAGE


def test_every_invariant_that_is_checked_is_explained() -> None:
    checked = set(re.findall(r"\bV(\d+)\b", (ROOT / "kvserve/table/core/verify.c").read_text()))
    assert {f"V{number}" for number in checked} <= set(
        re.findall(r"^\| (V\d+) \|", PAGE, re.MULTILINE)
    )

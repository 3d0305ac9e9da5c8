"""What lies under the name of a configuration file: whatever it is, one sentence tells it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.oddities import ODDITIES

from kvserve.config import load
from kvserve.errors import ConfigError

NO_FILE = {
    "deep": "a = " + "[" * 5000 + "]" * 5000,
    "deep tables": "a = " + "{a = " * 3000,
    "long number": "spin = " + "1" * 4301,
    "number that Python makes no text of": "spin = 0x" + "f" * 9000,
    "size likewise": "memory = 0x" + "f" * 9000,
    "time likewise": "default_ttl = 0x" + "f" * 9000,
    "mode likewise": "mode = 0x" + "f" * 9000,
    "long mode": "mode = '" + "7" * 5000 + "'",
    "negative mode": "mode = -1",
    "long name of a setting": "x" * 100_000 + " = 1",
    "long value": "log_level = '" + "x" * 100_000 + "'",
    "long list": "workers = [" + "1, " * 50_000 + "]",
    "group with a zero byte": 'group = "a\\u0000"',
    "group without end": f"group = '{'a' * 9000}'",
    "no UTF-8": "store = '\udcff'",
    "zero bytes": "\0" * 100,
    "too long": "# comment\n" * 30_000,
}


@pytest.mark.parametrize("content", NO_FILE.values(), ids=list(NO_FILE))
def test_a_file_that_is_none_is_told_in_a_sentence(tmp_path: Path, content: str) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load(file, environment={})
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("oddity", ODDITIES)
def test_what_is_no_plain_file_is_told_and_waited_for_never(tmp_path: Path, oddity: str) -> None:
    file = tmp_path / "kvserve.toml"
    ODDITIES[oddity](file)
    with pytest.raises(ConfigError, match=r"kvserve\.toml"):
        load(file, environment={})


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "kvserve.toml"
    with file.open("wb") as opened:
        opened.truncate(2**40)
    with pytest.raises(ConfigError, match="more than 256 KiB"):
        load(file, environment={})


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "kvserve.toml"
    (tmp_path / "..data").write_text("workers = 3")  # as Kubernetes lays a file out
    file.symlink_to("..data")
    assert load(file, environment={}).workers == 3

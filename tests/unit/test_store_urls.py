"""A store's URL: what each scheme opens, and one clear sentence for what none does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvserve.errors import ConfigError
from kvserve.store import urls
from kvserve.store.sqlite.file import path_of
from kvserve.store.sqlite.store import SqliteStore


def test_none_is_no_store() -> None:
    urls.check("none")
    assert urls.open_store("none", 1.0, 1.0) is None


def test_sqlite_is_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/cache.db"
    urls.check(url)
    assert (tmp_path / "cache.db").is_file()
    store = urls.open_store(url, 1.5, 1.0)
    assert isinstance(store, SqliteStore)
    assert not store.is_shared


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////var/lib/cache.db", "/var/lib/cache.db"),
        ("sqlite:///cache.db", "cache.db"),
        ("sqlite:///../data/cache", "../data/cache"),
        ("sqlite:////srv/100%25 é#1.db", "/srv/100%25 é#1.db"),  # as it stands
    ],
)
def test_three_slashes_are_relative_and_four_absolute(url: str, path: str) -> None:
    assert path_of(url) == Path(path)


def test_a_strange_path_is_the_file_that_it_names(tmp_path: Path) -> None:
    urls.check(f"sqlite:///{tmp_path}/100%25 é#1.db")
    assert [path.name for path in tmp_path.iterdir()] == ["100%25 é#1.db"]


def test_a_relative_path_can_be_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert urls.absolute("sqlite:///data/cache.db") == f"sqlite:///{tmp_path}/data/cache.db"


@pytest.mark.parametrize(
    "url",
    ["none", "sqlite:////a/b", "sqlite:///", "sqlite:///:memory:", "sqlite://a/b", "redis://a/0"],
)
def test_other_urls_stay_as_they_are(url: str) -> None:
    assert urls.absolute(url) == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "`none` or a URL such as sqlite:////var/lib/cache.db"),
        ("None", "`none` or a URL"),
        ("/var/lib/cache.db", "`none` or a URL"),
        ("sqlite:/var/lib/cache.db", "`none` or a URL"),
        ("SQLite:////var/lib/cache.db", "cannot be SQLite://"),
        ("postgres://db/cache", "cannot be postgres://; use one of none, sqlite://, valkey://"),
        ("sqlite://", "absolute one with four slashes: sqlite:////var/lib/cache.db"),
        ("sqlite://tmp/cache.db", "absolute one with four slashes: sqlite:////tmp/cache.db"),
        ("sqlite:///", "give the path of one"),
        ("sqlite:///:memory:", "give the path of one"),
        ("sqlite:////tmp/cache.db?mode=ro", "contains no ?"),
        ("sqlite:////tmp/a\0b", "no NUL"),
    ],
)
def test_a_bad_url_is_refused_at_once(url: str, says: str) -> None:
    for attempt in (lambda: urls.check(url), lambda: urls.open_store(url, 1.0, 1.0)):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_password_is_in_no_text() -> None:
    with pytest.raises(ConfigError) as caught:
        urls.check("mysql://user:secret@host/db")
    assert "secret" not in str(caught.value)


def test_a_scheme_costs_only_its_own_module() -> None:
    """A server without a store must not load a database; one over SQLite no client of Valkey."""
    program = """
import sys
from kvserve.store import urls
urls.check("none")
assert "sqlite3" not in sys.modules
urls.open_store("sqlite:////tmp/never-opened", 1.0, 1.0)
assert "sqlite3" in sys.modules
assert "kvserve.store.valkey.store" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)

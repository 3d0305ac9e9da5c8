"""From the settings page to a configuration in force: who follows it, and what the page holds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing

import pytest

from kvserve.config import Config
from kvserve.errors import ForeignObject
from kvserve.limits import STORE_URL_BYTES_MAX
from kvserve.live import settings
from kvserve.live.applying import Follower, differences, from_page, to_page
from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path
from kvserve.runtime import prepare_directory, remove_directory


@pytest.fixture
def names(names: Names) -> Iterator[Names]:
    """An instance that consists of its directory and its page."""
    prepare_directory(names, None)
    settings.create(names, to_page(Config()), None)
    yield names
    settings.remove(names)
    remove_directory(names)


def publish(names: Names, values: Mapping[str, settings.Value]) -> int:
    with settings.writing(names) as writer:
        return writer.publish(values)


class TestFollower:
    """A process's configuration, kept as the page says."""

    @pytest.fixture
    def applied(self) -> list[list[str]]:
        return []

    @pytest.fixture
    def follower(self, names: Names, applied: list[list[str]]) -> Iterator[Follower]:
        def apply(old: Config, new: Config) -> None:
            applied.append(differences(old, new))

        page = settings.attach(names, os.geteuid())
        with closing(Follower(page, apply)) as follower:
            yield follower

    def test_each_change_is_applied_once(
        self, names: Names, follower: Follower, applied: list[list[str]]
    ) -> None:
        assert (follower.version, follower.config) == (1, Config())
        follower.poll()
        assert applied == []
        publish(names, to_page(Config(spin=0)))
        publish(names, to_page(Config(log_level="error", default_ttl=60.0)))
        assert follower.version == 1  # nothing is applied but by poll
        follower.poll()
        follower.poll()
        assert applied == [["default_ttl: 0.0 -> 60.0", "log_level: info -> error"]]
        assert (follower.version, follower.config.log_level) == (3, "error")

    def test_damage_is_told_once_and_what_was_in_force_stays(
        self, names: Names, follower: Follower, applied: list[list[str]]
    ) -> None:
        others: list[dict[str, settings.Value]] = [
            {},
            {"spin": 0},
            to_page(Config()) | {"spin": "much"},
        ]
        for other in others:
            publish(names, other)
            with pytest.raises(ForeignObject, match="settings page is another program's"):
                follower.poll()
            follower.poll()
        assert (follower.version, follower.config, applied) == (1, Config(), [])
        publish(names, to_page(Config(spin=0)))
        follower.poll()
        assert (follower.version, applied) == (5, [["spin: 50 -> 0"]])

    def test_a_damaged_page_is_told_once(self, names: Names, follower: Follower) -> None:
        publish(names, to_page(Config(spin=0)))
        with memory_path(names.settings).open("r+b") as file:
            file.seek(settings._slot_at(2))
            file.write(b"x" * 100)
        with pytest.raises(ForeignObject, match="damaged"):
            follower.poll()
        follower.poll()
        assert (follower.version, follower.config) == (1, Config())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("none", "none"),
        ("sqlite:////var/lib/cache.db", "sqlite:////var/lib/cache.db"),
        ("valkey://db1:6379,db2:6379", "valkey://db1:6379,db2:6379"),
        ("valkey://:secret@db:6379/0", "valkey://***@db:6379/0"),
        ("redis://app:s/e@c@r,et@db1:6379", "redis://***@db1:6379"),
        ("valkey://a:secret@db1,b:secret@db2", "valkey://***@db2"),
    ],
)
def test_the_page_holds_no_password(url: str, shown: str) -> None:
    page = to_page(Config(store=url))
    assert page["store"] == shown
    assert to_page(from_page(page)) == page


def test_the_longest_configuration_fits(names: Names) -> None:
    for character in ("x", "\N{GRINNING FACE}", "\udcff"):
        store = character * (STORE_URL_BYTES_MAX // len(os.fsencode(character)))
        longest = Config(
            name="n" * 64, memory=2**40, default_ttl=1e9 / 7, group="g" * 64, store=store
        )
        publish(names, to_page(longest))
        with closing(settings.attach(names, os.geteuid())) as page:
            assert from_page(page.read().values) == longest

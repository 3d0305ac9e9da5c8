"""The configuration: sizes, sources and their order, and an answer to every bad setting."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kvserve import config, limits
from kvserve.config import Config, describe, load
from kvserve.errors import ConfigError
from kvserve.units import format_size, parse_mode, parse_size

SAMPLE = Path(__file__).parents[2] / "config" / "kvserve.toml"
DEFAULTS = {setting.name: setting.default for setting in dataclasses.fields(Config)}


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        (4096, 4096),
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("1k", 1024),
        ("1K", 1024),
        ("1kb", 1024),
        ("1KiB", 1024),
        ("1 kib", 1024),
        (" 2MiB ", 2 * 2**20),
        ("2m", 2 * 2**20),
        ("1.5GiB", 3 * 2**29),
        ("1t", 2**40),
        ("0.5k", 512),
    ],
)
def test_sizes(text: str | int, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", "k", "-1", "1x", "1 2", "1e3", "0x10", "1,5k", "1.k", ".5k", "MiB", "1KiBs", "1ki", "inf",
     True, None, [], "9" * 400],
)  # fmt: skip
def test_not_sizes(text: Any) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (48 * 2**20, "48 MiB"),
        (2**40, "1 TiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text
    assert parse_size(text) == size_bytes


def test_a_size_is_not_rounded_to_1024_of_a_unit() -> None:
    assert format_size(2**20 - 100) == "1 MiB"
    assert format_size(2**20 - 1024) == "1023 KiB"


def test_modes() -> None:
    assert parse_mode("0600") == parse_mode("600") == parse_mode("0o600") == 0o600
    assert parse_mode(0o660) == 0o660


@pytest.mark.parametrize("mode", ["", "rw", "0690", "0x180", 1.5, [6], None])
def test_not_modes(mode: Any) -> None:
    with pytest.raises(ConfigError):
        parse_mode(mode)


def test_defaults_are_a_valid_configuration() -> None:
    assert dataclasses.asdict(Config()) == DEFAULTS
    assert load(environment={}) == Config()


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().workers = 2  # type: ignore[misc]


def with_setting(setting: str, value: Any) -> Config:
    """The defaults but for one setting."""
    return dataclasses.replace(Config(), **{setting: value})


@pytest.mark.parametrize(
    ("setting", "low", "high"),
    [
        ("memory", limits.MEMORY_BYTES_MIN, limits.MEMORY_BYTES_MAX),
        ("workers", 0, limits.WORKERS_MAX),
        ("shards", 0, limits.SHARDS_MAX),
        ("item_size", limits.ITEM_BYTES_MIN, limits.VALUE_BYTES_MAX),
        ("max_value", 1, limits.VALUE_BYTES_MAX),
        ("queue_depth", limits.QUEUE_DEPTH_MIN, 65_536),
        ("queue_message", limits.QUEUE_MESSAGE_BYTES_MIN, 2**24),
        ("feed_size", limits.FEED_BYTES_MIN, limits.FEED_BYTES_MAX),
        ("spin", 0, 1000),
        ("buffer_memory", limits.BUFFER_BYTES_MIN, limits.MEMORY_BYTES_MAX),
    ],
)
def test_bounds(setting: str, low: int, high: int) -> None:
    for value in (low, high):
        assert getattr(with_setting(setting, value), setting) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=f"{setting} = {value}: use a value from {low}"):
            with_setting(setting, value)


@pytest.mark.parametrize(
    ("setting", "low", "high"),
    [
        ("default_ttl", 0.0, limits.TTL_MS_MAX / 1000),
        ("slow_request", 0.0, limits.TIMEOUT_SECONDS_MAX),
        ("write_behind", 0.0, limits.WRITE_BEHIND_SECONDS_MAX),
        ("negative_ttl", 0.0, limits.NEGATIVE_TTL_SECONDS_MAX),
        ("store_timeout", limits.STORE_TIMEOUT_SECONDS_MIN, limits.STORE_TIMEOUT_SECONDS_MAX),
        ("near_cache_staleness", limits.STALENESS_SECONDS_MIN, limits.STALENESS_SECONDS_MAX),
    ],
)
def test_bounds_of_times(setting: str, low: float, high: float) -> None:
    for value in (low, high):
        assert getattr(with_setting(setting, value), setting) == value
    for value in (math.nextafter(low, -1), high * 1.001, math.nan, math.inf):
        with pytest.raises(ConfigError, match=f"{setting} = .*: use a value from {low}"):
            with_setting(setting, value)


def test_no_feed_at_all_is_below_the_smallest_one() -> None:
    assert Config(feed_size=0).feed_size == 0


def test_the_buffer_is_a_quarter_of_the_memory_unless_said_otherwise() -> None:
    assert Config(memory=64 * limits.MIB).buffer_bytes == 16 * limits.MIB
    assert Config(memory=limits.MIB).buffer_bytes == limits.FRAME_BYTES_MIN
    assert Config(memory=limits.MIB, buffer_memory=5 * limits.MIB).buffer_bytes == 5 * limits.MIB


@pytest.mark.parametrize("value", [2, 2.0, "2", "2.0", " 2e0 "])
def test_a_time_may_be_written_as_any_number(value: Any) -> None:
    loaded = load(flags={"store_timeout": value}, environment={}).store_timeout
    assert (loaded, type(loaded)) == (2.0, float)


def test_a_url_is_neither_empty_nor_endless() -> None:
    longest = "sqlite:///" + "x" * (limits.STORE_URL_BYTES_MAX - 10)
    assert Config(store=longest).store == longest
    for url in ("", longest + "x", longest[:-1] + "é"):
        with pytest.raises(ConfigError, match=f"store has {len(url.encode())} bytes: use"):
            Config(store=url)


@pytest.mark.parametrize("mode", [0o666, 0o601, 0o400, 0o060, 0, 0o4600, 0o1600, -1])
def test_modes_that_lock_us_out_or_others_in(mode: int) -> None:
    with pytest.raises(ConfigError, match="mode"):
        Config(mode=mode, group="users")


def test_group_and_mode_go_together() -> None:
    assert Config(group="users").mode == 0o660
    assert Config(group="users", mode=0o660).mode == 0o660
    with pytest.raises(ConfigError, match="--group"):
        Config(mode=0o660)


def test_a_mode_that_is_told_must_let_the_group_in(tmp_path: Path) -> None:
    for told in ({"mode": "0600", "group": "users"}, {"group": "users", "mode": 0o600}):
        with pytest.raises(ConfigError, match="mode 0600 keeps the group 'users' out; use 0660"):
            load(flags=told, environment={})
    with pytest.raises(ConfigError, match="keeps the group"):
        load(flags={"group": "users"}, environment={"KVSERVE_MODE": "0600"})
    for mode in ("0640", "0620", "0610", "0650"):
        with pytest.raises(ConfigError, match=f"mode {mode} keeps the group 'users' out; use 0660"):
            load(flags={"group": "users", "mode": mode}, environment={})
        with pytest.raises(ConfigError, match="keeps the group"):
            load(flags={"group": "users"}, environment={"KVSERVE_MODE": mode})
        file = tmp_path / "kvserve.toml"
        file.write_text(f'group = "users"\nmode = "{mode}"\n')
        with pytest.raises(ConfigError, match="keeps the group"):
            load(file, environment={})
    assert load(flags={"group": "users", "mode": "0660"}, environment={}).mode == 0o660
    assert load(flags={"mode": "0600"}, environment={}).mode == 0o600


@pytest.mark.parametrize("setting", ["log_level", "log_format"])
@pytest.mark.parametrize("value", ["", "loud", "INFO"])
def test_choices(setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match="use"):
        with_setting(setting, value)


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_text('name = "file"\nworkers = 1\nmemory = "1MiB"\nshards = 4\n')
    environment = {"KVSERVE_WORKERS": "2", "KVSERVE_MEMORY": "2MiB", "KVSERVE_OTHER": "x"}
    loaded = load(file, {"memory": "3MiB", "shards": None}, environment)
    assert (loaded.name, loaded.workers, loaded.memory, loaded.shards) == ("file", 2, 3 * 2**20, 4)


def test_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVSERVE_WORKERS", "7")
    assert load().workers == 7


@pytest.mark.parametrize("left_out", ["writers", "store"])  # one excludes the other
def test_every_setting_can_come_from_every_source(tmp_path: Path, left_out: str) -> None:
    texts = {
        "name": "x",
        "memory": "1MiB",
        "workers": "3",
        "writers": "2",
        "shards": "5",
        "item_size": "64",
        "max_value": "64k",
        "mode": "0660",
        "group": "users",
        "keep": "false",
        "fresh": "yes",
        "queue_depth": "9",
        "queue_message": "4k",
        "log_level": "debug",
        "log_format": "json",
        "default_ttl": "60",
        "slow_request": "0.25",
        "spin": "0",
        "feed_size": "64KiB",
        "buffer_memory": "32MiB",
        "store": "sqlite:///cache.db",
        "write_behind": "1.5",
        "negative_ttl": "5",
        "store_timeout": "0.5",
        "near_cache_staleness": "2",
    }
    assert set(texts) == set(DEFAULTS), "a setting is not tested"
    del texts[left_out]
    from_environment = load(
        environment={f"KVSERVE_{name.upper()}": text for name, text in texts.items()}
    )
    assert load(flags=texts, environment={}) == from_environment
    for name in texts:
        assert getattr(from_environment, name) != DEFAULTS[name], name
    file = tmp_path / "kvserve.toml"
    settings = dataclasses.asdict(from_environment)
    file.write_text("\n".join(f"{name} = {toml(value)}" for name, value in settings.items()))
    assert load(file, environment={}) == from_environment


def toml(value: Any) -> str:
    """A setting as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_empty_variable_is_no_setting() -> None:
    assert load(environment={"KVSERVE_MEMORY": "", "KVSERVE_KEEP": ""}) == Config()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("workers = 'two'", "workers"),
        ("workers = 1.5", "workers"),
        ("workers = true", "workers"),
        ("workers = [1]", "workers"),
        ("memory = 'much'", "size"),
        ("memory = true", "size"),
        ("memory = {}", "size"),
        ("mode = 'rw'", "mode"),
        ("mode = 1.5", "mode"),
        ("mode = [6]", "mode"),
        ("keep = 1", "keep"),
        ("keep = 'maybe'", "keep"),
        ("name = 5", "name"),
        ("group = 100", "group"),
        ("log_level = 7", "log_level"),
        ("spin = 1.5", "spin"),
        ("spin = 1001", "spin = 1001: use a value from 0 to 1000"),
        ("store = 0", "store"),
        ("default_ttl = true", "default_ttl"),
        ("default_ttl = 'soon'", "default_ttl = 'soon' is not a number"),
        ("default_ttl = [1]", "default_ttl"),
        ("default_ttl = nan", "default_ttl = nan: use a value from"),
        ("slow_request = -0.1", "slow_request = -0.1: use a value from"),
        ("feed_size = 1", "feed_size = 1: use a value from"),
        ("workres = 2", "workres"),
        ("[server]\nworkers = 2", "server"),
        ("workers = ", "TOML"),
        ("workers = 2\nworkers = 3", "TOML"),
        ("name = '\\xff'", "TOML"),
    ],
)
def test_bad_file(tmp_path: Path, line: str, text: str) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_bytes(line.replace("\\xff", "\udcff").encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=text):
        load(file, environment={})


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent.toml", environment={})
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path, environment={})


def test_unknown_key_lists_the_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_text("max_values = 3")
    with pytest.raises(ConfigError, match=r"unknown key 'max_values'; known: name, memory"):
        load(file, environment={})


LIVE_ONES = {
    "log_level": "debug", "default_ttl": "60", "max_value": "64KiB", "slow_request": "0.25",
    "spin": "0", "negative_ttl": "5", "store_timeout": "1", "near_cache_staleness": "2",
    "buffer_memory": "32MiB",
}  # fmt: skip


def test_the_live_settings() -> None:
    assert set(config.LIVE) == set(LIVE_ONES)
    for name, text in LIVE_ONES.items():
        changed = config.adjusted(Config(), name, text)
        assert changed == load(flags={name: text}, environment={}) != Config()


@pytest.mark.parametrize("setting", sorted(set(DEFAULTS) - set(LIVE_ONES)))
def test_what_needs_a_restart_says_why(setting: str) -> None:
    flag = setting.replace("_", "-")
    text = rf"^{setting} cannot change while the server runs: .+; restart it with another --{flag}$"
    with pytest.raises(ConfigError, match=text):
        config.adjusted(Config(), setting, DEFAULTS[setting])


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("wokers", "2", "unknown key 'wokers'; known: name, memory"),
        ("log_level", "loud", "use one of debug, info"),
        ("max_value", "big", "max_value: 'big' is not a size"),
        ("max_value", "0", "max_value = 0: use a value from 1"),
        ("spin", "0.5", "spin = '0.5' is not a whole number"),
    ],
)
def test_bad_changes(name: str, value: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config.adjusted(Config(), name, value)


def test_every_setting_has_a_sentence() -> None:
    assert list(describe()) == list(DEFAULTS)
    assert all(text.endswith(".") for text in describe().values())


def test_sample_file_lists_every_setting_with_its_default() -> None:
    """In the sample every setting is a comment: uncommented, it is the default configuration."""
    sample = SAMPLE.read_text()
    assert tomllib.loads(sample) == {}
    settings = [
        line.removeprefix("#").strip()
        for line in sample.splitlines()
        if line.lstrip("# ").partition("=")[0].strip() in DEFAULTS and "=" in line
    ]
    assert [line.partition("=")[0].strip() for line in settings] == list(DEFAULTS)
    values = tomllib.loads("\n".join(settings))
    assert config.load(flags=values, environment={}) == Config()


def test_a_setting_by_its_old_name_is_refused_with_its_new_one(tmp_path: Path) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_text("absence_ttl = 5.0\n")
    with pytest.raises(ConfigError, match="absence_ttl is called negative_ttl now"):
        load(file, environment={})
    with pytest.raises(ConfigError, match="KVSERVE_ABSENCE_TTL is called KVSERVE_NEGATIVE_TTL now"):
        load(environment={"KVSERVE_ABSENCE_TTL": "5"})
    assert not set(config.RENAMED) & set(describe())
    assert set(config.RENAMED.values()) <= set(describe())

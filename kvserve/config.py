"""The server's frozen configuration: defaults < file < environment < flags.

This module lists all settings; the file config/kvserve.toml and the flags of `kvserve serve`
follow it, and a test compares them. Settings in LIVE can change while the server runs, by
`kvserve config set` or a reload of the file; see kvserve/live/settings.py.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvserve import limits
from kvserve.errors import ConfigError
from kvserve.toml_file import read_settings, told
from kvserve.units import format_size, parse_mode, parse_size

ENVIRONMENT_PREFIX = "KVSERVE_"
RENAMED = {"absence_ttl": "negative_ttl"}  # by the old name, in files and variables
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
SIZES = ("memory", "item_size", "max_value", "queue_message", "feed_size", "buffer_memory")
_LOCAL_STORES = ("none", "sqlite:")
_GROUP = re.compile(r"[^\0-\x1f:]{0,256}")


def _setting(default: Any, help_text: str, fixed: str = "") -> Any:
    """A field of Config; `fixed`, if given, is why it cannot change while the server runs."""
    return field(default=default, metadata={"help": help_text, "fixed": fixed})


_LAID_OUT = "the table was laid out for it"
_QUEUES = "the queues were made with it"
_GRANTED = "the kernel objects were made with it"
_AT_THE_START = "it says what a start does"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of `kvserve serve`. Sizes are bytes; 0 workers or shards mean "choose".

    Raises:
        ConfigError: a value is out of its range.

    Example:
        >>> Config(memory=256 * 2**20, workers=2).max_value
        1048576
    """

    name: str = _setting(
        "default",
        "The instance's name; clients find it by this.",
        fixed="all kernel objects are named after it",
    )
    memory: int = _setting(
        limits.MEMORY_BYTES_DEFAULT,
        "Shared memory for table and hints, taken at the start.",
        fixed=_LAID_OUT,
    )
    workers: int = _setting(
        0,
        "Worker processes; 0 takes one for two cores, at most 4.",
        fixed="each worker has its shards",
    )
    writers: int = _setting(
        0,
        "Processes that may write into the table themselves at once; 0: only the workers.",
        fixed="the feed was laid out for it",
    )
    shards: int = _setting(0, "Parts of the table, each with a lock; 0 chooses.", fixed=_LAID_OUT)
    item_size: int = _setting(
        limits.ITEM_BYTES_DEFAULT,
        "Expected average of key and value together; sizes the index.",
        fixed=_LAID_OUT,
    )
    max_value: int = _setting(
        limits.VALUE_BYTES_DEFAULT, "Largest value; lowered where the table is too small for it."
    )
    default_ttl: float = _setting(
        0.0, "Seconds to live for what is written without a ttl; 0 never expires."
    )
    mode: int = _setting(
        0o600, "Permissions of the kernel objects: 0600, or 0660 with a group.", fixed=_GRANTED
    )
    group: str = _setting(
        "", "Group whose members may be clients; implies mode 0660.", fixed=_GRANTED
    )
    keep: bool = _setting(
        True,
        "Keep the table when the server stops, for a warm restart.",
        fixed="a server's end is decided at its start",
    )
    fresh: bool = _setting(
        False, "Start with an empty table, whatever was kept.", fixed=_AT_THE_START
    )
    queue_depth: int = _setting(
        limits.QUEUE_DEPTH,
        "Messages in a worker's queue; lowered to what the system allows.",
        fixed=_QUEUES,
    )
    queue_message: int = _setting(
        limits.QUEUE_MESSAGE_BYTES,
        "Largest frame that goes through a queue; larger ones: FIFO.",
        fixed=_QUEUES,
    )
    buffer_memory: int = _setting(
        0, "Memory for requests and replies on their way, in each worker; 0: a quarter of memory."
    )
    log_level: str = _setting("info", "debug, info, warning or error.")
    log_format: str = _setting(
        "text", "text or json, one line an event.", fixed="what reads the log expects one format"
    )
    slow_request: float = _setting(
        0.0, "Log requests that take a worker longer than these seconds; 0 logs none."
    )
    spin: int = _setting(
        limits.SPIN_MICROSECONDS_DEFAULT,
        "Microseconds that a client looks for a reply before it sleeps.",
    )
    feed_size: int = _setting(
        limits.FEED_BYTES_DEFAULT,
        "Memory for the change feed, for each worker and writer; 0: no feed.",
        fixed="the feed was laid out for it",
    )
    store: str = _setting(
        "none",
        "URL of the database behind the cache, sqlite:// or valkey://; none: no store.",
        fixed="the workers have it open",
    )
    write_behind: float = _setting(
        0.0,
        "Seconds that a write may wait for the store; 0: it is stored before it is acknowledged.",
        fixed="writes may be waiting",
    )
    negative_ttl: float = _setting(
        0.0, "Seconds to remember that the store has no such key; 0 asks it each time."
    )
    store_timeout: float = _setting(2.0, "Seconds after which the store counts as unavailable.")
    near_cache_staleness: float = _setting(
        1.0, "Seconds that a value may be older than in a shared store whose link is lost."
    )

    def __post_init__(self) -> None:
        if self.group and self.mode == 0o600:
            object.__setattr__(self, "mode", 0o660)
        self._check_range("memory", limits.MEMORY_BYTES_MIN, limits.MEMORY_BYTES_MAX)
        self._check_range("workers", 0, limits.WORKERS_MAX)
        self._check_range("writers", 0, limits.WRITERS_MAX)
        self._check_range("shards", 0, limits.SHARDS_MAX)
        self._check_range("item_size", limits.ITEM_BYTES_MIN, limits.VALUE_BYTES_MAX)
        self._check_range("max_value", 1, limits.VALUE_BYTES_MAX)
        self._check_range("queue_depth", limits.QUEUE_DEPTH_MIN, 65_536)
        self._check_range("queue_message", limits.QUEUE_MESSAGE_BYTES_MIN, 2**24)
        if self.buffer_memory:
            low, high = limits.BUFFER_BYTES_MIN, limits.MEMORY_BYTES_MAX
            self._check_range("buffer_memory", low, high)
        self._check_range("default_ttl", 0.0, limits.TTL_MS_MAX / 1000)
        self._check_range("slow_request", 0.0, limits.TIMEOUT_SECONDS_MAX)
        self._check_range("spin", 0, limits.SPIN_MICROSECONDS_MAX)
        if self.feed_size:
            self._check_range("feed_size", limits.FEED_BYTES_MIN, limits.FEED_BYTES_MAX)
        self._check_store()
        if self.mode & ~0o770 or self.mode & 0o600 != 0o600:
            raise ConfigError(f"mode {self.mode:04o}: use 0600, or 0660 with a group")
        if self.mode & 0o070 and not self.group:
            raise ConfigError(f"mode {self.mode:04o} opens the cache to a group; name it: --group")
        if not _GROUP.fullmatch(self.group):
            raise ConfigError(f"group {told(self.group)} is no name of a group")
        if self.group and self.mode & 0o060 != 0o060:
            raise _group_kept_out(self.group, self.mode)
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(
                f"log_level {told(self.log_level)}: use one of {', '.join(LOG_LEVELS)}"
            )
        if self.log_format not in LOG_FORMATS:
            raise ConfigError(f"log_format {told(self.log_format)}: use {' or '.join(LOG_FORMATS)}")

    @property
    def buffer_bytes(self) -> int:
        """How much memory each worker may take for requests and replies in progress."""
        return self.buffer_memory or limits.buffer_bytes(self.memory, self.max_value)

    @property
    def has_remote_store(self) -> bool:
        """Whether the store is another server."""
        return not self.store.startswith(_LOCAL_STORES)

    def _check_store(self) -> None:
        size_bytes = len(self.store.encode(errors="surrogateescape"))  # whatever the locale
        if not 0 < size_bytes <= limits.STORE_URL_BYTES_MAX:
            raise ConfigError(
                f"store has {size_bytes} bytes: use a URL of at most "
                f"{limits.STORE_URL_BYTES_MAX}, or none"
            )
        if self.writers and self.store != "none":
            raise ConfigError(
                f"writers = {self.writers}: with a store all writes go through the workers; use 0"
            )
        self._check_range("write_behind", 0.0, limits.WRITE_BEHIND_SECONDS_MAX)
        self._check_range("negative_ttl", 0.0, limits.NEGATIVE_TTL_SECONDS_MAX)
        low, high = limits.STORE_TIMEOUT_SECONDS_MIN, limits.STORE_TIMEOUT_SECONDS_MAX
        self._check_range("store_timeout", low, high)
        low, high = limits.STALENESS_SECONDS_MIN, limits.STALENESS_SECONDS_MAX
        self._check_range("near_cache_staleness", low, high)

    def _check_range(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} = {told(value)}: use a value from {low} to {high}")


_FIXED = {setting.name: setting.metadata["fixed"] for setting in dataclasses.fields(Config)}
LIVE = tuple(name for name, reason in _FIXED.items() if not reason)


def describe() -> dict[str, str]:
    """One sentence for each setting, in the order of the fields."""
    return {setting.name: setting.metadata["help"] for setting in dataclasses.fields(Config)}


def show(name: str, value: Any) -> str:
    """A setting's value as a flag or a variable would give it.

    Example:
        >>> show("mode", 0o600), show("memory", 48 * 2**20), show("keep", True), show("spin", 50)
        ('0600', '48 MiB', 'true', '50')
    """
    if name == "mode":
        return f"{value:04o}"
    if name in SIZES:
        return format_size(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def adjusted(running: Config, name: str, value: Any) -> Config:
    """The configuration of a running server with one setting changed.

    Args:
        running: the present configuration.
        name: one of LIVE.
        value: as in a file or a variable.

    Raises:
        ConfigError: there is no such setting, it cannot change now, or the value is bad.

    Example:
        >>> adjusted(Config(), "log_level", "debug").log_level
        'debug'
    """
    check_known(name)
    if reason := _FIXED[name]:
        raise ConfigError(
            f"{name} cannot change while the server runs: {reason}; "
            f"restart it with another --{name.replace('_', '-')}"
        )
    return dataclasses.replace(running, **{name: _converted(name, value)})


def check_known(name: str) -> None:
    """Raises ConfigError unless there is a setting of this name."""
    if name in RENAMED:
        raise ConfigError(f"{name} is called {RENAMED[name]} now")
    if name not in _FIXED:
        raise ConfigError(f"unknown key {told(name)}; known: {', '.join(_FIXED)}")


def load(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """The configuration from all its sources; a later one wins: file, environment, flags.

    Args:
        file: a TOML file, or None.
        flags: settings by name; those that are None were not given.
        environment: variables, `KVSERVE_MEMORY` and so on; default: this process's.

    Raises:
        ConfigError: a file that cannot be read, an unknown key, a bad value.

    Example:
        >>> load(flags={"memory": "64MiB"}, environment={"KVSERVE_WORKERS": "3"}).workers
        3
    """
    settings: dict[str, Any] = {}
    if file is not None:
        settings |= _from_file(file)
    settings |= _from_environment(os.environ if environment is None else environment)
    settings |= {name: value for name, value in (flags or {}).items() if value is not None}
    values = {name: _converted(name, value) for name, value in settings.items()}
    if values.get("group") and values.get("mode") == 0o600:
        # Here 0600 was given explicitly: a group implies 0660 only if no mode is given.
        raise _group_kept_out(values["group"], 0o600)
    return Config(**values)


def _group_kept_out(group: str, mode: int) -> ConfigError:
    return ConfigError(
        f"mode {mode:04o} keeps the group {group!r} out; use 0660, or leave out the mode: "
        "its members must read and write to be clients"
    )


def _from_file(file: Path) -> dict[str, Any]:
    settings = read_settings(file)
    try:
        for name in settings:
            check_known(name)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return settings


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Raises ConfigError for a setting's old name, which would be ignored silently."""
    for name, new in RENAMED.items():
        if environment.get(variable := ENVIRONMENT_PREFIX + name.upper()):
            raise ConfigError(f"{variable} is called {ENVIRONMENT_PREFIX}{new.upper()} now")
    return {
        name: environment[variable]
        for name in describe()
        if environment.get(variable := ENVIRONMENT_PREFIX + name.upper())
    }


def _converted(name: str, value: Any) -> Any:
    try:
        return _convert(name, value)
    except ConfigError as error:
        if name in str(error):
            raise
        raise ConfigError(f"{name}: {error}") from None


def _convert(name: str, value: Any) -> Any:
    if name in SIZES:
        return parse_size(value)
    if name == "mode":
        return parse_mode(value)
    kind = type(getattr(_DEFAULTS, name))
    if kind is bool and isinstance(value, str):
        if value.lower() not in ("0", "1", "true", "false", "yes", "no"):
            raise ConfigError(f"{name} = {told(value)}: use true or false")
        return value.lower() in ("1", "true", "yes")
    if kind is int and isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise ConfigError(f"{name} = {told(value)} is not a whole number") from None
    if kind is float and type(value) in (int, float, str):  # TOML's 2 is as good as its 2.0
        try:
            return float(value)
        except (ValueError, OverflowError):
            raise ConfigError(f"{name} = {told(value)} is not a number") from None
    if type(value) is not kind:
        raise ConfigError(f"{name} = {told(value)}: expected {kind.__name__}")
    return value


_DEFAULTS = Config()

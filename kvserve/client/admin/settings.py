"""Reads and changes the settings of a running server, and checks that its workers apply them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from kvserve import config as configuration
from kvserve.client.blocking.workers import WorkerPool
from kvserve.client.follower import require_server
from kvserve.client.options import Options
from kvserve.config import Config
from kvserve.errors import ConfigError, ForeignObject, KvserveError
from kvserve.live import settings
from kvserve.live.applying import from_page, to_page
from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.objects import as_user, user_name
from kvserve.protocol import commands
from kvserve.runtime import named_errors, not_served, verify_directory
from kvserve.units import format_size

APPLY_SECONDS = 2.0  # twenty times the interval at which a worker looks
_ANSWER_SECONDS = 0.2  # of one worker; it is asked again
_POLL_SECONDS = 0.02


class Change(NamedTuple):
    """The result of a change.

    Args:
        old, new: its values.
        version: of the settings with the new value.
    """

    old: Any
    new: Any
    version: int


def running(names: Names) -> Config:
    """The configuration of a running server.

    Raises:
        ServerUnavailable: no server runs.
        ForeignObject: this user may not read the settings, or the page is not one of ours.
    """
    with _found(names):
        owner_uid = verify_directory(names)
        with closing(settings.attach(names, owner_uid)) as page:
            return from_page(page.read().values)


def change(names: Names, name: str, value: Any) -> Change:
    """Changes one live setting of a running server, unless it has this value already.

    Args:
        names: the instance's.
        name: one of `config.LIVE`.
        value: as in a file or a variable.

    Raises:
        ConfigError: there is no such setting, it cannot change now, or the value is bad.
        ServerUnavailable: no server runs.
        ServerBusy: another process is changing the settings and does not finish.
        ForeignObject: the server is another user's.
    """
    with _found(names) as manifest:
        _require_owner(names, name)
        with settings.writing(names) as page:
            found = page.read()
            old = from_page(found.values)
            new = configuration.adjusted(old, name, value)
            if new.max_value > manifest.value_bytes_max:
                raise ConfigError(
                    f"max_value = {format_size(new.max_value)}: the table was made for values of "
                    f"at most {format_size(manifest.value_bytes_max)}; "
                    "restart the server with another --max-value"
                )
            version = found.version if new == old else page.publish(to_page(new))
    return Change(getattr(old, name), getattr(new, name), version)


def lagging(names: Names, version: int, seconds: float = APPLY_SECONDS) -> list[int]:
    """Waits until every worker has applied a version; returns those that had not in time.

    Args:
        names: the instance's.
        version: of the settings.
        seconds: how long to wait.

    Raises:
        ServerUnavailable: no server runs any more.
    """
    give_up = time.monotonic() + seconds
    with _found(names) as manifest:
        options = Options(timeout=_ANSWER_SECONDS)
        workers = WorkerPool(names, manifest, options, on_manifest=lambda _: None)
        with closing(workers):
            late = list(range(manifest.workers))
            while late and time.monotonic() < give_up:
                index = late.pop(0)
                if not _has_applied(workers, index, version):
                    late.append(index)  # a silent worker must not delay the others
                    time.sleep(_POLL_SECONDS)
            return sorted(late)


def _has_applied(workers: WorkerPool, index: int, version: int) -> bool:
    """Whether a worker reports that it runs these settings, or later ones."""
    try:
        figures = workers.ask(commands.STATS, (), index, workers.deadline())
    except KvserveError:
        return False
    return bool(figures["settings_version"] >= version)


@contextmanager
def _found(names: Names) -> Iterator[Manifest]:
    """The manifest of a running server, for a block of code that uses its page."""
    with named_errors():
        manifest = require_server(names)
        try:
            yield manifest
        except FileNotFoundError:  # the server stopped meanwhile
            raise not_served(names) from None


def _require_owner(names: Names, name: str) -> None:
    owner_uid = verify_directory(names)
    if owner_uid != os.geteuid():
        command = as_user(owner_uid, f"kvserve config set {name} VALUE --name {names.name}")
        raise ForeignObject(
            f"only {user_name(owner_uid)}, whose server this is, can change its settings: {command}"
        )

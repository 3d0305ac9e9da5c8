"""`kvserve doctor`: all checks in order, and those that a server must pass before it starts."""

from __future__ import annotations

from collections.abc import Callable

from kvserve.config import Config
from kvserve.errors import ForeignObject, LimitError
from kvserve.names import Names
from kvserve.parent.adoption import wanted_geometry
from kvserve.parent.finding import Finding
from kvserve.parent.group_checks import check_memory_limit
from kvserve.parent.instance_checks import check_leftovers, check_permissions, check_served
from kvserve.parent.starting import workers_wanted
from kvserve.parent.system_checks import (
    check_descriptors,
    check_logout,
    check_namespaces,
    check_queues,
    check_shared_memory,
)


def doctor(names: Names, config: Config) -> list[Finding]:
    """Runs all checks. Changes nothing; makes queues under a random name, and removes them.

    Args:
        names: the instance that would be served.
        config: how it would be served.

    Raises:
        ConfigError: the memory is too small for the items.

    Example:
        >>> from kvserve.names import instance
        >>> [finding.check for finding in doctor(instance("docs"), Config(name="docs"))][:2]
        ['shared memory', 'memory limit']
    """
    wanted_geometry(names, config, workers_wanted(config))  # fails where a server would
    checks: tuple[Callable[[Names, Config], Finding], ...] = (
        check_shared_memory,
        check_memory_limit,
        check_queues,
        check_descriptors,
        check_logout,
        check_namespaces,
        check_permissions,
        check_leftovers,
        check_served,
    )
    return [check(names, config) for check in checks]


def start_checks(names: Names, config: Config) -> None:
    """The checks that a server must pass before it makes anything.

    The queues are not checked: the start makes them first, and removes them if they do not fit.

    Raises:
        ForeignObject: an object of this name is another user's.
        LimitError: any other fatal finding, with the command that fixes it.
    """
    permissions = check_permissions(names, config)
    if not permissions.ok:
        raise ForeignObject(f"{permissions.text}; fix: {permissions.fix}")
    for check in (check_descriptors, check_shared_memory, check_memory_limit):
        finding = check(names, config)
        if finding.fatal and not finding.ok:
            raise LimitError(f"{finding.text}; fix: {finding.fix}")

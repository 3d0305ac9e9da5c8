"""The manifest of an instance: the objects that its parent made, in its runtime directory.

Nothing else can list the queues, since /dev/mqueue may not be mounted.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple, Self

from kvserve.descriptors import Descriptor
from kvserve.errors import ForeignObject, InternalError
from kvserve.names import Names
from kvserve.objects import unlink_file
from kvserve.runtime import not_served
from kvserve.shortages import room_for

_MANIFEST_BYTES_MAX = 1024 * 1024


class Manifest(NamedTuple):
    """What a running instance consists of, written by its parent for clients and for `clean`.

    Args:
        instance_id: 32 hex digits, new with every table.
        pid: the parent's.
        workers, shards: their numbers; shard s is served by worker s % workers.
        writers: how many other processes may write into the table.
        queue_message_bytes: the longest frame that goes through a queue.
        value_bytes_max: the largest value.
        group_id: the group whose members may be clients, or None.
        memory_objects, semaphores, queues: the names of all kernel objects.
    """

    instance_id: str
    pid: int
    protocol_version: int
    layout_version: int
    workers: int
    writers: int
    shards: int
    queue_message_bytes: int
    queue_depth: int
    value_bytes_max: int
    group_id: int | None
    memory_objects: dict[str, int]
    semaphores: list[str]
    queues: list[str]

    def write(self, names: Names) -> None:
        """Replaces the manifest in one step."""
        temporary = names.manifest.with_suffix(".new")
        unlink_file(temporary)
        with room_for(names.manifest):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
            with os.fdopen(descriptor, "w") as file:
                if self.group_id is not None:
                    os.fchown(descriptor, -1, self.group_id)
                json.dump(self._asdict(), file, indent=1)
            temporary.replace(names.manifest)

    @classmethod
    def read(cls, names: Names) -> Self:
        """The manifest of an instance.

        Raises:
            ServerUnavailable: there is none.
            ForeignObject: it is not a manifest of this version of kvserve.
        """
        try:
            file = Descriptor.open(names.manifest, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise not_served(names) from None
        try:
            with file:
                content = os.read(file.number, _MANIFEST_BYTES_MAX)
            fields = json.loads(content)
            if set(fields) != set(cls._fields):
                raise InternalError("other fields")
            return cls(**fields)
        except (ValueError, TypeError, InternalError, BlockingIOError) as error:
            raise ForeignObject(f"{names.manifest} is not a manifest of ours: {error}") from None

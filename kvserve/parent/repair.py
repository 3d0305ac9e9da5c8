"""Watches the names of a server's objects, and makes vanished ones again where that is safe.

A name can vanish under a live server: a cleaner of temporary files removes the runtime directory,
systemd's RemoveIPC unlinks all objects of a user who logs out, an operator removes by hand what
looks left over. Attached processes go on, new ones find nothing: two halves that do not see each
other. An object that processes only look up by name, or open anew for each session, can be made
again:

- the runtime directory, the directory of the clients' FIFOs, the manifest and the log;
- the pid file, with a lock of its own. The workers hold the old file's lock; until they are gone
  the lock on the table's segment, which they hold as well, keeps other servers away;
- a worker's queue. Its worker receives from the old one, so it leaves, and its successor opens the
  new one; to clients that is like any death of a worker.

An object that processes have mapped or locked cannot: a process with the old one never sees the
new one. These are the table and its hints, the lease file, whose record locks show which processes
live, the semaphores, the feed and the settings. Without one of these the server stops, and logs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.parent.daemon import Daemon
from kvserve.parent.housekeeping import NameWatch, identity
from kvserve.parent.logs import Log
from kvserve.runtime import PidFile, prepare_directory
from kvserve.transport.mqueue import create_queue, queue_identity


class Repair:
    """The names of a server's objects, all of which exist when this is made.

    Args:
        names: the instance's.
        manifest: as it was written.
        mode: of a queue.
        pid_file: held by this process.
        daemon: has the log file, if it is a daemon.
        log: where it logs what was made again.
        replace_worker: makes a worker leave, given its index; its successor opens the new queue.
    """

    def __init__(
        self,
        names: Names,
        manifest: Manifest,
        mode: int,
        pid_file: PidFile,
        daemon: Daemon | None,
        log: Log,
        replace_worker: Callable[[int], None],
    ) -> None:
        self._names = names
        self._manifest = manifest
        self._mode = mode
        self._pid_file = pid_file
        self._daemon = daemon
        self._log = log
        self._replace_worker = replace_worker
        self._watch = NameWatch(manifest.memory_objects, manifest.semaphores)
        self._manifest_identity = identity(names.manifest)
        self._queues = {name: queue_identity(name) for name in manifest.queues}
        self._log_was_lost = False

    def lost(self) -> list[str]:
        """What cannot be made again: names that lead elsewhere, or, of shared memory, nowhere."""
        replaced = [
            name
            for name, known in self._queues.items()
            if queue_identity(name) not in (known, None)
        ]
        return [*map(str, self._watch.vanished()), *replaced]

    def repair(self) -> None:
        """Makes again what can be made again.

        Raises:
            KvserveError, OSError: something cannot be made just now; the next call tries again.
        """
        self._fix_queues()
        self._fix_files()
        self._fix_log()

    def _fix_queues(self) -> None:
        depth, size_bytes = self._manifest.queue_depth, self._manifest.queue_message_bytes
        for index, (name, known) in enumerate(self._queues.items()):
            if queue_identity(name) == known:
                continue
            create_queue(name, depth, size_bytes, self._mode, self._manifest.group_id)
            self._queues[name] = queue_identity(name)
            self._say(f"the message queue {name}", f"worker {index} is replaced to receive from it")
            self._replace_worker(index)

    def _fix_files(self) -> None:
        names, group_id = self._names, self._manifest.group_id
        for directory in (names.runtime_directory, names.clients_directory):
            if not directory.is_dir():
                prepare_directory(names, group_id)
                self._say(str(directory), "clients that are connected did not notice")
        if not self._pid_file.leads_here(names):
            self._pid_file.renew(names)
            if group_id is not None:
                os.chown(names.pid_file, -1, group_id)
            self._say(str(names.pid_file))
        if self._manifest_identity is None or identity(names.manifest) != self._manifest_identity:
            self._manifest_identity = None
            self._manifest.write(names)
            self._manifest_identity = identity(names.manifest)
            self._say(str(names.manifest))

    def _fix_log(self) -> None:
        """Reopens a log that is gone at two checks in a row; at one, a rotation may be at work."""
        was_lost, self._log_was_lost = self._log_was_lost, False
        if self._daemon is not None and self._daemon.has_lost_log:
            self._log_was_lost = True
            if was_lost:
                self._daemon.open_log()
                self._say(str(self._names.log_file))

    def _say(self, what: str, also: str = "") -> None:
        text = f"{what} was removed by another process, and is made again"
        self._log.warning(f"{text}; {also}" if also else text)

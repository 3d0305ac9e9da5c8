"""POSIX message queues: small requests to a worker, the urgent ones first.

A queue outlives the worker that reads it, so its successor goes on with the requests in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets

import posix_ipc

from kvserve import limits
from kvserve.descriptors import Descriptor
from kvserve.errors import ForeignObject, LimitError, ServerUnavailable
from kvserve.names import Names
from kvserve.objects import grant, is_from_system, taken_over

MESSAGE_OVERHEAD_BYTES = 96  # what the kernel adds to each when it counts, see getrlimit(2)


class SendingQueue:
    """A worker's queue, opened by a client for sending.

    Raises:
        ServerUnavailable: there is none of this name.
        ForeignObject: it is not the expected owner's, or open to all users.
    """

    def __init__(self, name: str, owner_uid: int) -> None:
        self.file = _open(name, owner_uid, os.O_WRONLY)
        self.held_bytes = 0  # a queue takes a message whole or not at all

    @property
    def descriptor(self) -> int:
        return self.file.number

    def offer(self, frame: bytes, priority: int) -> bool:
        return self.file.send(frame, priority)

    def flush(self) -> bool:
        return True

    @property
    def message_bytes(self) -> int:
        """The longest message that it takes."""
        return self.file.queue_state()[0]

    @property
    def is_unlinked(self) -> bool:
        """Whether its name is gone, so that no new server will ever receive from it."""
        return os.fstat(self.file.number).st_nlink == 0

    def close(self) -> None:
        self.file.close()


class ReceivingQueue:
    """A worker's own queue, opened for receiving. Raises as `SendingQueue` does."""

    def __init__(self, name: str, owner_uid: int) -> None:
        self.file = _open(name, owner_uid, os.O_RDONLY)
        self._message_bytes, _ = self.file.queue_state()

    @property
    def descriptor(self) -> int:
        return self.file.number

    def receive(self) -> bytes | None:
        return self.file.receive(self._message_bytes)

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return self.file.queue_state()[1]

    def close(self) -> None:
        self.file.close()


def _open(name: str, owner_uid: int, flags: int) -> Descriptor:
    try:
        queue = Descriptor.open_queue(name, flags | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ServerUnavailable(
            f"the message queue {name} is not in sight: its server has just stopped, or runs in "
            "another ipc namespace, as a container has; share it, see docker run --ipc"
        ) from None
    except PermissionError:
        raise ForeignObject(f"not permitted to open the message queue {name}") from None
    except OSError as error:
        if not is_from_system(error):
            raise
        raise LimitError(
            f"the message queue {name} cannot be opened: {error.strerror}; "
            "raise the limit: ulimit -n"
        ) from None
    status = os.fstat(queue.number)
    if status.st_uid != owner_uid or status.st_mode & 0o007:
        queue.close()
        raise ForeignObject(
            f"the message queue {name} belongs to uid {status.st_uid}, mode "
            f"{status.st_mode & 0o777:04o}; expected uid {owner_uid} and no other user's access"
        )
    return queue


def create_queues(
    names: Names, workers: int, depth: int, message_bytes: int, mode: int, group_id: int | None
) -> tuple[int, int]:
    """Makes the workers' queues, all alike, as deep and wide as asked or as the system allows.

    Args:
        names: the instance's.
        workers: how many.
        depth: messages that each holds.
        message_bytes: the longest message.
        mode: permission bits.
        group_id: the group that may send, beside the owner; None: no group.

    Returns:
        The depth and the message size that they got.

    Raises:
        LimitError: not even the smallest fit.
        ForeignObject: a name is taken.
    """
    queues = [names.worker_queue(worker) for worker in range(workers)]
    while True:
        made = []
        try:
            for name in queues:
                create_queue(name, depth, message_bytes, mode, group_id)
                made.append(name)
        except BaseException as error:
            for name in made:
                unlink_queue(name)
            if not isinstance(error, LimitError):
                raise
            if depth > limits.QUEUE_DEPTH_MIN:
                depth = max(limits.QUEUE_DEPTH_MIN, _next_depth(depth))
            elif message_bytes > limits.QUEUE_MESSAGE_BYTES_MIN:
                message_bytes = max(limits.QUEUE_MESSAGE_BYTES_MIN, message_bytes // 2)
            else:
                raise
        else:
            return depth, message_bytes


def _next_depth(depth: int) -> int:
    """The kernel's default of 10 is tried on the way down, since that is what most allow."""
    return 10 if 10 < depth <= 20 else depth // 2


def create_queue(
    name: str, depth: int, message_bytes: int, mode: int, group_id: int | None
) -> None:
    """Makes one queue.

    Raises:
        LimitError: the system's limits do not allow it; the text says which, and what raises it.
        ForeignObject: the name is taken.
    """
    try:
        with taken_over(name):
            queue = posix_ipc.MessageQueue(
                name,
                posix_ipc.O_CREX,
                mode=mode,
                max_messages=depth,
                max_message_size=message_bytes,
            )
    except (OSError, ValueError) as error:
        raise _limit(error, depth, message_bytes) from None
    try:
        grant(queue.mqd, mode, group_id)
    finally:
        queue.close()


def _limit(error: OSError | ValueError, depth: int, message_bytes: int) -> LimitError:
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number is None:
        number = errno.EMFILE  # the library words this one itself, as if files were meant
    wanted = f"a message queue of {depth} messages of {message_bytes} bytes"
    if number == errno.ENOSYS:
        return LimitError(
            "this kernel has no POSIX message queues; "
            "use one with CONFIG_POSIX_MQUEUE=y (gVisor and some serverless hosts lack them)"
        )
    if number in (errno.EMFILE, errno.ENOMEM):
        total = depth * (message_bytes + MESSAGE_OVERHEAD_BYTES)
        return LimitError(
            f"{wanted} is over this user's limit of bytes in queues (RLIMIT_MSGQUEUE); "
            f"raise it by {total} at least: ulimit -q unlimited "
            "(systemd: LimitMSGQUEUE=infinity; Docker: --ulimit msgqueue=-1)"
        )
    if number == errno.ENOSPC:
        return LimitError(
            "the system holds as many message queues as it may; raise it: "
            "sysctl fs.mqueue.queues_max=1024"
        )
    return LimitError(
        f"{wanted} is over the system's limits; raise them: "
        f"sysctl fs.mqueue.msg_max={depth} fs.mqueue.msgsize_max={message_bytes}"
    )


def queue_identity(name: str) -> tuple[int, int] | None:
    """What distinguishes a queue from another one of the same name; None if there is none.

    Raises:
        OSError: it cannot be opened just now.
    """
    try:
        queue = posix_ipc.MessageQueue(name)
    except posix_ipc.ExistentialError:
        return None
    except posix_ipc.PermissionsError:  # another user's, so none that we know
        return 0, 0
    try:
        status = os.fstat(queue.mqd)
        return status.st_dev, status.st_ino
    finally:
        queue.close()


def probe() -> None:
    """Makes and removes a smallest queue, to find out whether queues are available at all.

    Raises:
        LimitError: they are not.
    """
    name = f"/kvserve-probe.{secrets.token_hex(8)}"
    create_queue(name, limits.QUEUE_DEPTH_MIN, limits.QUEUE_MESSAGE_BYTES_MIN, 0o600, None)
    unlink_queue(name)


def unlink_queue(name: str) -> bool:
    """Removes a queue's name; returns whether it was there."""
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_message_queue(name)
        return True
    return False

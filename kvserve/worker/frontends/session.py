"""One client's session, as its worker sees it."""

from __future__ import annotations

import select
from collections import deque

from kvserve.protocol.messages import Reply
from kvserve.transport.fifo import FifoReceiver, FifoSender


class Session:
    """One client's two FIFOs, as its worker sees them."""

    def __init__(
        self, client_id: int, user_id: int, requests: FifoReceiver, replies: FifoSender
    ) -> None:
        self.client_id = client_id
        self.requests = requests
        self.replies = replies
        self.user_id = user_id
        self.hang_up = select.poll()
        self.hang_up.register(requests.descriptor, 0)  # POLLHUP alone
        self.is_paused = False  # nothing is read from it
        self.charged_bytes = 0  # see Budget
        # See Replies.
        self.waits_for_writing = False
        self.refusals = 0  # in a row
        self.held_bytes = 0
        self.delayed: deque[tuple[Reply, int]] = deque()
        self.delayed_bytes = 0
        self.looked = 0.0
        self.read_bytes = 0

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.requests.descriptor >= 0

    def close(self) -> None:
        self.requests.close()
        self.replies.close()

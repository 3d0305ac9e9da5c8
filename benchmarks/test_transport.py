"""What do the carriers cost by themselves: a frame there and back in one process?"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import pytest

from kvserve.descriptors import Descriptor
from kvserve.transport import fifo, mqueue

pytestmark = pytest.mark.benchmark(group="carriers")
LOOPS = {"rounds": 30, "iterations": 1_000, "warmup_rounds": 3}
FRAME = b"x" * 150


def test_queue(benchmark: Any) -> None:
    name = f"/kvserve-bench.{secrets.token_hex(4)}"
    mqueue.create_queue(name, 4, 1024, 0o600, None)
    sender = mqueue.SendingQueue(name, os.geteuid())
    receiver = mqueue.ReceivingQueue(name, os.geteuid())

    def there_and_back() -> None:
        sender.offer(FRAME, 1)
        receiver.receive()

    try:
        benchmark.pedantic(there_and_back, **LOOPS)
    finally:
        sender.close()
        receiver.close()
        mqueue.unlink_queue(name)


@pytest.mark.parametrize("frame_bytes", [150, 4_000, 60_000])
def test_fifo(benchmark: Any, tmp_path: Path, frame_bytes: int) -> None:
    path = tmp_path / "fifo"
    made = fifo.make(path, 0o600, None)
    file = fifo.open_end(path, os.O_RDWR, owner_uid=os.geteuid(), group_id=None)
    sender = fifo.FifoSender(file, 0)
    receiver = fifo.FifoReceiver(Descriptor.adopt(os.dup(file.number)), 2**20)
    frame = b"x" * frame_bytes

    def there_and_back() -> None:
        sender.offer(frame)
        receiver.receive()

    try:
        benchmark.pedantic(there_and_back, **LOOPS)
    finally:
        sender.close()
        receiver.close()
        made.remove()

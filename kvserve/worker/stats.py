"""What a worker counts of its requests: operations by command, and how long each request took.

The times are kept in a histogram whose buckets grow with the time, four to each doubling, as in
HdrHistogram (G. Tene): a bucket is found with a few shifts, takes one number, and gives the times
in it to a quarter. Histograms of several workers, and of several moments, can be added and
subtracted; averages and percentiles cannot.
"""

from __future__ import annotations

import time
from typing import Any

from kvserve.protocol import commands
from kvserve.protocol.messages import STATUS_DONE, Reply, Request

_BUCKETS = 4 * 64  # for times of up to 63 bits
_BATCH = commands.BATCH.code
_GET_MANY = commands.GET_MANY.code


class RequestStats:
    """The counters of one worker. A request that is answered later is counted then.

    Example:
        >>> figures = RequestStats()
        >>> started_ns = time.monotonic_ns()
        >>> request = Request(1, 1, commands.GET, 0, ("key",))
        >>> figures.note(request, Reply(1, STATUS_DONE, None), started_ns) > 0
        True
        >>> figures.stats()["operations"]["get"]
        1
    """

    def __init__(self) -> None:
        codes = 1 + max(commands.BY_CODE)
        self._times = [[0] * _BUCKETS for _ in range(codes)]  # a histogram for each command
        self._batched = [0] * codes  # operations in batches

    def note(self, request: Request, reply: Reply, started_ns: int) -> int:
        """Counts a request that was executed.

        Args:
            request: it.
            reply: its answer; for a batch it shows how many operations were executed.
            started_ns: when it was received, on the monotonic clock.

        Returns:
            How long it took, in nanoseconds.
        """
        taken_ns = time.monotonic_ns() - started_ns | 4  # three bits at least, for the bucket
        code = request.command.code
        bits = taken_ns.bit_length()
        self._times[code][4 * bits + (taken_ns >> bits - 3 & 3)] += 1
        if code >= _BATCH and reply.status == STATUS_DONE:
            self._note_batched(code, request.arguments, reply.answer)
        return taken_ns

    def _note_batched(self, code: int, arguments: Any, answer: Any) -> None:
        if code == _BATCH:
            for operation in arguments[0][: len(answer)]:
                self._batched[operation[0]] += 1
        elif code == _GET_MANY:
            self._batched[commands.GET.code] += len(answer[0])
        elif single := commands.SINGLE_OF.get(code):
            self._batched[single.code] += len(arguments[0])

    def stats(self) -> dict[str, Any]:
        """The statistics by name: what was counted since the worker began."""
        # Not those that only look at a server: looking must not change its times.
        served = [command.code for command in commands.ALL if command.code >= commands.GET.code]
        times = [
            sum(counts) for counts in zip(*(self._times[code] for code in served), strict=True)
        ]
        return {
            "operations": {
                command.name: sum(self._times[command.code]) + self._batched[command.code]
                for command in commands.ALL
                if command is not commands.HELLO  # answered before it becomes a request
            },
            "request_times": {
                _upper_bound_ns(bucket): count for bucket, count in enumerate(times) if count
            },
        }


def _upper_bound_ns(bucket: int) -> int:
    """The bound that all times in a bucket are below.

    Example:
        >>> [_upper_bound_ns(4 * (1000).bit_length() + quarter) for quarter in range(4)]
        [640, 768, 896, 1024]
    """
    bits, quarter = divmod(bucket, 4)
    return (5 + quarter) << bits - 3

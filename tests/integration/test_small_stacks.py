"""The deepest values, by every way, in threads whose stacks are as small as musl's or less."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.servers import PATIENCE_SECONDS, Server

PROGRAM = """
import sys, threading
import kvserve
from kvserve.limits import VALUE_DEPTH_MAX

name, seconds, stack_kib = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
done = []

def nested(wrap, depth):
    value = wrap(0)
    for _ in range(depth - 1):
        value = wrap(value)
    return value

def innermost(value):
    depth = 0
    while value != 0:
        depth += 1
        value = value["k"] if type(value) is dict else value[0]
    return depth

shapes = {"list": lambda v: [v], "tuple": lambda v: (v,), "dict": lambda v: {"k": v}}
depths = (VALUE_DEPTH_MAX, VALUE_DEPTH_MAX + 1, 50_000)
values = {kind: [nested(wrap, depth) for depth in depths] for kind, wrap in shapes.items()}
kept = []  # the main thread frees what was found: CPython 3.13 itself needs a stack for that

def work(cache):
    for kind, (value, *deeper) in values.items():
        cache.set(kind, value)
        cache.set_many({kind: value})
        with cache.pipeline() as pipe:
            pipe.set(kind, value).get(kind)
        found = [
            cache.get(kind), cache.gets(kind)[0], cache.get_many([kind])[kind], pipe.results[1],
            cache.get_or_set(kind + " made", lambda: value),
        ]
        kept.append(found)
        assert [innermost(each) for each in found] == [VALUE_DEPTH_MAX] * 5
        for value in deeper:
            try:
                cache.set(kind, value)
            except kvserve.InvalidValue:
                done.append(kind)

threading.stack_size(stack_kib * 1024)
for how in ({}, {"read": "worker"}, {"read": "worker", "queue_bytes": 0}):
    with kvserve.connect(name, timeout=seconds, **how) as cache:
        thread = threading.Thread(target=work, args=[cache])
        thread.start()
        thread.join()
sys.exit(len(done) != 18)
"""


@pytest.mark.parametrize("stack_kib", [128, 256, 512])
def test_a_value_needs_no_stack(server: Server, stack_kib: int) -> None:
    command = [sys.executable, "-c", PROGRAM, server.name, str(PATIENCE_SECONDS), str(stack_kib)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")

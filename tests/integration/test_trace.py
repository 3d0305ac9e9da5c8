"""A real trace through the client library: its miss ratio is S3-FIFO's."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("read", ["direct", "worker"])
@pytest.mark.parametrize("objects", [204, 2048])
def test_miss_ratio_is_within_a_hundredth(
    monkeypatch: pytest.MonkeyPatch, objects: int, read: str
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import replay

    result = replay.replay(replay.TRACE, objects, read)
    assert result.hits + result.misses == 76_118
    assert abs(result.miss_ratio - replay.S3_FIFO[objects]) < 0.01

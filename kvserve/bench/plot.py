"""Draws what was measured: latencies over percentiles, or hit ratios over memory.

matplotlib is imported only here, since it is an extra. Only its objects are used: no window, no
global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvserve.units import format_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".pdf")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "kvserve",  # the same figures give the same file
    "svg.fonttype": "none",
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_INCHES = (6.4, 4.0)
_POINTS_A_DECADE = 20


def latencies(path: Path, title: str, kinds: Mapping[str, Sequence[int]]) -> None:
    """Draws the latency of each kind of operation over the percentile.

    Args:
        path: where to write; its suffix, one of FORMATS, decides the format.
        title: stands above.
        kinds: sorted nanoseconds by kind of operation.
    """
    figure, axes = _figure(title)
    deepest = 1
    for kind, latencies_ns in kinds.items():
        # The share of operations that are slower: the half, a tenth, a hundredth, ...
        parts = [1.0]
        while parts[-1] * len(latencies_ns) >= 1:
            parts.append(10 ** (-len(parts) / _POINTS_A_DECADE))
        parts.pop()
        slowest = [latencies_ns[-max(1, round(part * len(latencies_ns)))] for part in parts]
        axes.plot(
            [1 / part for part in parts], [latency_ns / 1000 for latency_ns in slowest], label=kind
        )
        deepest = max(deepest, len(str(len(latencies_ns))) - 1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [1, 2, *(10**depth for depth in range(1, deepest + 1))]
    axes.set_xticks(ticks, [f"{100 - 100 / tick:.10g} %" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("so many of the operations ...")
    axes.set_ylabel("... took at most these microseconds")
    axes.legend()
    _save(figure, path)


def hit_ratios(
    path: Path, title: str, points: Sequence[tuple[int, float]], live_bytes: int | None
) -> None:
    """Draws the hit ratio over the memory.

    Args:
        path: where to write; its suffix, one of FORMATS, decides the format.
        title: stands above.
        points: bytes of memory, and the hit ratio with them.
        live_bytes: the memory of the live instance, to be marked.
    """
    figure, axes = _figure(title)
    sizes = [memory_bytes for memory_bytes, _ in points]
    axes.plot(sizes, [ratio for _, ratio in points], marker="o")
    if live_bytes is not None:
        axes.axvline(live_bytes, linestyle=":", color="black", label="the live instance")
        axes.legend()
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [format_size(memory_bytes) for memory_bytes in sizes])
    axes.minorticks_off()
    axes.set_xlabel("memory")
    axes.set_ylabel("hit ratio")
    _save(figure, path)


def _figure(title: str) -> tuple[Figure, Axes]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.add_subplot()
    axes.set_title(title, fontsize="medium")
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)

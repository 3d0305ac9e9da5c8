"""Draws what the results show, as SVG beside them: `python -m benchmarks.pictures`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks import machine
from benchmarks.measuring import STDERR
from benchmarks.report import load, output_option
from kvserve.bench.operations import YCSB
from kvserve.bench.plot import STYLE

Result = dict[str, Any]
PANEL_INCHES = (4.2, 3.6)


def draw_all(output: Path) -> None:
    """Draws every picture whose question was asked."""
    try:
        import matplotlib
    except ImportError:
        STDERR.print("no pictures: matplotlib is not installed: pip install matplotlib")
        return
    matplotlib.use("svg")
    matplotlib.rcParams |= STYLE
    for question, draw in PICTURES.items():
        result = load(output, question)
        if result is None or not result["data"]:
            continue
        figure = draw(result)
        caption = f"{machine.in_a_sentence(result['machine'])}; {result['time']} run"
        figure.text(0.01, 0.005, caption, fontsize=6, color="gray")
        path = output / f"{question}.svg"
        figure.savefig(path, metadata={"Date": None})
        STDERR.print(f"drawn: {path}")


def _panels(titles: list[str], columns: int) -> tuple[Any, list[Any]]:
    from matplotlib import pyplot

    rows = -(-len(titles) // columns)
    size = (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False)
    figure.set_layout_engine("constrained", rect=(0, 0.03, 1, 0.97))  # the caption lies below
    panels = list(axes.flat)
    for panel, title in zip(panels, titles, strict=False):
        panel.set_title(title)
    for panel in panels[len(titles) :]:
        panel.set_axis_off()
    return figure, panels


def _round_trip(result: Result) -> Any:
    """Latency over the size of the value."""
    cells = [(cell["where"], cell["figures"]) for cell in result["data"]["cells"]]
    places = list(dict.fromkeys(where[0] for where, _ in cells))
    figure, panels = _panels([f"one request, {place}" for place in places], 2)
    for panel, place in zip(panels, places, strict=True):
        for line in dict.fromkeys((where[2], where[3]) for where, _ in cells):
            points = [(w[1], f) for w, f in cells if w[0] == place and (w[2], w[3]) == line]
            sizes = [size for size, _ in points]
            (drawn,) = panel.loglog(
                sizes, [f[0] for _, f in points], marker="o", label=f"{line[0]} {line[1]}"
            )
            panel.loglog(sizes, [f[1] for _, f in points], ":", color=drawn.get_color())
        panel.set_xlabel("bytes of the value")
        panel.set_ylabel("us (line: p50, dots: p99)")
    panels[0].legend()
    return figure


def _ycsb(result: Result) -> Any:
    """Operations a second over the number of processes."""
    cells = result["data"]["cells"]
    figure, panels = _panels([f"YCSB {workload}" for workload in YCSB], 3)
    names = list(dict.fromkeys(name for cell in cells for name in cell["figures"]))
    for panel, workload in zip(panels, YCSB, strict=False):
        for index, name in enumerate(names):
            points = [
                (cell["processes"], cell["figures"][name]["operations"])
                for cell in cells
                if cell["workload"] == workload and name in cell["figures"]
            ]
            width = 2.5 if name.startswith("kvserve") else 1.2
            panel.loglog(*zip(*points, strict=True), marker="o", color=f"C{index}",
                         linewidth=width, label=name)  # fmt: skip
        ticks = sorted({cell["processes"] for cell in cells})
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.minorticks_off()
        panel.set_xlabel("processes")
        panel.set_ylabel("operations a second")
    panels[len(YCSB)].legend(*panels[0].get_legend_handles_labels(), loc="center")
    return figure


def _items(result: Result) -> Any:
    """The cost of a get over the number of items."""
    rows = result["data"]["rows"]
    figure, (panel,) = _panels(["keys at random"], 1)
    for column, name in ((2, "get"), (3, "get_many of 100, an item"), (1, "dict.get")):
        panel.loglog(
            [row[0] for row in rows], [row[column] for row in rows], marker="o", label=name
        )
    panel.set_xlabel("items")
    panel.set_ylabel("ns")
    panel.legend()
    return figure


def _hit_ratio(result: Result) -> Any:
    """The hit ratio of the trace over the memory."""
    cells = [cell for cell in result["data"]["cells"] if cell["load"].startswith("trace")]
    figure, (panel,) = _panels([f"{cells[0]['load']}, items of 4 kB"], 1)
    for name in cells[0]["ratios"]:
        memories = [cell["memory_mib"] for cell in cells]
        ratios = [cell["ratios"][name] for cell in cells]
        style = {"linestyle": ":", "color": "black"} if "simulated" in name else {"marker": "o"}
        panel.semilogx(memories, ratios, label=name, **style)
    panel.set_xticks(memories, [str(memory) for memory in memories])
    panel.minorticks_off()
    panel.set_xlabel("MiB")
    panel.set_ylabel("hit ratio")
    panel.legend()
    return figure


def _ipc(result: Result) -> Any:
    """The round trip of each means over the size of the message."""
    cells = result["data"]["cells"]
    kinds = list(dict.fromkeys((cell["place"], cell["way"]) for cell in cells))
    names = list(dict.fromkeys(cell["means"] for cell in cells))
    words = {"block": "blocking", "poll": "polling"}
    figure, panels = _panels([f"{words[way]}, {place}" for place, way in kinds], 2)
    for panel, kind in zip(panels, kinds, strict=True):
        for index, name in enumerate(names):
            points = [
                (cell["bytes"], cell["p50_us"])
                for cell in cells
                if (cell["place"], cell["way"]) == kind and cell["means"] == name
            ]
            if points:
                panel.loglog(*zip(*points, strict=True), marker=".", color=f"C{index}", label=name)
        panel.set_ylim(1e-3, 2e4)
        panel.set_xlabel("bytes of the message")
        panel.set_ylabel("round trip, p50, us")
    panels[0].legend(*panels[-1].get_legend_handles_labels(), fontsize=7)  # polling has all
    return figure


PICTURES: dict[str, Callable[[Result], Any]] = {
    "round_trip": _round_trip,
    "ycsb": _ycsb,
    "items": _items,
    "hit_ratio": _hit_ratio,
    "ipc": _ipc,
}


@click.command()
@output_option
def main(output: Path) -> None:
    """Draws the pictures of the results in --output."""
    draw_all(output)


if __name__ == "__main__":
    main()

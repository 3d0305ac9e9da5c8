"""The statistics in the text format that Prometheus collects (its exposition format 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvserve.stats.catalog import INSTANCE, NODE, STORE, WORKER, Statistic

# What other metrics show, and what has metrics of its own.
_LEFT_OUT = {"workers", "request_times", "hit_ratio", "store"}


def exposition(stats: Mapping[str, Any]) -> str:
    """The statistics of an instance, those of a worker labelled with its index.

    Args:
        stats: as `Client.stats` returns them.

    Example:
        >>> print(exposition({"name": "default", "hits": 3, "workers": []}), end="")
        # HELP kvserve_hits_total Reads that found their key, in shared memory or by a worker.
        # TYPE kvserve_hits_total counter
        kvserve_hits_total{instance_name="default"} 3
    """
    label = f'instance_name="{stats["name"]}"'  # a name has no character to escape
    workers = [
        (f'{label},worker="{worker["index"]}"', worker) for worker in stats.get("workers", ())
    ]
    stores = [(own, worker.get("store", {})) for own, worker in workers]
    nodes = [
        (f'{own},node="{_escaped(node)}"', figures)
        for own, store in stores
        for node, figures in store.get("nodes", {}).items()
    ]
    lines = [
        *_lines("kvserve", INSTANCE, [(label, stats)]),
        *_lines("kvserve_worker", WORKER, workers),
        *_lines("kvserve_store", STORE, stores),
        *_lines("kvserve_store_node", NODE, nodes),
    ]
    return "".join(f"{line}\n" for line in lines)


def _escaped(text: str) -> str:
    """A label's value: a socket's path may contain anything."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _lines(
    prefix: str, figures: Mapping[str, Statistic], told: list[tuple[str, Mapping[str, Any]]]
) -> Iterator[str]:
    """The lines of each statistic together, as the format wants them."""
    for field, figure in figures.items():
        samples = [(label, values[field]) for label, values in told if field in values]
        if not samples or figure.kind == "text" or field in _LEFT_OUT:
            continue
        metric = f"{prefix}_{field}" + ("_total" if figure.kind == "counter" else "")
        yield f"# HELP {metric} {figure.sentence}"
        yield f"# TYPE {metric} {figure.kind}"
        for label, value in samples:
            if isinstance(value, Mapping):
                for command, count in value.items():
                    yield f'{metric}{{{label},command="{command}"}} {count}'
            else:
                yield f"{metric}{{{label}}} {value}"

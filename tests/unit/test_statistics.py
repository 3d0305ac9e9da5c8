"""The figures: a worker's counters and its histogram, what a client makes of them, their rates."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserve.protocol import commands
from kvserve.protocol.messages import STATUS_DONE, Reply, Request
from kvserve.stats.catalog import INSTANCE, NODE, STORE, WORKER, Statistic
from kvserve.stats.collect import percentiles
from kvserve.stats.prometheus import exposition
from kvserve.stats.rates import between
from kvserve.worker import stats as counting
from kvserve.worker.stats import RequestStats


def note(
    counted: RequestStats, command: commands.Command, arguments: tuple[object, ...], answer: object
) -> None:
    """One request more."""
    request = Request(1, 1, command, 0, arguments)
    counted.note(request, Reply(1, STATUS_DONE, answer), time.monotonic_ns())


def test_operations_are_counted_by_command() -> None:
    counted = RequestStats()
    for _ in range(3):
        note(counted, commands.GET, ("k",), None)
    note(counted, commands.DELETE, ("k",), True)
    operations = counted.stats()["operations"]
    assert {name: count for name, count in operations.items() if count} == {"get": 3, "delete": 1}
    assert set(operations) == set(commands.BY_NAME) - {"hello"}


def test_of_a_batch_what_was_executed_is_counted() -> None:
    counted = RequestStats()
    operations = [[commands.GET.code, "a"], [commands.DELETE.code, "b"], [commands.GET.code, "c"]]
    note(counted, commands.BATCH, (operations,), [(0, None), (0, True)])
    found = counted.stats()["operations"]
    assert (found["batch"], found["get"], found["delete"]) == (1, 1, 1)


def test_of_many_keys_each_is_counted_that_was_asked_for() -> None:
    counted = RequestStats()
    note(counted, commands.GET_MANY, (["a", "b", "c"],), (bytes(2), [None, b"v"]))
    note(counted, commands.SET_MANY, (["a", "b"], bytes(2), [b"", b""], 0), 2)
    note(counted, commands.DELETE_MANY, (["a", "b", "c"],), 1)
    found = counted.stats()["operations"]
    assert (found["get_many"], found["set_many"], found["delete_many"]) == (1, 1, 1)
    assert (found["get"], found["set"], found["delete"]) == (2, 2, 3)


def test_a_batch_that_failed_counts_as_none_of_its_operations() -> None:
    counted = RequestStats()
    request = Request(1, 1, commands.BATCH, 0, ([[commands.GET.code, "a"]],))
    counted.note(request, Reply(1, 50, "a bug"), time.monotonic_ns())
    assert counted.stats()["operations"]["get"] == 0


def test_looking_at_a_server_leaves_its_times_alone() -> None:
    counted = RequestStats()
    note(counted, commands.PING, (), None)
    note(counted, commands.STATS, (), {})
    assert counted.stats()["request_times"] == {}
    note(counted, commands.SCAN, (), [])
    assert sum(counted.stats()["request_times"].values()) == 1


@given(st.integers(0, 2**62))
def test_a_bucket_tells_a_time_to_a_quarter(taken_ns: int) -> None:
    counted = RequestStats()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting.time, "monotonic_ns", lambda: taken_ns)
        counted.note(Request(1, 1, commands.GET, 0, ("k",)), Reply(1, 0, None), 0)
    ((bound_ns, count),) = counted.stats()["request_times"].items()
    assert count == 1
    assert taken_ns < bound_ns
    if taken_ns >= 32:  # nothing takes less
        assert bound_ns <= taken_ns * 5 / 4 + 1


def test_percentiles_of_few_and_none() -> None:
    assert percentiles({}) == {"request_p50_us": 0, "request_p99_us": 0}
    assert percentiles({5000: 1}) == {"request_p50_us": 5.0, "request_p99_us": 5.0}
    many = {1000: 50, 2000: 49, 4000: 1}
    assert percentiles(many) == {"request_p50_us": 1.0, "request_p99_us": 2.0}


def worker(pid: int, requests: int, times: dict[int, int], **more: object) -> dict[str, object]:
    """A worker's figures."""
    return {
        "index": 0,
        "pid": pid,
        "requests": requests,
        "cpu_seconds": requests / 100,
        "operations": {"set": requests},
        "request_times": times,
        **more,
    }


def test_rates_are_those_of_the_interval() -> None:
    before = {"hits": 100, "misses": 0, "workers": [worker(1, 100, {1000: 100})]}
    after = {"hits": 130, "misses": 10, "workers": [worker(1, 150, {1000: 100, 4000: 50})]}
    rates = between(before, after, 2.0)
    assert (rates["reads_per_second"], rates["hit_ratio"]) == (20.0, 0.75)
    assert rates["operations_per_second"] == {"set": 25.0}
    assert rates["request_p50_us"] == 4.0  # not what was before
    (own,) = rates["workers"]
    assert (own["requests_per_second"], own["cpu_ratio"]) == (25.0, 0.25)


def test_a_worker_that_was_replaced_began_at_nothing() -> None:
    before = {"hits": 100, "misses": 50, "workers": [worker(1, 1000, {1000: 1000})]}
    after = {"hits": 0, "misses": 0, "workers": [worker(2, 10, {2000: 10})]}
    rates = between(before, after, 1.0)
    assert (rates["reads_per_second"], rates["hit_ratio"]) == (0.0, None)
    assert rates["operations_per_second"] == {"set": 10.0}
    assert rates["workers"][0]["cpu_ratio"] is None


def test_a_store_has_rates_too() -> None:
    store = {"loads": 10, "load_hits": 5, "saves": 0, "failures": 0, "breaker": "closed"}
    before = {"hits": 0, "misses": 0, "workers": [worker(1, 0, {}, store=store)]}
    later = store | {"loads": 30, "load_hits": 20, "failures": 4, "breaker": "open"}
    after = {"hits": 0, "misses": 0, "workers": [worker(1, 0, {}, store=later)]}
    (own,) = between(before, after, 2.0)["workers"]
    assert own["store"] == {
        "loads_per_second": 10.0,
        "load_hit_ratio": 0.75,
        "saves_per_second": 0.0,
        "failures_per_second": 2.0,
        "writes_behind": None,
        "breaker": "open",
    }


def test_every_figure_is_explained_by_one_sentence() -> None:
    for figure in (*INSTANCE.values(), *WORKER.values(), *STORE.values(), *NODE.values()):
        assert figure.sentence.endswith(".")
        assert ". " not in figure.sentence
        assert "\n" not in figure.sentence


@pytest.mark.parametrize("figures", [INSTANCE, WORKER, STORE, NODE])
def test_the_documentation_has_the_same_sentences(figures: dict[str, Statistic]) -> None:
    document = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    rows = [f"| `{name}` | {each.kind} | {each.sentence} |\n" for name, each in figures.items()]
    assert "".join(rows) in document


def test_prometheus_gets_each_metric_in_one_piece() -> None:
    node = {"breaker": "open", "left_alone": 1, "connections": 2, "heard_seconds": 0.2}
    nodes = {"10.0.0.7:6379": node, '/a"b': {"left_alone": 0}}
    store = {"loads": 1, "breaker": "open", "nodes": nodes}
    stats = {
        "name": "x",
        "hits": 1,
        "items": 2,
        "operations": {"get": 3},
        "workers": [
            worker(1, 5, {1000: 5}, store=store),
            worker(2, 6, {}, store={}) | {"index": 1},
        ],
    }
    lines = [line for line in exposition(stats).splitlines() if not line.startswith("# HELP")]
    assert lines == [
        "# TYPE kvserve_hits_total counter",
        'kvserve_hits_total{instance_name="x"} 1',
        "# TYPE kvserve_items gauge",
        'kvserve_items{instance_name="x"} 2',
        "# TYPE kvserve_operations_total counter",
        'kvserve_operations_total{instance_name="x",command="get"} 3',
        "# TYPE kvserve_worker_requests_total counter",
        'kvserve_worker_requests_total{instance_name="x",worker="0"} 5',
        'kvserve_worker_requests_total{instance_name="x",worker="1"} 6',
        "# TYPE kvserve_worker_cpu_seconds_total counter",
        'kvserve_worker_cpu_seconds_total{instance_name="x",worker="0"} 0.05',
        'kvserve_worker_cpu_seconds_total{instance_name="x",worker="1"} 0.06',
        "# TYPE kvserve_worker_operations_total counter",
        'kvserve_worker_operations_total{instance_name="x",worker="0",command="set"} 5',
        'kvserve_worker_operations_total{instance_name="x",worker="1",command="set"} 6',
        "# TYPE kvserve_store_loads_total counter",
        'kvserve_store_loads_total{instance_name="x",worker="0"} 1',
        "# TYPE kvserve_store_node_left_alone gauge",
        'kvserve_store_node_left_alone{instance_name="x",worker="0",node="10.0.0.7:6379"} 1',
        'kvserve_store_node_left_alone{instance_name="x",worker="0",node="/a\\"b"} 0',
        "# TYPE kvserve_store_node_connections gauge",
        'kvserve_store_node_connections{instance_name="x",worker="0",node="10.0.0.7:6379"} 2',
        "# TYPE kvserve_store_node_heard_seconds gauge",
        'kvserve_store_node_heard_seconds{instance_name="x",worker="0",node="10.0.0.7:6379"} 0.2',
    ]

"""One node's view of its cluster: which primary has which slot, and since which epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from kvserve.store.valkey.address import Node
from kvserve.store.valkey.pool import NotSent
from kvserve.store.valkey.wire import Refused

_UNKNOWN_HOSTS = (None, b"", b"?")  # for a node that does not know its name we keep the one we used

Ranges = tuple[tuple[int, int, Node], ...]


@dataclass(frozen=True)
class View:
    """One node's map; a server alone has all keys.

    Args:
        told_by: the node.
        is_cluster: whether it belongs to a cluster.
        is_whole: whether it believes that its cluster works.
        epoch: of the newest configuration that it has heard of.
        size: how many primaries with slots it knows.
        ranges: which slots (first, last) have which primary, sorted.
        claims: the same by the primaries' names in the cluster, which all its nodes use.
        replicas: the nodes that have copies, as far as they work.
    """

    told_by: Node
    is_cluster: bool = False
    is_whole: bool = True
    epoch: int = 0
    size: int = 1
    ranges: Ranges = ()
    claims: tuple[tuple[int, int, bytes], ...] = ()
    replicas: frozenset[Node] = frozenset()
    owners: list[Node | None] = field(init=False, compare=False, repr=False)
    primaries: frozenset[Node] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        owners: list[Node | None] = [self.told_by]
        if self.is_cluster:
            owners = [None] * REDIS_CLUSTER_HASH_SLOTS
            for first, last, node in self.ranges:
                owners[first : last + 1] = [node] * (last + 1 - first)
        object.__setattr__(self, "owners", owners)
        primaries = frozenset(node for _, _, node in self.ranges)
        object.__setattr__(self, "primaries", primaries if self.is_cluster else frozenset(owners))


def view_of(node: Node, hello: Any, slots: Any, info: Any) -> View:
    """The view in a node's replies to HELLO, CLUSTER SLOTS and CLUSTER INFO.

    Raises:
        NotSent: the node refuses to answer.
    """
    if isinstance(hello, Refused):
        raise NotSent(f"{node} refused to say what it is: {hello}")
    if dict(zip(hello[::2], hello[1::2], strict=True))[b"mode"] != b"cluster":
        return View(node)
    if isinstance(slots, Refused):
        raise NotSent(f"{node} refused to say which node has which slot: {slots}")
    return cluster_view(node, slots, info)


def cluster_view(node: Node, slots: Any, info: Any) -> View:
    """The view in a cluster node's replies to CLUSTER SLOTS and CLUSTER INFO.

    Example:
        >>> slots = [[0, 16383, [b"10.0.0.7", 6379, b"id"], [b"10.0.0.8", 6379, b"id"]]]
        >>> info = b"cluster_state:ok\\r\\ncluster_current_epoch:6\\r\\ncluster_size:1\\r\\n"
        >>> view = cluster_view(Node("10.0.0.7", 6379), slots, info)
        >>> view.epoch, view.is_whole, sorted(view.replicas)
        (6, True, [Node(host='10.0.0.8', port=6379)])
    """
    ranges, claims = [], []
    replicas: set[Node] = set()
    for first, last, primary, *others in slots:
        ranges.append((first, last, _named(node, primary)))
        claims.append((first, last, primary[2] if len(primary) > 2 else b""))
        replicas.update(_named(node, each) for each in others)
    lines = info.split() if isinstance(info, bytes) else ()
    told = dict(line.split(b":", 1) for line in lines if b":" in line)
    return View(
        told_by=node,
        is_cluster=True,
        is_whole=told.get(b"cluster_state") == b"ok",
        epoch=int(told.get(b"cluster_current_epoch", 0)),
        size=int(told.get(b"cluster_size", 0)),
        ranges=tuple(sorted(ranges)),
        claims=tuple(sorted(claims)),
        replicas=frozenset(replicas),
    )


def _named(asked: Node, told: Any) -> Node:
    host, port, *_ = told
    return Node(asked.host if host in _UNKNOWN_HOSTS else host.decode(), port)

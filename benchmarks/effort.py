"""How much time a run may take: quick shows that all works, full gives figures to publish."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """The one knob of all questions.

    Attributes:
        rounds: how often each contender has its turn; never below 5.
        round_seconds: how long a turn takes.
        cell_seconds: for a cell of the YCSB tables, over all rounds.
    """

    name: str
    rounds: int
    round_seconds: float
    cell_seconds: float

    @property
    def is_full(self) -> bool:
        return self.name == "full"


EFFORTS = {
    "quick": Effort("quick", rounds=5, round_seconds=0.1, cell_seconds=1.0),
    "full": Effort("full", rounds=11, round_seconds=0.5, cell_seconds=5.0),
}

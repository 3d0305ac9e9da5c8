"""What a seeded bug is: edits of a copy of the core, and who must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """One replacement in a file of the core; the old text occurs there exactly once."""

    file: str
    old: str
    new: str

    def apply(self, core: Path) -> None:
        """Changes the copy of the core in this directory."""
        path = core / self.file
        text = path.read_text()
        times = text.count(self.old)
        assert times == 1, f"{self.file} has {times} times, not once: {self.old!r}"
        path.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True)
class Mutant:
    """A bug, and the scenario of the stepper that fails for it."""

    name: str
    scenario: str
    edits: tuple[Edit, ...]

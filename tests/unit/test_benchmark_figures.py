"""The figures on the pages are those of the results, and say with whom nothing was compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import figures

    return figures


def test_the_pages_show_the_results(figures: ModuleType) -> None:
    tables = {
        figures.README: (figures.goals_table, figures.parts_table),
        figures.FRONT_PAGE: (figures.front_table,),
        figures.IPC_PAGE: (figures.ipc_tables,),
    }
    results = ROOT / "benchmarks" / "results"
    for page, made in tables.items():
        for table in made:
            assert f"-->\n{table(results)}\n<!-- end -->" in page.read_text(), page


def test_a_peer_that_fell_out_is_named(figures: ModuleType, tmp_path: Path) -> None:
    shutil.copy(ROOT / "benchmarks" / "results" / "hit.json", tmp_path)
    path = tmp_path / "hit.json"
    result = json.loads(path.read_text()) | {"missing": ["lmdb is not installed: pip install lmdb"]}
    path.write_text(json.dumps(result))
    for table in (figures.goals_table, figures.front_table):
        assert "\n\nMissing in hit: lmdb is not installed: pip install lmdb." in table(tmp_path)

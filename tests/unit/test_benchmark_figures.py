"""The figures on the pages are those of the results, and say with whom nothing was compared."""

from __future__ import annotations

import json
import shutil
import subprocess
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


@pytest.mark.usefixtures("figures")
def test_a_run_leaves_the_published_results_alone() -> None:
    """`make bench` writes where git looks for nothing, so that it turns no test red."""
    from benchmarks import report

    assert report.RESULTS != report.PUBLISHED
    ignored = subprocess.run(
        ["git", "check-ignore", "--quiet", "--no-index", report.RESULTS / "hit.json"], cwd=ROOT
    )
    assert ignored.returncode in (0, 128)  # 128: these sources are in no repository
    assert f"/{report.RESULTS.relative_to(ROOT)}/" in (ROOT / ".gitignore").read_text()


def test_publishing_takes_results_over_into_the_pages(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, run = tmp_path / "results", tmp_path / "runs"
    shutil.copytree(ROOT / "benchmarks" / "results", published)
    run.mkdir()
    monkeypatch.setattr(figures, "PUBLISHED", published)
    for name in ("README", "FRONT_PAGE", "IPC_PAGE"):
        copy = tmp_path / f"{name}.md"
        shutil.copy(getattr(figures, name), copy)
        monkeypatch.setattr(figures, name, copy)
    result = json.loads((published / "hit.json").read_text()) | {"began": "2000-01-01T00:00:00Z"}
    (run / "hit.json").write_text(json.dumps(result))
    figures.publish(run)
    assert "begun on 2000-01-01T00:00:00Z" in figures.README.read_text()
    assert json.loads((published / "hit.json").read_text()) == result
    assert (published / "ycsb.json").exists()  # not measured this time: kept


def test_a_peer_that_fell_out_is_named(figures: ModuleType, tmp_path: Path) -> None:
    shutil.copy(ROOT / "benchmarks" / "results" / "hit.json", tmp_path)
    path = tmp_path / "hit.json"
    result = json.loads(path.read_text()) | {"missing": ["lmdb is not installed: pip install lmdb"]}
    path.write_text(json.dumps(result))
    for table in (figures.goals_table, figures.front_table):
        assert "\n\nMissing in hit: lmdb is not installed: pip install lmdb." in table(tmp_path)

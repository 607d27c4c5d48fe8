"""bench/README.md: its figures are those of the results that it cites."""

import json
import re

import pytest
from gpu_result import gpu_result

from gpu_synth.bench import page as pages
from gpu_synth.bench.learning.tables import TABLES as LEARNING
from gpu_synth.bench.machine import REPOSITORY
from gpu_synth.bench.page import TABLES, filled
from gpu_synth.bench.report import as_text
from gpu_synth.presets import SIZE_CLASSES

PAGES = [path for path in (*sorted((REPOSITORY / "bench").glob("*.md")), REPOSITORY / "README.md") if "<!-- end -->" in path.read_text()]

RESULTS = sorted((REPOSITORY / "bench" / "results").glob("*.json"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_tables_are_those_of_the_results(path):
    page = path.read_text()
    assert filled(page) == page, f"run: python -m gpu_synth.bench.page {path.relative_to(REPOSITORY)}"
    assert set(re.findall(r"<!-- ([a-z-]+) of", page)) <= TABLES.keys() | LEARNING.keys()


WHOLE = [path for path in RESULTS if any(row.get("name") == "synthesis" for row in json.loads(path.read_text()).get("rows", ()))]


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_every_table_can_be_written_from_a_whole_run(path):
    """A run of some rows alone has the tables that a page takes from it, see above."""
    result = json.loads(path.read_text())
    for name, table in TABLES.items():
        assert table(result), name


def test_every_table_can_be_written_from_a_run_on_a_gpu(tmp_path, monkeypatch):
    (tmp_path / "h100.json").write_text(as_text(gpu_result(monkeypatch)))
    monkeypatch.setattr(pages, "REPOSITORY", tmp_path)
    tables = {name: filled(f"<!-- {name} of h100.json -->\n<!-- end -->") for name in TABLES}
    assert not [name for name, table in tables.items() if "None" in table or "nan" in table]
    assert "NVIDIA H100 80GB HBM3, driver 580.65.06, 16 host cores" in tables["machine"]
    for name in ("families", "classes", "batches"):
        assert "| device, ms | floor, ms |" in tables[name]
    for name in ("steps", "feeds", "end-to-end"):
        assert "| cupy |" in tables[name]
    assert {line.split(" | ")[1] for line in tables["classes"].splitlines()[4:-2]} == {"16"}, "as many at once as the families were given"
    assert tables["batches"].count("\n| 128³ | 32 | cupy graph |") == 1
    assert "plan and render, a patch of 16 at once, cupy graph" in tables["readme"]
    rows = [line.split(" | ") for line in tables["readme"].splitlines()[4:-2]]
    assert [row[0].removeprefix("| ") for row in rows] == list(SIZE_CLASSES)
    assert all(0.5 < float(ms.removesuffix(" ms")) * 16 / (1.25 * 16 * 0.5) < 2 for _, _, ms, *_ in rows), "of one patch, not of sixteen"


def test_the_tables_that_a_first_run_on_a_gpu_is_to_bring_are_there():
    told = (REPOSITORY / "CONTRIBUTING.md").read_text().split("From a result to the pages")[1]
    named = set(re.findall(r"`([a-z-]+)`|<!-- ([a-z-]+) of|`readme", told.split("with a sentence")[0]))
    assert {first or second for first, second in named} - {""} == TABLES.keys() - {"cited", "readme"}


def test_figures_outside_the_tables_are_none_of_a_machine():
    measured = (REPOSITORY / "bench" / "README.md").read_text().split("### Predicted, not measured")[0]
    page = re.sub(r"<!-- \S+ of .*?<!-- end -->", "", measured, flags=re.DOTALL)
    assert not re.findall(r"\d[\d.]* ?(?:ms|×|patches/s)\b", page)

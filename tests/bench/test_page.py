"""bench/README.md: its figures are those of the results that it cites."""

import json
import re

import pytest

from gpu_synth.bench.learning.tables import TABLES as LEARNING
from gpu_synth.bench.machine import REPOSITORY
from gpu_synth.bench.page import TABLES, filled

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


def test_figures_outside_the_tables_are_none_of_a_machine():
    measured, _ = (REPOSITORY / "bench" / "README.md").read_text().split("### Predicted, not measured")
    page = re.sub(r"<!-- \S+ of .*?<!-- end -->", "", measured, flags=re.DOTALL)
    assert not re.findall(r"\d[\d.]* ?(?:ms|×|patches/s)\b", page)

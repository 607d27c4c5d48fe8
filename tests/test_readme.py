"""README: its example runs, its commands exist, its figures are those of a committed result."""

import json
import re
from pathlib import Path

import pytest

from gpu_synth.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_first_example_runs(capsys):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len(example.splitlines()) <= 12
    scope: dict = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert (scope["label"] == 2).any()
    assert "contrast_hu" in capsys.readouterr().out


def test_commands_exist():
    used = set(re.findall(r"gpu-synth ([a-z]+)", README))
    assert used <= set(COMMANDS)
    assert {"prepare", "preview", "fit", "test", "predict"} <= used
    targets = set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE))
    assert targets == {"demo", "test"}
    assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in targets)


def test_files_exist():
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        if not name.startswith("http"):
            assert (ROOT / name).is_file(), name


BLOCKS = re.findall(r"<!-- readme of (bench/results/[\w.-]+\.json) -->(.*?)<!-- end -->", README, re.DOTALL)


@pytest.mark.parametrize(("cited", "table"), BLOCKS, ids=[cited for cited, _ in BLOCKS])
def test_figures_are_those_of_the_results_cited(cited, table):
    result = json.loads((ROOT / cited).read_text())
    assert result["device"] in README
    for name in ("tiny", "small", "medium", "large", "mix"):
        (ms,) = re.findall(rf"\| {name} \|.*?\| ([\d.]+) ms \|", table)
        rows = [row for row in result["rows"] if (row["name"], row["patch"], row["size_class"]) == ("synthesis", 96, name)]
        assert any(float(ms) == pytest.approx(row["mean_ms"] / row["batch"], abs=0.051, rel=0.05) for row in rows), name


def test_every_result_named_has_its_table_and_the_ratio_is_that_of_a_cpu():
    assert BLOCKS
    assert set(re.findall(r"bench/results/[\w.-]+\.json", README)) == {cited for cited, _ in BLOCKS}
    told = [json.loads((ROOT / cited).read_text())["synthesis_to_reference"] for cited, _ in BLOCKS]
    ratio = re.search(r"\*\*([\d.]+) ×\*\*", README).group(1)
    assert [float(ratio)] == [pytest.approx(value, abs=0.0051) for value in told if value is not None]

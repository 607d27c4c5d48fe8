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


def test_figures_are_those_of_the_result_cited():
    (cited,) = set(re.findall(r"bench/results/[\w.-]+\.json", README))
    result = json.loads((ROOT / cited).read_text())
    rows = {row["size_class"]: row for row in result["rows"] if (row["name"], row["batch"], row["patch"]) == ("synthesis", 1, 96)}
    assert result["device"] in README
    quoted = dict(re.findall(r"\| (tiny|small|medium|large|mix) \|.*?\| ([\d.]+) ms \|", README))
    assert {name: float(ms) for name, ms in quoted.items()} == {
        name: pytest.approx(rows[name]["mean_ms"], abs=0.051) for name in ("tiny", "small", "medium", "large", "mix")
    }
    ratio = re.search(r"\*\*([\d.]+) ×\*\*", README).group(1)
    assert float(ratio) == pytest.approx(result["synthesis_to_reference"], abs=0.0051)

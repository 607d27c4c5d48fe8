"""The benchmark: it refuses to measure on a red test, and what it measures it writes down with the machine named."""

import json

import pytest
import torch

from gpu_synth.bench import run
from gpu_synth.bench.registry import OPERATIONS


def test_results_name_the_machine_and_hold_every_figure(tmp_path, capsys):
    out = tmp_path / "result.json"
    assert run.bench(["blend", "gaussian"], device="cpu", seconds=0.01, tests=False, out=out) == 0
    result = json.loads(out.read_text())
    assert {"device", "cores", "commit", "python", "torch", "numpy", "scipy", "date"} <= result["machine"].keys()
    assert [row["name"] for row in result["operations"]] == ["gaussian", "blend"]
    assert all(row["p90_ms"] >= row["median_ms"] > 0 and row["floor_ms"] > 0 for row in result["operations"])
    assert result["synthesis_to_reference"] is None, "the ratio is of all five classes or of none"
    assert "× floor" in capsys.readouterr().out


def test_nothing_is_measured_on_a_red_test(tmp_path, monkeypatch):
    (tmp_path / "tests" / "kernels").mkdir(parents=True)
    (tmp_path / "tests" / "kernels" / "test_blend.py").write_text("def test_red():\n    assert False\n")
    monkeypatch.setattr(run, "_REPOSITORY", tmp_path)
    assert run.bench(["blend"], device="cpu", out=tmp_path / "result.json") == 1
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_runs(operation):
    case = operation.make(torch.device("cpu"))
    case.run()
    assert case.floor_bytes > 0


@pytest.mark.parametrize(("options", "says"), [({"names": ["shapes"]}, "names must be among"), ({"device": "tpu"}, "device must be")])
def test_mistakes_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        run.bench(**options)

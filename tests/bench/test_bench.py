"""The benchmark: every row runs, results keep their schema, and nothing is measured on a red test or under a wrong name."""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from gpu_result import gpu_result
from rich.console import Console
from test_packaging import wheel  # noqa: F401 (a fixture)

from gpu_synth.bench import measure as measured
from gpu_synth.bench import pipeline, run
from gpu_synth.bench.case import Case, Operation, Setting, patches
from gpu_synth.bench.measure import Result, Row, measure, ratios
from gpu_synth.bench.report import as_json, as_text, show
from gpu_synth.bench.timing import Spent, cuda_times, host_times
from gpu_synth.cli import main
from gpu_synth.presets import SIZE_CLASSES

CPU = torch.device("cpu")
TOP = {
    "device": str,
    "driver": (str, type(None)),
    "versions": dict,
    "commit": str,
    "date": str,
    "host": str,
    "cores": int,
    "threads": int,
    "copy_gb_per_s": float,
    "reference": dict,
    "synthesis_to_reference": (float, type(None)),
    "ratios": dict,
    "cited": dict,
    "not_measured": list,
    "rows": list,
}
ROW = {
    "name": str,
    "what": str,
    "size_class": str,
    "batch": int,
    "patch": int,
    "shape_vox": list,
    "lesions": int,
    "backend": str,
    "graph": bool,
    "source": str,
    "workers": int,
    "model": str,
    "effect": str,
    "ms": float,
    "mean_ms": float,
    "p90_ms": float,
    "runs": int,
    "device_ms": float,
    "call_ms": float,
    "bytes": int,
    "floor_ms": float,
    "times_floor": float,
    "images_per_second": float,
    "times_published": float,
    "times_plain": float,
    "launches": int,
    "device_operations": int,
    "operations": int,
    "share": float,
    "gpu_utilisation": float,
}
NEVER_NULL = {"name", "what", "ms", "mean_ms", "p90_ms", "runs"}


def tiny(setting: Setting) -> Setting:
    """The same row on a patch of 16³; a network needs its 64×32×32, so it is given one sample."""
    if setting.model:
        return replace(setting, batch=1)
    shape = setting.shape_vox and tuple(n // 6 for n in setting.shape_vox)
    return replace(setting, patch=setting.patch and 16, shape_vox=shape)


@pytest.fixture(scope="module")
def result() -> Result:
    """Every row that a CPU has by default, tiny, and one of each name of the full set."""
    short = run.rows(None, CPU, full=False)
    others = {operation.name: (operation, setting) for operation, setting in run.rows(None, CPU, full=True)}
    chosen = [*short, *(others[name] for name in others if name not in {operation.name for operation, _ in short})]
    return measure([(operation, tiny(setting)) for operation, setting in chosen], CPU, seconds=0.0, least=1, copy_bytes=1 << 20)


def test_every_name_has_a_row_that_runs(result):
    assert not result.failures
    only_cuda = {"step-share"}
    assert {row.name for row in result.rows} == {operation.name for operation in run.OPERATIONS} - only_cuda
    synthesis = [(row.size_class, row.batch) for row in result.rows if row.name == "synthesis"]
    assert sorted(synthesis) == sorted((name, batch) for name in (*SIZE_CLASSES, "all") for batch in (1, 2))


def test_results_keep_their_schema(result):
    content = json.loads(as_text(result))
    assert content == json.loads(json.dumps(as_json(result)))
    assert content.keys() == TOP.keys()
    assert all(isinstance(content[key], kind) for key, kind in TOP.items())
    assert {"gpu-synth", "python", "torch", "numpy", "scipy", "monai"} <= content["versions"].keys()
    for row in content["rows"]:
        assert row.keys() == ROW.keys()
        for key, kind in ROW.items():
            assert type(row[key]) is kind or (row[key] is None and key not in NEVER_NULL), (row["name"], key, row[key])
        assert row["backend"] in ("torch", "cupy", None)
        assert (row["backend"] is None) == (row["graph"] is None)
        assert row["p90_ms"] >= row["ms"] > 0


def test_floors_are_bytes_over_bandwidth(result):
    with_floor = [row for row in result.rows if row.floor_ms]
    assert {row.name for row in with_floor} == {row.name for row in result.rows if row.backend and not row.source}
    for row in with_floor:
        assert row.floor_ms == pytest.approx(row.bytes / result.copy_gb_per_s / 1e6)
        assert row.times_floor == pytest.approx(row.ms / row.floor_ms)
    (one,) = (row for row in result.rows if (row.name, row.size_class, row.batch) == ("synthesis", "all", 1))
    assert one.bytes == 16**3 * 2 * (4 + 1), "float32 image and uint8 label, in and out"


def test_the_table_shows_every_row(result):
    console = Console(width=run.WIDTH, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show(result, console)
    text = console.export_text()
    assert "…" not in text
    assert all(row.name in text for row in result.rows)
    assert "cited, not measured in this run" in text


def test_the_table_shows_every_row_of_a_gpu(monkeypatch):
    """It has more columns: the work alone, wall clock, how busy the GPU is."""
    made_up = gpu_result(monkeypatch)
    console = Console(width=run.WIDTH, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show(made_up, console)
    text = console.export_text()
    assert "…" not in text
    assert {"device", "call", "GPU used", "share"} <= set(re.findall(r"GPU used|\w+", text))
    assert "not measured: synthesis" in text
    assert json.loads(as_text(made_up))["rows"][0].keys() == ROW.keys()


def test_only_a_training_is_asked_how_busy_the_gpu_is(monkeypatch):
    """And only once it is warm: nvidia-smi, as it starts, holds up the launches of whatever is timed meanwhile."""
    asked: list[int] = []

    @contextlib.contextmanager
    def sampled(device):
        asked.append(len(runs))
        yield [0.5]

    runs: list[int] = []
    monkeypatch.setattr(measured, "utilisation", sampled)
    for loop, source in ((False, None), (True, None), (True, "ours")):
        case = Case(lambda: runs.append(1), loop=loop, warm_up=3)
        operation = Operation("x", "", (), lambda *_: [], lambda *_, case=case: case)
        row = measured.time_row(operation, Setting(source=source), CPU, 0.0, 2, 1.0)
        assert row.gpu_utilisation == (0.5 if source else None)
    assert asked == [2 * (3 + 2) + 3]


@pytest.mark.parametrize("source", ["none", "ours"])
def test_without_a_model_each_batch_waits_for_the_one_before(source, monkeypatch):
    """As a training would; else batches would be counted that are only queued."""
    waited: list[int] = []
    monkeypatch.setattr(pipeline, "one_ahead", lambda device: lambda: waited.append(1))
    monkeypatch.setattr(pipeline, "loader", lambda setting: iter([dict(zip(("image", "label"), patches(CPU, setting), strict=True))] * 3))
    case = pipeline.end_to_end(CPU, Setting("tiny", 1, 16, "torch", False, source=source))
    for _ in range(3):
        case.run()
    assert len(waited) == 3


def made(name: str, ms: float, **setting: object) -> Row:
    batch = int(str(setting.pop("batch", 1)))
    return Row(batch=batch, name=name, what="", ms=ms, mean_ms=ms, p90_ms=ms, runs=5, images_per_second=1000 * batch / ms, **setting)


def test_ratios_are_those_of_the_rows():
    classes = [made("synthesis", ms, size_class=name, patch=96) for name, ms in zip(SIZE_CLASSES, (10, 20, 30, 40, 50), strict=True)]
    rows = [
        *classes,
        made("synthesis", 25.0, size_class="all", patch=96),
        made("synthesis", 160.0, size_class="all", patch=96, batch=8),
        made("synthesis-one-core", 40.0, size_class="all", patch=96),
        made("published", 200.0, size_class="all", patch=96),
        made("published-banked", 100.0, size_class="all", patch=96),
        *(made("volume", ms, shape_vox=(n, 96, 96), lesions=n, backend="torch", graph=False) for ms, n in ((50.0, 96), (100.0, 192))),
    ]
    result = Result({}, 1.0, 20.0, rows, [])
    assert ratios(result) == pytest.approx(
        {
            "synthesis_to_reference": 1.5,
            "synthesis_to_published": 10.0,
            "synthesis_to_published_banked": 5.0,
            "synthesis_one_core_to_published": 5.0,
            "volume_doubled": 2.0,
        }
    )
    assert ratios(replace(result, rows=rows[1:]))["synthesis_to_reference"] is None, "the ratio is of all five classes or of none"
    assert all(ratio is None for ratio in ratios(replace(result, rows=[], reference_ms=None)).values())


def test_clocks():
    calls: list[int] = []
    spent = host_times(lambda: calls.append(1), seconds=0.0, least=5, warm_up=2, cycle=4)
    assert (len(spent.runs_ms), len(calls)) == (8, 10)
    assert (Spent([float(n) for n in range(1, 11)]).p90_ms, Spent([3.0]).p90_ms) == (9.0, 3.0)
    assert len(host_times(lambda: None, seconds=0.01).runs_ms) > 5


def test_what_is_timed_beside_takes_turns():
    turns: list[str] = []
    spent = host_times(lambda: turns.append("a"), seconds=0.0, least=3, warm_up=1, beside=lambda: turns.append("b"))
    assert turns == ["a", "b"] * 4
    assert len(spent.runs_ms) == len(spent.beside_ms or ()) == 3
    assert spent.times_beside == pytest.approx(sum(spent.runs_ms) / sum(spent.beside_ms or ()))
    assert (Spent([4.0, 8.0], beside_ms=[2.0, 1.0]).times_beside, Spent([3.0]).times_beside) == (4.0, None)


@pytest.mark.cuda
def test_cuda_clocks_agree():
    image = torch.rand(1 << 26, device="cuda")
    spent = cuda_times(lambda: image.mul_(1.0), seconds=0.1)
    assert spent.device_ms == pytest.approx(spent.ms, rel=0.2), "a long kernel hides its launch"
    assert spent.call_ms == pytest.approx(spent.mean_ms, rel=0.2)


# ---- the command ------------------------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_file_and_prints_a_table(tmp_path, capsys):
    out = tmp_path / "result.json"
    assert run.bench(["blend", "gaussian"], device="cpu", seconds=0.0, tests=False, out=out).failures == []
    content = json.loads(out.read_text())
    assert [row["name"] for row in content["rows"]] == ["gaussian", "blend"]
    assert content["synthesis_to_reference"] is None
    assert 0.1 < content["copy_gb_per_s"] < 10_000
    assert "× floor" in capsys.readouterr().out


def test_nothing_is_measured_on_a_red_test(tmp_path, monkeypatch):
    (tmp_path / "tests" / "kernels").mkdir(parents=True)
    (tmp_path / "tests" / "kernels" / "test_blend.py").write_text("def test_red():\n    assert False\n")
    monkeypatch.setattr(run, "REPOSITORY", tmp_path)
    assert run.bench(["blend"], device="cpu", out=tmp_path / "result.json") is None
    assert not (tmp_path / "result.json").exists()


def test_every_operation_has_tests_that_are_there():
    names = {name for operation in run.OPERATIONS for name in operation.tests}
    assert all(operation.tests for operation in run.OPERATIONS)
    assert not [name for name in names if not (run.REPOSITORY / "tests" / name).is_file()]


@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError("a kernel failed"), 1), (torch.OutOfMemoryError("too large"), 0)], ids=["failure", "out-of-memory"]
)
def test_a_row_that_fails_is_told_and_the_others_are_measured(error, code, tmp_path, monkeypatch, capsys):
    def fails(device: torch.device, setting: Setting) -> Case:
        raise error

    def settings(device: torch.device, full: bool) -> list[Setting]:
        return [Setting(backend="torch", graph=False)]

    broken = Operation("broken", "", ("x",), settings, fails)
    works = Operation("works", "", ("x",), settings, lambda device, setting: Case(lambda: torch.zeros(9)))
    monkeypatch.setattr(run, "OPERATIONS", (broken, works))
    assert main(["bench", "--device", "cpu", "--seconds", "0", "--tests", "false", "--out", str(tmp_path / "result.json")]) == code
    content = json.loads((tmp_path / "result.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["works"]
    assert content["not_measured"][0]["why"] == str(error)
    assert str(error) in capsys.readouterr().out


def test_a_run_that_is_cut_short_leaves_what_it_has_measured(tmp_path, monkeypatch):
    def interrupted(device: torch.device, setting: Setting) -> Case:
        raise KeyboardInterrupt

    def settings(device: torch.device, full: bool) -> list[Setting]:
        return [Setting(backend="torch", graph=False)]

    works = Operation("works", "", ("x",), settings, lambda device, setting: Case(lambda: torch.zeros(9)))
    monkeypatch.setattr(run, "OPERATIONS", (works, Operation("late", "", ("x",), settings, interrupted)))
    with pytest.raises(KeyboardInterrupt):
        run.bench(device="cpu", seconds=0.0, tests=False, out=tmp_path / "new" / "result.json")
    assert [row["name"] for row in json.loads((tmp_path / "new" / "result.json").read_text())["rows"]] == ["works"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"names": ["shapes"]}, "names must be among .*shape.*, got shapes"),
        ({"device": "tpu"}, "device must be"),
        ({"names": ["step-share"], "device": "cpu"}, "names must have rows on device 'cpu', got step-share"),
    ],
)
def test_mistakes_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        run.bench(**options)


def test_a_name_of_the_full_set_can_be_asked_for_on_a_cpu():
    assert [setting.lesions for _, setting in run.rows(["lesions"], CPU, full=False)] == [1, 4, 16, 64]
    assert not any(operation.name == "lesions" for operation, _ in run.rows(None, CPU, full=False))


def test_it_works_from_an_installed_wheel(wheel, tmp_path):  # noqa: F811
    _, archive = wheel
    archive.extractall(tmp_path / "site")
    command = [sys.executable, "-m", "gpu_synth.cli", "bench", "--names", "[blend, published-banked]", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    command += ["--seconds", "0", "--out", "result.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "tests not run" in done.stdout
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["commit"] == "none: installed"
    assert [row["name"] for row in content["rows"]] == ["blend", "published-banked"]
    assert all(math.isfinite(row["ms"]) for row in content["rows"])

"""The doctor: what it says of whole, half broken and bare installations, which it survives; and what its self-test catches."""

import json
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from emulator import emulated

from gpu_synth.cli import main
from gpu_synth.doctor import installed, report, run, self_test
from gpu_synth.doctor.run import Findings, Problem, examine
from gpu_synth.doctor.self_test import Tried
from gpu_synth.kernels import _compiler, _launch

COMMAND = (sys.executable, "-m", "gpu_synth.cli", "doctor")


def said(findings: Findings, serious: bool = True) -> dict[str, str]:
    """What is broken, or only missing, and what mends it."""
    return {problem.what: problem.mend for problem in findings.problems if problem.serious == serious}


# ---- this machine, as it is -------------------------------------------------------------------------------------------------------------


def test_a_whole_installation_is_healthy_and_json_alone_is_on_stdout():
    out = subprocess.run([*COMMAND, "--json"], capture_output=True, text=True, check=False)
    findings = json.loads(out.stdout)
    assert out.returncode == 0, out.stderr
    assert findings["healthy"]
    assert {"gpu-synth", "Python", "torch's CUDA"} <= findings["machine"].keys()
    packages = {package["name"]: package for package in findings["packages"]}
    assert packages["torch"]["version"] == torch.__version__
    assert packages["nibabel"]["wanted"].startswith("nibabel>=")
    assert [tried["error"] for tried in findings["self_test"]] == [""] * len(findings["self_test"])
    assert {(tried["preset"], tried["device"]) for tried in findings["self_test"]} >= {("liver", "cpu"), ("liver-hu2022", "cpu")}
    assert all(tried["lesions"] > 0 for tried in findings["self_test"])
    assert "torch>=" not in out.stdout.splitlines()[0]
    assert "self-test" in out.stderr, "tables are for people"
    assert out.stderr.splitlines()[-1] == "healthy"


def test_what_is_optional_and_not_there_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(installed, "requires", lambda _: ["numpy>=1", "nowhere-to-be-found>=2; extra == 'far'", "ruff; extra == 'dev'"])
    monkeypatch.setattr(run, "_self_test", lambda _: None)
    findings = examine()
    assert findings.healthy
    assert said(findings, serious=False) == {"optional: nowhere-to-be-found": 'pip install "gpu-synth[far]"'}
    assert [package.name for package in findings.packages] == ["numpy", "nowhere-to-be-found"]


# ---- installations that are half broken -------------------------------------------------------------------------------------------------

BROKEN = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise {error}
sys.meta_path.insert(0, Broken())
from gpu_synth.cli import main
sys.exit(main(["doctor", {json!r}]))
"""


@pytest.mark.parametrize(
    ("names", "error", "says"),
    [
        (
            ("torch", "numpy", "scipy", "rich", "jsonargparse", "packaging", "cupy", "monai", "lightning"),
            "ModuleNotFoundError(f'No module named {name!r}')",
            ["torch cannot be imported", 'pip install --force-reinstall "rich>=13"', 'pip install --force-reinstall "numpy>=1.26"'],
        ),
        (("torch",), "OSError('libcudart.so.13: cannot open shared object file')", ["torch cannot be imported (OSError: libcudart.so.13"]),
        (("numpy",), "ValueError('numpy.dtype size changed')", ["numpy cannot be imported (ValueError: numpy.dtype size changed)"]),
    ],
    ids=["nothing-but-python", "a-library-of-torch", "numpy-of-another-abi"],
)
@pytest.mark.parametrize("form", ["--json", "--debug"])
def test_it_survives_what_it_looks_for(names, error, says, form):
    code = BROKEN.format(names=names, error=error, json=form)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 1, out.stderr
    for text in (out.stdout, out.stderr) if form == "--json" else (out.stdout,):
        assert all(json.dumps(words)[1:-1] in text or words in text for words in says), text
    assert "Traceback" not in out.stdout + out.stderr
    assert form != "--json" or not json.loads(out.stdout)["healthy"]


def test_a_part_that_cannot_be_examined_is_a_finding(monkeypatch):
    def fail(_):
        raise RuntimeError("of a kind\nthat nobody foresaw")

    monkeypatch.setattr(run, "_cupy", fail)
    monkeypatch.setattr(run, "_self_test", lambda findings: findings.self_test.append(Tried("torch", "cpu", "liver")))
    findings = examine()
    assert said(findings) == {"CuPy cannot be examined: RuntimeError: of a kind that nobody foresaw": ""}
    assert findings.self_test, "the others go on"


@pytest.mark.parametrize(
    ("requirement", "says", "mend"),
    [
        ("numpy>=99", f"numpy is version {installed._version('numpy')}, asked for is numpy>=99", 'pip install --upgrade "numpy>=99"'),
        ("nowhere-to-be-found>=1", "nowhere-to-be-found is not installed", 'pip install "nowhere-to-be-found>=1"'),
    ],
)
def test_a_package_that_is_old_or_missing_is_told_with_its_command(requirement, says, mend, monkeypatch):
    monkeypatch.setattr(installed, "requires", lambda _: [requirement])
    monkeypatch.setattr(run, "_self_test", lambda _: None)
    assert said(examine()) == {says: mend}


# ---- GPUs that are not there ------------------------------------------------------------------------------------------------------------

SMI = "NVIDIA H100 80GB HBM3, 9.0, {driver}, 80000, 81559"


class FakeCupy:
    """A CuPy of stated versions."""

    __version__ = "14.2.0"

    def __init__(self, runtime: int = 13000, driver: int = 13000) -> None:
        versions = {"runtimeGetVersion": lambda: runtime, "driverGetVersion": lambda: driver, "CUDARuntimeError": RuntimeError}
        self.cuda = SimpleNamespace(runtime=SimpleNamespace(**versions), nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)))


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine with an H100 and CuPy, whose kernels are compiled into an empty cache; its self-test is left out."""
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="NVIDIA H100", major=9, minor=0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_launch, "_cupy", FakeCupy)
    monkeypatch.setattr(_launch, "_module", lambda family, device: (tmp_path / family).touch())
    monkeypatch.setattr(run, "cupy_packages", lambda: ["cupy-cuda13x"])
    monkeypatch.setattr(run, "_self_test", lambda _: None)
    answers = {"nvidia-smi": SMI.format(driver="580.65.06")}
    monkeypatch.setattr(run, "_output", lambda *command: answers["nvidia-smi"])
    return answers


def test_a_gpu_that_works_is_told_with_memory_driver_and_kernels(gpu, capsys):
    first, second = examine(), examine()
    assert first.healthy
    assert not said(first, serious=False).keys() & {"optional: CuPy, for the CUDA kernels"}
    assert first.devices == [("NVIDIA H100", "9.0", "580.65.06", 70.0, 80.0, True)]
    assert first.cupy == {"CuPy": "14.2.0", "CuPy's CUDA": "13.0", "NVRTC": "13.0"}
    assert [kernel.family for kernel in first.kernels] == list(_launch.sources())
    assert not any(kernel.cached for kernel in first.kernels)
    assert all(kernel.cached for kernel in second.kernels)
    report.show(second, sys.stdout)
    shown = capsys.readouterr().out
    assert f"{len(second.kernels)} families from the cache, 0 compiled" in shown
    assert "70.0 of 80.0 GiB" in shown


def test_cupy_that_is_not_there_is_missing_but_no_failure(gpu, monkeypatch):
    def fail():
        raise ModuleNotFoundError("No module named 'cupy'")

    monkeypatch.setattr(_launch, "_cupy", fail)
    monkeypatch.setattr(run, "cupy_packages", list)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    findings = examine()
    assert findings.healthy
    assert said(findings, serious=False)["optional: CuPy, for the CUDA kernels"] == 'pip install "gpu-synth[cuda12]"'
    assert findings.not_compiled == "CuPy cannot be imported (No module named 'cupy')"


def test_cupy_of_another_cuda_is_told_with_the_command_that_swaps_it(gpu, monkeypatch):
    monkeypatch.setattr(_launch, "_cupy", lambda: FakeCupy(runtime=13000, driver=12080))
    mend = 'pip uninstall cupy-cuda13x && pip install "gpu-synth[cuda12]"'
    assert said(examine()) == {"CuPy was built for CUDA 13, the driver offers 12": mend}
    assert f"; install the other: {mend}" in str(_launch.missing.__wrapped__()), "as the launcher says it"


@pytest.mark.parametrize("error", [ImportError("libnvrtc.so.13"), ValueError("numpy.dtype size changed"), AttributeError("_ARRAY_API")])
def test_cupy_that_is_there_and_cannot_be_imported_is_a_failure(error, gpu, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(_launch, "_cupy", fail)
    (what, mend), = said(examine()).items()  # fmt: skip
    assert what == f"CuPy cannot be used ({type(error).__name__}: {error})"
    assert mend == 'pip install --force-reinstall "gpu-synth[cuda13]"'
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu["nvidia-smi"] = ""
    assert examine().healthy, "without a GPU nobody would use it"


def test_two_cupys_are_told(gpu, monkeypatch):
    monkeypatch.setattr(run, "cupy_packages", lambda: ["cupy-cuda12x", "cupy-cuda13x"])
    mend = 'pip uninstall --yes cupy-cuda12x cupy-cuda13x && pip install "gpu-synth[cuda13]"'
    assert said(examine()) == {"2 packages are CuPy and overwrite each other: cupy-cuda12x, cupy-cuda13x": mend}


@pytest.mark.parametrize(
    ("built", "smi", "says", "mend"),
    [
        (None, SMI.format(driver="580"), "a GPU is there, and torch is built for the CPU", "pip install --force-reinstall torch"),
        (
            "13.0",
            SMI.format(driver="550") + "\n| CUDA Version: 12.4 |",
            "torch is built for CUDA 13.0, and the driver offers 12",
            "a newer NVIDIA driver; or torch for CUDA 12, by the command of pytorch.org/get-started/locally",
        ),
    ],
    ids=["cpu-build", "old-driver"],
)
def test_a_gpu_that_torch_cannot_use_is_a_failure(built, smi, says, mend, gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    gpu["nvidia-smi"] = smi
    findings = examine()
    assert said(findings) == {says: mend}
    assert [(device.usable, round(device.total_gib)) for device in findings.devices] == [(False, 80)]


def test_a_family_that_does_not_compile_is_named(gpu, monkeypatch, tmp_path, capsys):
    def compile_(family, device):
        if family in ("warp", "growth"):
            raise RuntimeError("nvrtc: error: failed to open libnvrtc-builtins.so.13.0\nat line 3")

    monkeypatch.setattr(_launch, "_module", compile_)
    findings = examine()
    (what, mend), = said(findings).items()  # fmt: skip
    assert what == "kernels do not compile: growth, warp; nvrtc: error: failed to open libnvrtc-builtins.so.13.0 at line 3"
    assert mend == 'pip install --force-reinstall "gpu-synth[cuda13]"'
    report.show(findings, sys.stdout)
    assert "2 not: growth, warp" in capsys.readouterr().out


@pytest.mark.skipif(find_spec("cupy") is None, reason="CuPy is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_the_real_cupy_without_a_gpu_is_told_and_launches_nothing():
    versions = _compiler.cupy_versions()
    assert versions["CuPy"].partition(".")[0] >= "14"
    findings = examine()
    assert findings.healthy
    assert findings.cupy == versions
    assert findings.not_compiled == "torch sees no CUDA device"


# ---- the self-test ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Phantoms small enough for the emulator."""
    monkeypatch.setattr(self_test, "SHAPE_VOX", (36, 30, 24))
    monkeypatch.setattr(self_test, "SPACING_MM", (8.0, 8.0, 8.0))


def test_kernels_agree_with_torch_within_what_it_allows(small, monkeypatch):
    emulated(monkeypatch, "forward")
    tried = self_test.self_test([("torch", "cpu"), ("cupy", "cpu")])
    assert [(row.backend, row.preset, row.error) for row in tried] == [
        (backend, preset, "") for preset in self_test.PRESETS for backend in ("torch", "cupy")
    ]
    assert all(row.lesions == reference.lesions for reference, row in zip(tried[::2], tried[1::2], strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda made: made._replace(image=made.image + 0.5), "HU are more than 0.1 apart in 100.00 % of the voxels"),
        (lambda made: made._replace(image=made.image.where(made.label != 2, 1000.0)), " apart"),
        (lambda made: made._replace(image=made.image * torch.nan), "HU are nan apart"),
        (lambda made: made._replace(label=made.label.roll(1, 2)), "labels differ in"),
    ],
    ids=["half-a-unit-everywhere", "wrong-in-lesions", "nan", "a-voxel-aside"],
)
def test_a_backend_that_differs_is_caught(change, says, small, monkeypatch):
    synthesised = self_test._synthesised

    def other(healthy, preset, backend, device):
        made = synthesised(healthy, preset, "torch", device)
        return change(made) if backend == "cupy" else made

    monkeypatch.setattr(self_test, "_synthesised", other)
    tried = self_test.self_test([("torch", "cpu"), ("cupy", "cpu")])
    assert all(says in row.error for row in tried if row.backend == "cupy"), tried
    assert not any(row.error for row in tried if row.backend == "torch")


def test_what_is_not_a_number_is_null_in_json(capsys, monkeypatch):
    findings = Findings(
        self_test=[Tried("torch", "cpu", "liver"), Tried("cupy", "cuda", "liver", apart_hu=float("nan"), error="HU are nan apart")]
    )
    monkeypatch.setattr(run, "examine", lambda: findings)
    main(["doctor", "--json"])
    out = capsys.readouterr()
    assert [row["apart_hu"] for row in json.loads(out.out, parse_constant=pytest.fail)["self_test"]] == [0.0, None]


def test_a_backend_that_fails_is_told_and_the_command_ends_with_1(small, monkeypatch, capsys):
    monkeypatch.setattr(self_test, "backends", lambda: [("torch", "cpu"), ("torch", "nowhere")])
    monkeypatch.setattr(installed, "requires", lambda _: [])
    assert main(["doctor", "--json"]) == 1
    out = capsys.readouterr()
    findings = json.loads(out.out)
    assert [bool(row["error"]) for row in findings["self_test"]] == [False, True] * 2
    assert "preset liver on torch, nowhere: RuntimeError: " in findings["problems"][1]["what"]
    assert out.err.splitlines()[-1] == "not healthy: 2 of what is there does not work"


def test_a_reference_that_is_wrong_by_itself_is_caught(small, monkeypatch):
    monkeypatch.setattr(self_test, "UIDS", (0, 1))
    phantom = self_test.phantom
    monkeypatch.setattr(self_test, "phantom", lambda *how: phantom(*how)._replace(label=torch.zeros(2, 1, 36, 30, 24, dtype=torch.uint8)))
    assert [row.error for row in self_test.self_test([("torch", "cpu")])] == ["no lesion was made"] * 2


def test_without_rich_the_same_is_said_in_plain_lines():
    findings = Findings(machine={"Python": "3.11"}, problems=[Problem("x is broken", "mend x"), Problem("optional: y", "get y", False)])
    lines = report.plain(findings).splitlines()
    assert lines == [
        "machine", "  Python  3.11", "  devices  no GPU: everything runs on the CPU", "  kernels  not compiled: see below", "",
        "does not work: x is broken", "    mend x", "optional: y", "    get y", "not healthy: 1 of what is there does not work",
    ]  # fmt: skip

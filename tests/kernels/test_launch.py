"""The launcher: which backend is taken, what it says where it cannot launch, and what it refuses to pass on."""

import re

import numpy as np
import pytest
import torch
from emulator import emulated

from gpu_synth import TumorSynthesizer
from gpu_synth.kernels import _launch

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")


@without_cuda
def test_without_cuda_auto_takes_torch_and_cupy_says_why_not():
    assert _launch.resolve("auto", torch.device("cpu")) == "torch"
    message = "backend 'cupy' must have CUDA tensors and a CuPy that can launch, got: torch sees no CUDA device; or use backend='auto'"
    with pytest.raises(ValueError, match=re.escape(message)):
        TumorSynthesizer(backend="cupy")


def test_tensors_on_the_cpu_are_not_for_cupy():
    with pytest.raises(ValueError, match="got: the tensors are on 'cpu'"):
        _launch.resolve("cupy", torch.device("cpu"))


SWAP = 'pip uninstall cupy-cuda13x && pip install "gpu-synth[cuda12]"'


class Runtime:
    """A CuPy runtime of stated versions."""

    CUDARuntimeError = RuntimeError

    def __init__(self, runtime, driver):
        self.runtimeGetVersion, self.driverGetVersion = lambda: runtime, lambda: driver


@pytest.mark.parametrize(
    ("runtime", "driver", "message"),
    [
        (13000, 12080, "CuPy was built for CUDA 13, the driver offers 12; install the other: " + SWAP),
        (12080, 13000, None),
        (13000, 13020, None),
    ],
)
def test_a_cupy_for_another_cuda_is_told_with_the_command_that_mends_it(runtime, driver, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_launch, "_cupy", lambda: type("cupy", (), {"cuda": type("cuda", (), {"runtime": Runtime(runtime, driver)})}))
    _launch.missing.cache_clear()
    assert _launch.missing() == message
    _launch.missing.cache_clear()


def test_a_missing_cupy_is_told_with_the_command_that_installs_it(monkeypatch):
    def fail():
        raise ImportError("No module named 'cupy'")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(_launch, "_cupy", fail)
    _launch.missing.cache_clear()
    assert _launch.missing() == "CuPy cannot be imported (No module named 'cupy'); install it: pip install \"gpu-synth[cuda12]\""
    assert _launch.resolve("auto", torch.device("cuda")) == "torch"
    _launch.missing.cache_clear()


def test_memory_that_is_not_contiguous_is_refused(monkeypatch):
    emulated(monkeypatch)
    out = torch.zeros(4, 6).T
    with pytest.raises(ValueError, match=r"halfwords_kernel must have contiguous tensors, got strides \(1, 6\) for shape \(6, 4\)"):
        _launch.launch("rng", "halfwords_kernel", (1, 1, 1), (256, 1, 1), (out, np.int32(0)))


def test_no_file_but_the_launcher_touches_cupy():
    for path in [
        *_launch.FOLDER.rglob("*.py"),
        *_launch.FOLDER.parent.glob("gpu_synth/*.py"),
        *_launch.FOLDER.parent.glob("trainers/*.py"),
    ]:
        assert path.name == "_launch.py" or not re.search(r"^\s*(import|from) cupy", path.read_text(), re.MULTILINE), path

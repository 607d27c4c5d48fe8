"""The launcher: which backend is taken, what it says where it cannot launch, and what it refuses to pass on."""

import contextlib
import functools
import os
import re

import numpy as np
import pytest
import torch
from emulator import emulated, kernels_of

from gpu_synth import TumorSynthesizer
from gpu_synth.kernels import _launch

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")


@without_cuda
def test_without_cuda_auto_takes_torch_and_cupy_says_why_not():
    assert _launch.resolve("auto", torch.device("cpu")) == "torch"
    message = "backend 'cupy' must have CUDA tensors and a CuPy that can launch, got: torch sees no CUDA device; or use backend='auto'"
    with pytest.raises(ValueError, match=re.escape(message)):
        TumorSynthesizer("liver-hu2022", backend="cupy")


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
        (13000, 11080, "CuPy was built for CUDA 13, the driver offers 11; a newer NVIDIA driver mends it"),
        (13000, 0, "CuPy was built for CUDA 13, the driver offers none; a newer NVIDIA driver mends it"),
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
    _launch._tell.cache_clear()
    with pytest.warns(UserWarning, match="torch operations take the place of the CUDA kernels: CuPy cannot be imported .*: pip") as said:
        assert [_launch.resolve("auto", torch.device("cuda")) for _ in range(3)] == ["torch"] * 3
    assert len(said) == 1
    _launch.missing.cache_clear()


def test_a_folder_that_cupy_cannot_make_is_no_cupy_that_is_missing(monkeypatch):
    def fail():
        raise PermissionError(13, "Permission denied", "/home/nobody/.cupy")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_launch, "_cupy", fail)
    assert _launch.lack() == (
        "CuPy cannot make the folder where it keeps compiled kernels ([Errno 13] Permission denied: '/home/nobody/.cupy')",
        "name another",
        "export CUPY_CACHE_DIR=/a/folder/to/write",
    )


class Unwritable:
    """A CuPy whose compiler works and whose folder is read-only; `error` is raised where a binary would be kept."""

    def __init__(self, error):
        self.error = error

    def RawModule(self, **_):
        return self

    def compile(self):
        if not os.environ.get("CUPY_CACHE_IN_MEMORY"):
            raise self.error


def test_kernels_are_compiled_where_none_can_be_kept(monkeypatch):
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "")
    read_only = Unwritable(OSError(30, "Read-only file system", "/opt/cache/tmp1"))
    monkeypatch.setattr(_launch, "_cupy", lambda: read_only)
    assert _launch._module.__wrapped__("rng", 0) is read_only
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "")
    monkeypatch.setattr(_launch, "_cupy", lambda: Unwritable(OSError("libnvrtc.so.13: cannot open shared object file")))
    with pytest.raises(OSError, match="libnvrtc"):
        _launch._module.__wrapped__("rng", 0)


def test_memory_that_a_kernel_would_misread_is_refused(monkeypatch):
    emulated(monkeypatch)
    out = torch.zeros(4, 6).T
    rest = (torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), _launch.key(0), np.int32(0), np.int64(1), np.int64(1))
    with pytest.raises(ValueError, match=r"out of halfwords_kernel must be contiguous, got strides \(1, 6\) for shape \(6, 4\)"):
        _launch.launch("rng", "halfwords_kernel", (1, 1, 1), (256, 1, 1), (out.int().T.contiguous().T, *rest))
    with pytest.raises(TypeError, match=r"out of halfwords_kernel must be torch.int32, got torch.float32"):
        _launch.launch("rng", "halfwords_kernel", (1, 1, 1), (256, 1, 1), (out.contiguous(), *rest))
    on_meta = (torch.zeros(8, dtype=torch.int32), rest[0], rest[1].to("meta"), *rest[2:])
    with pytest.raises(ValueError, match="index of halfwords_kernel must be on cpu, as what comes before it, got meta"):
        _launch.launch("rng", "halfwords_kernel", (1, 1, 1), (256, 1, 1), on_meta)


def test_numbers_become_what_the_source_declares(monkeypatch):
    """A float that is no integer's place, and a number too large, are refused: CUDA would take their bits for something else."""
    given = []
    monkeypatch.setattr(_launch, "RUNNER", lambda *launched: given.append(launched[-1]))
    out, uid, index = torch.zeros(8, dtype=torch.int32), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    rest = (_launch.key(-1), 5, 1, 1)
    _launch.launch("rng", "halfwords_kernel", (1, 1, 1), (256, 1, 1), (out, uid, index, *rest))
    assert [type(value) for value in given[0]] == [int, int, int, np.uint64, np.int32, np.int64, np.int64]
    assert given[0][0] == out.data_ptr()
    assert given[0][3:] == [2**64 - 1, 5, 1, 1]
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        _launch.launch("rng", "halfwords_kernel", (1, 1, 1), (256, 1, 1), (out, uid, index, rest[0], 5.0, 1, 1))
    with pytest.raises(TypeError, match="a number must be given by value, got a tensor of shape"):
        _launch.launch("rng", "halfwords_kernel", (1, 1, 1), (256, 1, 1), (out, uid, index, rest[0], uid, 1, 1))
    with pytest.raises(OverflowError):
        _launch.launch("rng", "halfwords_kernel", (1, 1, 1), (256, 1, 1), (out, uid, index, rest[0], 2**31, 1, 1))


def test_a_kernel_is_launched_once_for_each_number(monkeypatch):
    given = []
    monkeypatch.setattr(_launch, "RUNNER", lambda *launched: given.append(launched[-1]))
    out, uid, index = torch.zeros(8, dtype=torch.int32), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    where = ("rng", "halfwords_kernel", (1, 1, 1), (256, 1, 1), (out, uid, index, _launch.key(3), 1, 1), 4)
    _launch.launch_each(*where, range(7, 10))
    assert [values[4] for values in given] == [7, 8, 9]
    assert {type(values[4]) for values in given} == {np.int32}
    assert all(values[:4] == given[0][:4] and values[5:] == [1, 1] for values in given)
    _launch.launch_each(*where, range(0))
    assert len(given) == 3


@pytest.mark.parametrize(("current", "entered"), [(1, []), (0, [1])], ids=["there", "elsewhere"])
def test_cupy_is_handed_the_stream_of_the_tensors_device(current, entered, monkeypatch):
    """On device 1, whichever is the current one: it is made current where it is not, and torch's stream there goes with the launch."""
    called, devices = [], []

    class OnDevice(torch.Tensor):
        device = torch.device("cuda", 1)

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext(devices.append(index)))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 1000 + index, raising=False)
    monkeypatch.setattr(_launch, "_stream", lambda pointer, device: ("stream", pointer, device))
    monkeypatch.setattr(_launch, "_function", lambda *which: lambda *launched, **options: called.append((which, launched, options)))
    out, uid, index = (torch.zeros(8, dtype=dtype).as_subclass(OnDevice) for dtype in (torch.int32, torch.int64, torch.int64))
    _launch.launch("rng", "halfwords_kernel", (2, 1, 1), (256, 1, 1), (out, uid, index, _launch.key(0), 5, 1, 1))
    ((which, launched, options),) = called
    assert which == ("rng", "halfwords_kernel", 1)
    assert launched[:2] == ((2, 1, 1), (256, 1, 1))
    assert launched[2][:3] == [x.data_ptr() for x in (out, uid, index)]
    assert options == {"stream": ("stream", 1001, 1)}
    assert devices == entered


def test_every_parameter_of_every_kernel_is_understood():
    for family, source in _launch.sources().items():
        for kernel in kernels_of(source):
            names = [name for name, *_ in _launch._parameters(family, kernel)]
            assert len(set(names)) == len(names) >= 3


def test_a_compiler_that_fails_leaves_auto_with_torch(monkeypatch):
    def fail(*_):
        raise RuntimeError("no NVRTC")

    monkeypatch.setattr(_launch, "_broken", [])
    monkeypatch.setattr(_launch, "missing", functools.lru_cache(lambda: (_launch._broken or [None])[0]))
    monkeypatch.setattr(_launch, "_module", fail)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    _launch.compile_all("auto")
    assert _launch.resolve("auto", torch.device("cuda")) == "torch"
    monkeypatch.setattr(_launch, "_broken", [])
    _launch.missing.cache_clear()
    with pytest.raises(RuntimeError, match="no NVRTC"):
        _launch.compile_all("cupy")


def test_no_file_but_the_launcher_touches_cupy():
    for path in [
        *_launch.FOLDER.rglob("*.py"),
        *_launch.FOLDER.parent.glob("gpu_synth/*.py"),
        *_launch.FOLDER.parent.glob("trainers/*.py"),
    ]:
        assert path.name == "_launch.py" or not re.search(r"^\s*(import|from) cupy", path.read_text(), re.MULTILINE), path

"""What would wait for a GPU, seen without one: on the meta device, operations that copy between host and device are refused by name."""

import pytest
import torch
from scans import ONE_MM, scans
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gpu_synth import TumorSynthesizer
from gpu_synth.kernels import _launch

SPACINGS = [ONE_MM, (0.7, 0.7, 5.0), (0.7, 0.7, 5.0)]
CASES = [("liver-hu2022", {}), ("liver", {}), ("liver", {"growth": True})]
MOST_BLOCKS = (2**31 - 1, 65535, 65535)


class NoWait(TorchFunctionMode):
    """Refuse what waits: an index that lies on the host, a tensor made on the device of host numbers, a copy that is not told not to wait.

    Values that are read back need no rule: the meta device has none, and raises.
    """

    def __init__(self):
        super().__init__()
        self.copies = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].is_meta:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(part, (list, range)) for part in index), f"index {index} would be copied to the device"
            assert not any(isinstance(part, Tensor) and not part.is_meta and part.ndim for part in index), "an index on the host"
            assert not any(isinstance(part, Tensor) and part.dtype == torch.bool for part in index), "a mask as index"
        if func in (torch.tensor, torch.as_tensor):
            assert "meta" not in str(kwargs.get("device")), "host numbers are copied to the device, and waited for"
        out = func(*args, **kwargs)
        if func is Tensor.to and out.is_meta and not args[0].is_meta:
            assert kwargs.get("non_blocking"), "a copy to the device that waits"
            self.copies += 1
        return out


@pytest.fixture(params=["torch", "cupy"])
def backend(request, monkeypatch):
    """Kernels are not run, but their arguments and grids are looked at."""

    def run(family, kernel, grid, block, arguments):
        assert all(1 <= n <= most for n, most in zip(grid, MOST_BLOCKS, strict=True)), f"{kernel}: {grid}"

    monkeypatch.setattr(_launch, "RUNNER", run)
    return request.param


@pytest.mark.parametrize(("preset", "overrides"), CASES, ids=["liver-hu2022", "liver", "growth"])
def test_a_call_waits_for_nothing_once_tables_are_on_the_device(backend, preset, overrides):
    """Nothing is copied, uids are counted on the device: a copy that a CUDA graph had captured would read freed memory."""
    image, label = (x.to("meta") for x in scans(3, (24, 26, 30)))
    synth = TumorSynthesizer(preset, prob=1.0, backend=backend, **overrides)
    synth(image, label, SPACINGS)
    with NoWait() as watched:
        synth(image, label, SPACINGS)
    assert watched.copies == 0 or backend == "torch"


@pytest.mark.parametrize(("preset", "overrides"), CASES, ids=["liver-hu2022", "liver", "growth"])
@pytest.mark.parametrize("spacing_mm", [ONE_MM, (0.7, 0.7, 5.0), (5.0, 0.7, 0.7)], ids=str)
def test_grids_of_large_volumes_are_launched(preset, overrides, spacing_mm, monkeypatch):
    """A whole CT, and a batch of them: no GPU takes more than 65535 blocks along y and z."""
    seen = []

    def run(family, kernel, grid, block, arguments):
        seen.append(kernel)
        assert all(1 <= n <= most for n, most in zip(grid, MOST_BLOCKS, strict=True)), f"{kernel}: {grid}"

    monkeypatch.setattr(_launch, "RUNNER", run)
    image, label = (torch.empty(32, 1, 512, 512, 300, dtype=dtype, device="meta") for dtype in (torch.float32, torch.uint8))
    TumorSynthesizer(preset, prob=1.0, backend="cupy", **overrides)(image, label, spacing_mm)
    assert seen


def test_what_waits_is_refused():
    values, flags = torch.zeros(4, device="meta"), torch.zeros(4, device="meta", dtype=torch.bool)
    refused = [
        lambda: values[[0, 1]],
        lambda: values[torch.tensor([0, 1])],
        lambda: values.__setitem__(flags, 0.0),
        lambda: torch.tensor([1.0], device="meta"),
        lambda: torch.zeros(1).to("meta"),
    ]
    for wait in refused:
        with NoWait(), pytest.raises(AssertionError):
            wait()

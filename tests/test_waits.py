"""What would wait for a GPU, seen without one: on the meta device, operations that copy between host and device are refused by name."""

import pytest
import torch
from scans import ONE_MM, scans, uids
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gpu_synth import TumorSynthesizer
from gpu_synth.checks import check_uid
from gpu_synth.kernels import _launch

SPACINGS = [ONE_MM, (0.7, 0.7, 5.0), (0.7, 0.7, 5.0)]
CASES = [("liver-hu2022", {}), ("liver", {}), ("liver", {"growth": True})]
NAMES = ["liver-hu2022", "liver", "growth"]
LARGE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
MOST_BLOCKS = (2**31 - 1, 65535, 65535)


class NoWait(TorchFunctionMode):
    """Refuse what waits: an index that lies on the host, a tensor made on the device of host numbers, a copy that is not told not to wait;
    and what torch has not for all types on CUDA.

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
        if func in (torch.where, Tensor.where, torch.gather, Tensor.gather, Tensor.index_select, Tensor.masked_fill_):
            large = [x.dtype for x in args if isinstance(x, Tensor) and x.dtype in LARGE_UNSIGNED]
            assert not large, f"CUDA has no {func.__name__} of {large[0]}"
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


@pytest.mark.parametrize(("preset", "overrides"), CASES, ids=NAMES)
def test_a_call_waits_for_nothing_once_tables_are_on_the_device(backend, preset, overrides):
    """Nothing is copied, uids are counted on the device: a copy that a CUDA graph had captured would read freed memory."""
    image, label = (x.to("meta") for x in scans(3, (24, 26, 30)))
    synth = TumorSynthesizer(preset, prob=1.0, backend=backend, **overrides)
    synth(image, label, SPACINGS)
    with NoWait() as watched:
        synth(image, label, SPACINGS)
    assert watched.copies == 0 or backend == "torch"


@pytest.mark.parametrize(("preset", "overrides"), [*CASES, ("liver", {"cirrhosis_prob": 1.0})], ids=[*NAMES, "cirrhosis"])
def test_labels_of_large_unsigned_types_need_nothing_that_cuda_has_not(backend, preset, overrides):
    image, label = (x.to("meta") for x in scans(2, (24, 26, 30)))
    label, synth = label.to(torch.uint16), TumorSynthesizer(preset, prob=1.0, backend=backend, **overrides)
    synth(image, label, ONE_MM)
    with NoWait():
        assert synth(image, label, ONE_MM)[1].dtype == torch.uint16


@pytest.mark.parametrize(("preset", "overrides"), CASES, ids=NAMES)
@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        ((32, 1, 512, 512, 300), ONE_MM),
        ((32, 1, 512, 512, 300), (0.7, 0.7, 5.0)),
        ((32, 1, 512, 512, 300), (5.0, 0.7, 0.7)),
        ((1, 1, 1024, 1024, 1000), (0.4, 0.4, 1.0)),
        ((256, 1, 128, 128, 128), ONE_MM),
    ],
    ids=str,
)
def test_grids_of_large_volumes_are_launched(preset, overrides, shape, spacing_mm, monkeypatch):
    """A whole CT, and a batch of them: no GPU takes more than 65535 blocks along y and z."""
    seen = []

    def run(family, kernel, grid, block, arguments):
        seen.append(kernel)
        assert all(1 <= n <= most for n, most in zip(grid, MOST_BLOCKS, strict=True)), f"{kernel}: {grid}"

    monkeypatch.setattr(_launch, "RUNNER", run)
    image, label = (torch.empty(shape, dtype=dtype, device="meta") for dtype in (torch.float32, torch.uint8))
    TumorSynthesizer(preset, prob=1.0, backend="cupy", **overrides)(image, label, spacing_mm)
    assert seen


class Copies(TorchFunctionMode):
    """Notes of each copy whether it was told not to wait."""

    def __init__(self):
        super().__init__()
        self.unwaited = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.to:
            self.unwaited.append(bool((kwargs or {}).get("non_blocking")))
        return func(*args, **(kwargs or {}))


def test_what_comes_to_the_host_is_waited_for():
    """A copy from a GPU that is told not to wait is read before it is there, without a word."""
    image, label = scans(2)
    plan = TumorSynthesizer("liver-hu2022", prob=1.0).plan(image, label, ONE_MM, uids(2))
    with Copies() as copies:
        plan.to("cpu")
        check_uid(uids(2), image)
    assert len(copies.unwaited) == 1 + len(plan.tensors())
    assert not any(copies.unwaited)


def test_what_waits_is_refused():
    values, flags = torch.zeros(4, device="meta"), torch.zeros(4, device="meta", dtype=torch.bool)
    refused = [
        lambda: values[[0, 1]],
        lambda: values[torch.tensor([0, 1])],
        lambda: values.__setitem__(flags, 0.0),
        lambda: torch.tensor([1.0], device="meta"),
        lambda: torch.zeros(1).to("meta"),
        lambda: torch.where(flags, values.to(torch.uint16), values.to(torch.uint16)),
    ]
    for wait in refused:
        with NoWait(), pytest.raises(AssertionError):
            wait()

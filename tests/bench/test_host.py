"""What a call of the kernels' backend asks of its host: launches and operations are counted, so that none is added unnoticed."""

import pytest
import torch
from scans import scans

from gpu_synth import TumorSynthesizer
from gpu_synth.bench.case import Setting
from gpu_synth.bench.host import PRESETS, Counts, _Operations, count, no_launches
from gpu_synth.kernels import _host, _launch

# On CUDA a launch takes the host some 10 µs, an operation of torch that does something there as much, any other 1 or 2. A new one must be
# worth that: where it is, these numbers change, with bench/README.md. Which operations torch makes of one is its own affair: at most.
MOST = {"liver-hu2022": Counts(25, 5, 61), "liver": Counts(35, 7, 79), "liver, growth": Counts(179, 25, 146)}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_call_launches_no_more_than_it_is_known_to(preset):
    got, most = count(*PRESETS[preset], Setting(batch=16, patch=96)), MOST[preset]
    assert got.launches == most.launches
    assert got.device_operations <= most.device_operations
    assert got.operations <= most.operations


def test_what_is_counted():
    with _Operations() as seen:
        x = torch.empty(4, 4, device="meta")  # an allocation
        _ = x.view(-1)[2:], x.T  # three views
        _ = x + 1  # the one that does something there
        _ = torch.arange(3)  # on the host
    assert (seen.of_device, seen.all) == (1, 6)


def test_without_launches_is_over_when_it_is_over():
    before = _launch.RUNNER, _host.on_host
    with pytest.raises(TypeError, match="uid must be an int64 tensor"), no_launches():
        fail_on_device()
    assert (_launch.RUNNER, _host.on_host) == before


def fail_on_device():
    assert not _host.on_host(torch.device("cpu"))
    image, label = scans(1, (8, 8, 8))
    TumorSynthesizer("liver-hu2022", backend="cupy")(image, label, (1.0, 1.0, 1.0), torch.ones(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_kernels_get_their_own_types_whatever_the_default_is(preset, dtype):
    """As a trainer of true half precision sets it; a tensor of another type than the kernel declares is refused."""
    name, overrides = PRESETS[preset]
    image, label = scans(2, (24, 26, 30))
    torch.set_default_dtype(dtype)
    try:
        with no_launches():
            out = TumorSynthesizer(name, prob=1.0, backend="cupy", **overrides)(image, label, (1.0, 1.0, 1.0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert out[0].dtype == image.dtype

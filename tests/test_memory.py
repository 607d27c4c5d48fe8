"""What a call on kernels holds at once, seen without a GPU: on the meta device tensors have sizes and no memory."""

import pytest
import torch
from scans import ONE_MM
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpu_synth import TumorSynthesizer
from gpu_synth.kernels import _launch

MOST_IMAGES = 3  # beyond input and output, in bytes of the batch's images


class Peak(TorchDispatchMode):
    """The most bytes that tensors of the meta device held at once, but for those that were there before."""

    def __init__(self, *before):
        super().__init__()
        self._before, self._live, self.bytes = {x.untyped_storage()._cdata for x in before}, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.is_meta and (storage := x.untyped_storage())._cdata not in self._before:
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._live = {key: held for key, held in self._live.items() if not held[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self._live.values()))
        return out


SPACINGS = [ONE_MM, (2.0, 2.0, 2.0), (0.7, 0.7, 5.0)]


@pytest.fixture
def scans(monkeypatch):
    """Images, labels and uids of a batch; kernels allocate, and run nothing."""
    monkeypatch.setattr(_launch, "RUNNER", lambda *_: None)
    image, label = (torch.empty(8, 1, 96, 96, 96, dtype=dtype, device="meta") for dtype in (torch.float32, torch.uint8))
    return image, label, torch.arange(8).to("meta")


@pytest.mark.parametrize("spacing_mm", SPACINGS, ids=str)
@pytest.mark.parametrize(("preset", "overrides"), [("liver-hu2022", {}), ("liver", {}), ("liver", {"growth": True})], ids=str)
def test_a_call_holds_at_most_three_times_its_images(preset, overrides, spacing_mm, scans):
    image, label, uid = scans
    synth = TumorSynthesizer(preset, prob=1.0, backend="cupy", **overrides)
    synth(image, label, spacing_mm, uid)  # tables are on the device from here on
    with Peak(image, label) as peak:
        out = synth(image, label, spacing_mm, uid)
    made = sum(x.nbytes for x in out)
    assert made < peak.bytes <= made + MOST_IMAGES * image.nbytes


@pytest.mark.parametrize("spacing_mm", SPACINGS, ids=str)
@pytest.mark.parametrize("preset", ["liver-hu2022", "liver"])
def test_a_graph_holds_at_most_three_times_its_images_its_own_copies_included(preset, spacing_mm, scans):
    image, label, uid = scans
    synth, peaks = TumorSynthesizer(preset, prob=1.0, backend="cupy", graph=True), []

    def capture(make, inputs, *_):
        make(*inputs)  # tables
        with Peak() as peak:
            made = make(*(x.clone() for x in inputs))
        peaks.append(peak.bytes)
        return made

    synth.replays = capture
    synth(image, label, spacing_mm, uid)
    assert image.nbytes < peaks[0] <= MOST_IMAGES * image.nbytes


def test_what_is_held_at_once_is_counted():
    with Peak() as peak:
        kept = torch.zeros(1000, dtype=torch.uint8, device="meta")
        for _ in range(3):
            _ = kept + 1
    assert 2000 <= peak.bytes <= 3000

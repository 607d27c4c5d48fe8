"""What a graph relies on, seen without a GPU: run again on its own buffers, which it may write into, synthesis is what it is eagerly."""

import pytest
import torch
from emulator import emulated
from scans import ONE_MM, scans, uids

from gpu_synth import TumorSynthesizer

CASES = [("liver-hu2022", {}), ("liver", {"cirrhosis_prob": 0.5, "satellite_prob": 1.0}), ("liver", {"growth": True})]


class Again:
    """A graph's stand-in: the buffers of the first call, filled anew at each, and what works on them run once more."""

    def __init__(self):
        self.buffers = None

    def __call__(self, make, inputs, *_):
        if self.buffers is None:
            self.buffers = tuple(x.clone() for x in inputs)
            make(*self.buffers)
        for buffer, value in zip(self.buffers, inputs, strict=True):
            buffer.copy_(value)
        return make(*self.buffers)


@pytest.mark.parametrize("spacing_mm", [ONE_MM, [ONE_MM, ONE_MM, (1.0, 1.0, 2.0)]], ids=["one spacing", "two"])
@pytest.mark.parametrize(("preset", "overrides"), CASES, ids=["liver-hu2022", "liver", "growth"])
def test_buffers_used_again_give_fresh_tumours_and_leave_what_was_given(preset, overrides, spacing_mm, monkeypatch):
    emulated(monkeypatch)
    image, label = scans(3, (30, 26, 40))
    given = image.clone(), label.clone()
    eager, graph = (TumorSynthesizer(preset, prob=1.0, backend="cupy", graph=graph, **overrides) for graph in (False, True))
    graph.replays = Again()
    made = [graph(image, label, spacing_mm, uid) for uid in (uids(3), uids(3) + 3)]
    for got, uid in zip(made, (uids(3), uids(3) + 3), strict=True):
        assert all(map(torch.equal, got, eager(image, label, spacing_mm, uid)))
    assert (made[0][1] == 2).any()
    assert not torch.equal(made[0][1], made[1][1])
    assert torch.equal(image, given[0])
    assert torch.equal(label, given[1])

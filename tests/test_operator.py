"""A model that contains the synthesizer, compiled: the same tumours, none baked in."""

import pytest
import torch
from scans import ONE_MM, scans, uids

from gpu_synth import TumorSynthesizer


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.synth = TumorSynthesizer("liver-hu2022", prob=1.0, seed=3)
        self.net = torch.nn.Conv3d(1, 2, 3)

    def forward(self, image, label):
        image, label = self.synth(image, label, ONE_MM)
        return self.net(image).sum(), image, label


def test_operator_keeps_torchs_rules():
    image, label = scans(2, (16, 14, 12))
    arguments = (image, label, uids(2), [1.0] * 6, 0, TumorSynthesizer("liver-hu2022", prob=1.0).recipe)
    results = torch.library.opcheck(torch.ops.gpu_synth.synthesize.default, arguments)
    assert set(results.values()) == {"SUCCESS"}
    assert torch.Tag.cudagraph_unsafe in torch.ops.gpu_synth.synthesize.default.tags


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_compiled_model_gets_the_tumours_of_the_eager_one(mode):
    """No graph break; no recompilation from step to step; fresh tumours at each; counters and state as without the compiler."""
    image, label = scans(2, (20, 18, 24))
    eager, model = Model().train(mode == "train"), Model().train(mode == "train")
    model.net = eager.net
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    seen = []
    with torch._dynamo.config.patch(error_on_recompile=False, recompile_limit=3):
        for _ in range(6):
            expected, got = eager(image, label), compiled(image, label)
            assert all(torch.equal(a, b) for a, b in zip(expected[1:], got[1:], strict=True))
            got[0].backward()
            seen.append(got[2])
    assert model.synth.get_extra_state() == eager.synth.get_extra_state()
    assert (model.synth.lesions, model.synth.skipped) == (eager.synth.lesions, eager.synth.skipped)
    assert len({tuple(x.flatten().tolist()) for x in seen}) == (6 if mode == "train" else 1)


def test_a_resumed_seed_reaches_compiled_code():
    image, label = scans(1, (20, 18, 24))
    model, other = Model(), Model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    first = compiled(image, label)[1]
    for synth in (model.synth, other.synth):
        synth.set_extra_state({**synth.get_extra_state(), "seed": 99, "counter": 0})
    assert torch.equal(compiled(image, label)[1], other(image, label)[1])
    assert not torch.equal(other(image, label)[1], first)


def test_a_recipe_makes_another_one_like_it():
    image, label = scans(2, (20, 18, 24))
    options = {"prob": 0.7, "scope": "volume", "contrast_hu": (-50, -40), "tumor_label": 5}
    synth = TumorSynthesizer("liver-hu2022", seed=4, **options)
    made = torch.ops.gpu_synth.synthesize(image, label, uids(2), [1.0] * 6, 4, synth.recipe)
    expected = synth(image, label, ONE_MM, uids(2))
    assert torch.equal(made[0], expected[0])
    assert torch.equal(made[1], expected[1])
    assert made[2].tolist() == [synth.lesions, synth.skipped]

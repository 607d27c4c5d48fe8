"""The published method as the benchmark runs it: independent, on one core, and the same in a data loader's workers."""

import ast
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_synth.bench import published
from gpu_synth.bench.case import ORGAN, TUMOUR, Setting
from gpu_synth.bench.pipeline import PublishedTumorsd, loader, one_core

SHAPE = (30, 26, 24)


def sample() -> dict:
    """A scan of noise with an organ that two borders cut."""
    image = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(1)) * 15 + 100
    label = torch.zeros((1, *SHAPE), dtype=torch.uint8)
    label[:, :20, 4:, 2:22] = ORGAN
    return {"image": image, "label": label, "name": "case"}


def test_it_shares_nothing_with_the_engine():
    tree = ast.parse(Path(published.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert {name.split(".")[0] for name in names} == {"collections", "dataclasses", "typing", "numpy", "scipy"}


@pytest.mark.parametrize("size_class", [*published.CLASSES, None])
def test_transform_puts_tumours_into_the_organ_alone(size_class):
    given = sample()
    transform = PublishedTumorsd(prob=1.0, size_class=size_class).set_random_state(seed=3)
    for _ in range(3):
        out = transform(given)
        tumour = out["label"] == TUMOUR
        changed = out["image"] != given["image"]
        assert tumour.any()
        assert (given["label"][tumour | changed] == ORGAN).all()
        assert torch.equal(out["label"][~tumour], given["label"][~tumour])
        assert (out["image"][changed] < given["image"][changed]).all()
        assert (out["image"].dtype, out["label"].dtype, out["name"]) == (torch.float32, torch.uint8, "case")
    assert not (given["label"] == TUMOUR).any(), "what is given stays as it is"


def test_transform_differs_at_each_call_and_can_be_repeated():
    def three(seed: int) -> list[torch.Tensor]:
        transform = PublishedTumorsd(prob=1.0).set_random_state(seed=seed)
        return [transform(sample())["image"] for _ in range(3)]

    first, again, other = three(5), three(5), three(6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a in first for b in (*other, *(image for image in first if image is not a)))


@pytest.mark.parametrize("case", ["no organ", "tumour already", "not drawn"])
def test_transform_leaves_alone_what_it_must(case):
    given = sample()
    if case == "no organ":
        given["label"][:] = 0
    if case == "tumour already":
        given["label"][0, 5, 5, 5] = TUMOUR
    out = PublishedTumorsd(prob=0.0 if case == "not drawn" else 1.0)(given)
    assert torch.equal(out["image"], given["image"])
    assert torch.equal(out["label"], given["label"])


def test_workers_draw_tumours_of_their_own():
    batches = loader(Setting("small", 2, 24, source="published", workers=2))
    labels = torch.cat([next(batches)["label"] for _ in range(4)])
    assert labels.shape == (8, 1, 24, 24, 24)
    assert (labels == TUMOUR).flatten(1).any(1).all()
    assert len(labels.flatten(1).unique(dim=0)) == len(labels)


def test_a_bank_gives_textures_as_fresh_ones_are():
    rng = np.random.default_rng(7)
    bank = published.texture_bank(40, rng)
    assert len(bank) == 10
    fresh = [published.texture((32, 32, 32), rng).mean() for _ in range(20)]
    crops = [published.cropped(bank, (32, 32, 32), rng) for _ in range(20)]
    assert all(crop.shape == (32, 32, 32) and crop.min() >= 0 and crop.max() <= 1 for crop in crops)
    assert abs(np.mean(fresh) - np.mean(crops)) < 3 * np.sqrt(np.var(fresh) / 20 + np.var([crop.mean() for crop in bank]) / 10)


def test_one_core_is_one_core():
    case = one_core(torch.device("cpu"), Setting("mix", 1, 48), banked=False)
    case.run()
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(3):
        image, label = case.run()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    assert processor < 1.1 * wall
    assert case.threads == 1
    assert (image[label == ORGAN + 1] < 100).any()
    assert set(np.unique(label)) == {ORGAN, TUMOUR}

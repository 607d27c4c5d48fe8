"""A sample is the same to the bit wherever it is made; a crop of a render is a render of the crop; nothing else is disturbed."""

import os
import random
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scans import MIX, ONE_MM, TINY, same, scans, uids

from gpu_synth import TumorPlan, TumorSynthesizer
from gpu_synth.kernels import _host
from gpu_synth.kernels.shape import _spline_weights
from gpu_synth.preset_table import parameter_table

SPACINGS = [ONE_MM, (0.7, 0.7, 5.0), (0.7, 0.7, 5.0), ONE_MM, (2.0, 2.0, 2.0), ONE_MM, (1.3, 0.9, 2.5), (0.7, 0.7, 5.0)]


def identical(a, b):
    return same(a[0], b[0]) and same(a[1], b[1])


@pytest.fixture(scope="module")
def eight():
    """Eight scans, their spacings and uids, and what becomes of them together."""
    image, label = scans(8)
    label[6] = 0  # one that cannot be altered
    synth = TumorSynthesizer("liver-hu2022", seed=11)
    made = synth(image, label, SPACINGS, uids(8))
    assert synth.lesions > 20
    return image, label, *made


@pytest.mark.parametrize("order", [[0], [1], [4], [5], [7, 6, 5, 4, 3, 2, 1, 0], [2, 7, 1], [3, 0, 5, 1]], ids=str)
def test_alone_or_in_any_company(eight, order):
    image, label, new_image, new_label = (x[order] for x in eight)
    made = TumorSynthesizer("liver-hu2022", seed=11)(image, label, [SPACINGS[n] for n in order], uids(8)[order])
    assert identical(made, (new_image, new_label))


def test_again_and_by_parts(eight):
    image, label, *made = eight
    synth = TumorSynthesizer("liver-hu2022", seed=11).eval()
    assert identical(synth(image, label, SPACINGS, uids(8)), made)
    plan = synth.plan(image, label, SPACINGS, uids(8))
    out = synth.render(image, label, plan)
    assert identical((out.image, out.label), made)
    backwards = TumorPlan.cat([plan[n] for n in reversed(range(8))])
    out = synth.render(image.flip(0), label.flip(0), backwards)
    assert identical((out.image.flip(0), out.label.flip(0)), made)


def test_uid_and_seed_matter(eight):
    image, label, *made = eight
    for other in (
        TumorSynthesizer("liver-hu2022", seed=12)(image, label, SPACINGS, uids(8)),
        TumorSynthesizer("liver-hu2022", seed=11)(image, label, SPACINGS, uids(8, 7)),
    ):
        assert all(not torch.equal(other[0][n], made[0][n]) for n in (0, 3, 4))


def test_after_a_save_and_a_load(eight, tmp_path):
    image, label, *made = eight
    TumorSynthesizer("liver-hu2022", seed=11).plan(image, label, SPACINGS, uids(8)).save(tmp_path / "plan")
    out = TumorSynthesizer("liver-hu2022", seed=999).render(image, label, TumorPlan.load(tmp_path / "plan"))  # the plan holds the key
    assert identical((out.image, out.label), made)


SECOND_PROCESS = """
import sys, torch
from gpu_synth import TumorSynthesizer
torch.set_num_threads(2)  # the tests run in one
given = torch.load(sys.argv[1], weights_only=True)
made = TumorSynthesizer("liver-hu2022", seed=11)(given["image"], given["label"], given["spacing_mm"], given["uid"])
torch.save(made, sys.argv[2])
"""


def test_in_a_second_process_of_two_threads(eight, tmp_path):
    image, label, *made = eight
    torch.save({"image": image, "label": label, "spacing_mm": SPACINGS, "uid": uids(8)}, tmp_path / "given")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", SECOND_PROCESS, tmp_path / "given", tmp_path / "made"]
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert identical(torch.load(tmp_path / "made", weights_only=True), made)


def test_after_resuming_the_state(tmp_path):
    image, label = scans(3)
    synth = TumorSynthesizer("liver-hu2022", seed=5, class_prob=TINY)
    first = synth(image, label, ONE_MM)
    torch.save(synth.state_dict(), tmp_path / "state")
    second = synth(image, label, ONE_MM)
    assert not torch.equal(first[0], second[0])
    resumed = TumorSynthesizer("liver-hu2022", seed=0, class_prob=TINY)
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert identical(resumed(image, label, ONE_MM), second)
    by_uid = TumorSynthesizer("liver-hu2022", seed=5, class_prob=TINY)(image, label, ONE_MM, torch.tensor([3, 4, 5]))
    assert identical(by_uid, second)


# ---- whatever the loop around does ------------------------------------------------------------------------------------------------------


def default_dtype(dtype):
    class Context:
        def __enter__(self):
            torch.set_default_dtype(dtype)

        def __exit__(self, *_):
            torch.set_default_dtype(torch.float32)

    return Context()


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(lambda: torch.autocast("cpu", torch.bfloat16), id="autocast"),
        pytest.param(torch.inference_mode, id="inference-mode"),
        pytest.param(torch.enable_grad, id="grad"),
        pytest.param(lambda: default_dtype(torch.float64), id="64-true"),
        pytest.param(lambda: default_dtype(torch.bfloat16), id="bf16-true"),
    ],
)
def test_inside_any_precision_of_the_training_loop(eight, loop):
    image, label, *made = eight
    for cached in (parameter_table, _spline_weights):
        cached.cache_clear()
    with loop():
        synth = TumorSynthesizer("liver-hu2022", seed=11)
        inside = synth(image, label, SPACINGS, uids(8))
    assert identical(inside, made)
    assert identical(synth(image, label, SPACINGS, uids(8)), made)  # and what was cached inside serves outside


def test_reduced_precision_products_are_off_inside_and_as_before_outside(eight, monkeypatch):
    image, label, *_ = eight
    seen = []
    monkeypatch.setattr("torch.bmm", lambda a, b, bmm=torch.bmm: (seen.append(torch.backends.cuda.matmul.fp32_precision), bmm(a, b))[1])
    torch.set_float32_matmul_precision("high")
    try:
        TumorSynthesizer("liver-hu2022", seed=11)(image, label, SPACINGS, uids(8))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"ieee"}


def test_global_generators_are_untouched(eight):
    image, label, *_ = eight
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 (the global generator is what is meant)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    TumorSynthesizer("liver-hu2022", seed=11)(image, label, SPACINGS)
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    assert before[0] == after[0]
    assert str(before[1]) == str(after[1])
    assert torch.equal(before[2], after[2])


# ---- crops ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volume():
    """A case of 70 × 61 × 52 with lesions of all sizes, its plan and its render."""
    image, label = scans(1, (70, 61, 52))
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, seed=2, scope="volume", class_prob=MIX)
    plan = synth.plan(image, label, ONE_MM, uids(1))
    return synth, image, label, plan, synth.render(image, label, plan)


@pytest.mark.parametrize("start", [(0, 0, 0), (13, 9, 11), (38, 29, 20), (5, 29, 0)], ids=str)
def test_a_crop_of_a_render_is_the_render_of_the_crop(volume, start):
    """Instances exactly. HU within 8 voxels (4 sigma of the widest edge at 1 mm) of a border that cuts the case may differ: the lesion's
    blur does not see beyond. Elsewhere to 0.01 HU: sums of float32 are of other lengths.
    """
    synth, image, label, plan, whole = volume
    crop = (..., *(slice(s, s + 32) for s in start))
    part = synth.render(image[crop], label[crop], plan, origin_vox=start)
    assert torch.equal(part.instances, whole.instances[crop])
    assert same(part.label, whole.label[crop])
    inner = (..., *(slice(8 if s else 0, 24 if s + 32 < n else 32) for s, n in zip(start, image.shape[2:], strict=True)))
    torch.testing.assert_close(part.image[inner], whole.image[crop][inner], rtol=0, atol=0.01)
    assert (part.image != image[crop]).any()
    outside = label[crop] != 1
    assert same(part.image[outside], image[crop][outside])


def test_a_crop_without_a_lesion_is_untouched_and_one_beyond_the_case_works(volume):
    synth, image, label, plan, _ = volume
    air = torch.zeros_like(label[..., :20, :20, :20])
    out = synth.render(image[..., :20, :20, :20], air, plan, origin_vox=(5, 5, 5))
    assert same(out.image, image[..., :20, :20, :20])
    padded = synth.render(image, label, plan, origin_vox=(-20, -5, 30))
    assert padded.image.isfinite().all()


# ---- an accelerator's path --------------------------------------------------------------------------------------------------------------


def test_without_looking_at_values_it_comes_to_the_same(eight, monkeypatch):
    """The accelerator's path on the CPU: batched by spacing, everything everywhere. Lesions exactly, HU to float32 sums."""
    image, label, *made = eight
    synth = TumorSynthesizer("liver-hu2022", seed=11)
    looking = synth.render(image, label, synth.plan(image, label, SPACINGS, uids(8)))
    monkeypatch.setattr(_host, "on_host", lambda device: False)
    blind = synth.render(image, label, synth.plan(image, label, SPACINGS, uids(8)))
    assert torch.equal(blind.instances, looking.instances)
    assert same(blind.label, made[1])
    torch.testing.assert_close(blind.image, made[0], rtol=0, atol=1e-3)


def test_no_value_is_read_back():
    """On the meta device, where there are no values: reading one, by item, nonzero, mask or copy to the host, raises."""
    image, label = (x.to("meta") for x in scans(3, dtype=torch.float16))
    spacing_mm = [ONE_MM, (0.7, 0.7, 5.0), (0.7, 0.7, 5.0)]
    synth = TumorSynthesizer("liver-hu2022", seed=11, scope="volume")
    new_image, new_label = synth(image, label, spacing_mm)
    assert (new_image.shape, new_image.dtype, new_image.device) == (image.shape, image.dtype, image.device)
    assert (new_label.shape, new_label.dtype, new_label.device) == (label.shape, label.dtype, label.device)
    plan = synth.plan(image, label, spacing_mm, torch.arange(3))  # uids may be on the host
    assert synth.render(image[1:], label[1:], plan[1:], (0, 0, 0)).instances.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        _ = synth.lesions  # so reading would have been noticed


@pytest.mark.cuda
@pytest.mark.parametrize("around", [nullcontext, lambda: torch.autocast("cuda", torch.bfloat16)], ids=["plain", "autocast"])
def test_on_cuda_lesions_are_those_of_the_cpu(eight, around):
    image, label, *made = eight
    with around():
        new_image, new_label = TumorSynthesizer("liver-hu2022", seed=11)(image.cuda(), label.cuda(), SPACINGS, uids(8))
    assert (new_label.cpu() != made[1]).sum() <= 4  # a displacement that rounds the other way moves a line of voxels
    torch.testing.assert_close(new_image.cpu()[new_label.cpu() == made[1]], made[0][new_label.cpu() == made[1]], rtol=0, atol=2.0)

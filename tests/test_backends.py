"""The whole synthesis on kernels against the same on torch operations: the same tumours, in any batch."""

import pytest
import torch
from emulator import emulated
from scans import ONE_MM, organ, scans, uids
from twins import assert_equal, assert_same_images, assert_same_labels, on

from gpu_synth import TumorSynthesizer
from gpu_synth import plan as plan_module

PLAN_TOLERANCE = {"elastic_mm": 2e-7, "texture_gain": 1e-5}  # relative; all other tensors of a plan are the same to the last bit


@pytest.fixture(params=["forward", "reversed", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request, monkeypatch):
    if request.param == "cuda":
        return torch.device("cuda")
    emulated(monkeypatch, request.param)
    return torch.device("cpu")


@pytest.fixture(params=["bounds of the samples", "bounds of the preset"])
def bounds(request, monkeypatch):
    """Widths are bounded by the samples' own on a host, by the preset's on CUDA."""
    if request.param == "bounds of the preset":
        monkeypatch.setattr(plan_module._host, "on_host", lambda device: False)


def pair(**options):
    """The same synthesizer twice: torch operations, and kernels."""
    options = {"prob": 1.0, **options}
    return TumorSynthesizer("liver-hu2022", backend="torch", **options), TumorSynthesizer("liver-hu2022", backend="cupy", **options)


def both(device, image, label, spacing_mm, uid, **options):
    """Plan and render on either; compare; return the kernels' render."""
    twin, kernel = pair(**options)
    expected_plan = twin.plan(image, label, spacing_mm, uid)
    plan = kernel.plan(*on(device, (image, label)), spacing_mm, uid)
    for name, expected in expected_plan.tensors().items():
        if name in PLAN_TOLERANCE:
            torch.testing.assert_close(plan.tensors()[name].cpu(), expected, rtol=PLAN_TOLERANCE[name], atol=0)
        elif name != "centre_vox" or not expected_plan.skipped.any():  # where there is no place, centres mean nothing
            assert_equal(plan.tensors()[name], expected)
    expected, got = twin.render(image, label, expected_plan), kernel.render(*on(device, (image, label)), plan)
    assert_same_labels(got.label, expected.label, options.get("tumor_label", 2))
    assert_same_images(got.image, expected.image, within_hu=0.05 + 150 * torch.finfo(image.dtype).eps)
    assert (got.instances.cpu() != expected.instances).sum() <= max(2, 1e-4 * (expected.instances > 0).sum())
    return got


@pytest.mark.parametrize("uid", range(8))
def test_seed_7(device, uid, bounds):
    """Seed 7, uids 0 to 7: the labels, instances and images of the torch twin on the CPU."""
    image, label = scans(1, (40, 36, 33))
    both(device, image, label, ONE_MM, torch.tensor([uid]), seed=7)


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        pytest.param((33, 27, 41), ONE_MM, id="odd-1mm"),
        pytest.param((64, 50, 12), (0.7, 0.7, 5.0), id="0.7-0.7-5mm"),
        pytest.param((22, 25, 30), (3.0, 2.0, 2.5), id="cells-of-one-voxel"),
        pytest.param((5, 7, 3), ONE_MM, id="smaller-than-a-lesion"),
    ],
)
def test_grids(device, shape, spacing_mm):
    image, label = scans(2, shape)
    both(device, image, label, spacing_mm, uids(2))


def test_a_batch_that_mixes_spacings_empty_organs_tumours_and_full_patches(device):
    image, label = scans(5, (30, 26, 34))
    label[1] = 0
    label[2, 0, 3, 3, 3] = 2
    label[3] = 1
    out = both(device, image, label, [ONE_MM, ONE_MM, (1.5, 1.5, 3.0), (1.5, 1.5, 3.0), ONE_MM], uids(5))
    assert out.plan.skipped.tolist() == [False, True, True, False, False]
    for n in (1, 2):
        assert torch.equal(out.image[n].cpu(), image[n])
        assert torch.equal(out.label[n].cpu(), label[n])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_image_types_and_voxels_that_are_not_finite(device, dtype):
    image, label = scans(2, (30, 26, 34), dtype)
    image[0, 0, 4:9, 4:9, 4:9], image[1, 0, 10:13] = torch.nan, torch.inf
    both(device, image, label, ONE_MM, uids(2))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int64], ids=str)
def test_label_types_and_other_numbers(device, dtype):
    image, label = scans(2, (24, 26, 30))
    both(device, image, label.to(dtype) * 6, ONE_MM, uids(2), organ_label=6, tumor_label=9)


def test_memory_that_is_not_contiguous(device):
    image, label = scans(2, (24, 26, 30))
    image, label = image.transpose(2, 4).contiguous().transpose(2, 4), label.expand(2, 1, 24, 26, 30)
    both(device, image, label, ONE_MM, uids(2))


def test_a_crop_of_a_render_is_a_render_of_the_crop(device):
    image, label = on(device, scans(1, (44, 40, 48)))
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, backend="cupy", scope="volume", class_prob=(0, 1, 0, 0, 0))
    plan = synth.plan(image, label, ONE_MM, uids(1))
    whole = synth.render(image, label, plan)
    start, size = (3, 1, 5), 37
    box = (..., *(slice(first, first + size) for first in start))
    part = synth.render(image[box], label[box], plan, origin_vox=start)
    inner = (..., *(slice(8, -8),) * 3)
    assert torch.equal(part.label, whole.label[box])
    torch.testing.assert_close(part.image[inner], whole.image[box][inner], rtol=0, atol=0.01)
    assert (whole.label == 2).any()


def test_a_sample_is_the_same_alone_and_in_a_batch(device):
    image, label = on(device, scans(4, (30, 26, 34)))
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, backend="cupy")
    together = synth.render(image, label, synth.plan(image, label, ONE_MM, uids(4)))
    for n in (2, 0):
        alone = synth.render(image[n : n + 1], label[n : n + 1], synth.plan(image[n : n + 1], label[n : n + 1], ONE_MM, uids(1, 1000 + n)))
        assert torch.equal(alone.image[0], together.image[n])
        assert torch.equal(alone.label[0], together.label[n])


def test_a_plan_of_either_backend_is_rendered_by_the_other(device):
    image, label = scans(1, (30, 26, 34))
    twin, kernel = pair()
    plan = kernel.plan(*on(device, (image, label)), ONE_MM, uids(1))
    expected = twin.render(image, label, plan.to("cpu"))
    assert_same_images(kernel.render(*on(device, (image, label)), plan).image, expected.image)


@pytest.mark.parametrize("size_class", range(5), ids=["tiny", "small", "medium", "large", "mix"])
def test_every_size_class_in_a_patch_that_is_all_organ(device, size_class):
    image, label = torch.full((1, 1, 48, 40, 56), 100.0), torch.ones(1, 1, 48, 40, 56, dtype=torch.uint8)
    both(device, image, label, ONE_MM, torch.tensor([3]), class_prob=tuple(float(n == size_class) for n in range(5)))


def test_the_organ_alone_changes(device):
    image, label = on(device, scans(2, (30, 26, 34)))
    new_image, new_label = TumorSynthesizer("liver-hu2022", prob=1.0, backend="cupy")(image, label, ONE_MM, uids(2))
    outside = ~organ((30, 26, 34)).expand(2, 1, 30, 26, 34)
    assert torch.equal(new_image.cpu()[outside], image.cpu()[outside])
    assert torch.equal(new_label.cpu()[outside], label.cpu()[outside])
    assert (new_label == 2).any()

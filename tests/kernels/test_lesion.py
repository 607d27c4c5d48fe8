"""Painting: volume, softness, what changes and what stays; kernel against twin."""

import pytest
import torch
from lesion_tables import busy_tables
from twins import assert_same_images, assert_same_labels, on

from gpu_synth.kernels._columns import Trait
from gpu_synth.kernels.lesion import paint_
from gpu_synth.kernels.traits import traits

ONE_MM = (1.0, 1.0, 1.0)


def lesions(b, slots=6, seed=2, **columns):
    organ, noise = torch.full((b,), 100.0), torch.full((b,), 8.0)
    lesion = traits(*busy_tables(torch.device("cpu"), 1.0), slots, 0, seed, torch.arange(b), organ, noise).lesion
    for name, value in columns.items():
        if name == "RADIUS":
            lesion[..., Trait.AXES : Trait.AXES + 3] *= (value / lesion[..., Trait.RADIUS])[..., None]
        lesion[..., Trait[name]] = value
    return lesion


def painted(lesion, shape, centre, spacing_mm=ONE_MM):
    b = len(lesion)
    image, label = torch.full((b, *shape), 100.0), torch.ones(b, *shape, dtype=torch.uint8)
    active = torch.ones(lesion.shape[:2], dtype=torch.bool)
    out = paint_(image, label, centre, lesion, active, 2, torch.arange(b), spacing_mm, (0, 0, 0), 1, 2)
    return image, label, out


@pytest.mark.parametrize("spacing_mm", [ONE_MM, (0.7, 0.7, 2.0)], ids=str)
@pytest.mark.parametrize("radius_mm", [4.0, 8.0])
def test_a_lesion_has_the_volume_asked_for(radius_mm, spacing_mm):
    """60 lesions: each within 15 %, their mean within 3 %."""
    shape = tuple(int(3.6 * radius_mm / spacing) + 4 for spacing in spacing_mm)
    centre = torch.tensor(shape).float().div(2).expand(60, 1, 3)
    _, label, _ = painted(lesions(60, 1, RADIUS=radius_mm), shape, centre, spacing_mm)
    volume = (label == 2).flatten(1).sum(1) * (spacing_mm[0] * spacing_mm[1] * spacing_mm[2])
    ratio = volume / (4 / 3 * torch.pi * radius_mm**3)
    assert (ratio - 1).abs().max() < 0.15
    assert abs(ratio.mean().item() - 1) < 0.03


@pytest.mark.parametrize(("radius_mm", "least"), [(3.0, 0.7), (8.0, 0.85)])
def test_small_lesions_do_not_fade(radius_mm, least):
    """Mean occupancy inside the label, 60 lesions of sharpness as drawn for their size: the least of kinds with a soft edge."""
    edge = max(0.35, min(1.2, 0.12 * radius_mm))
    n = int(4 * radius_mm) + 6
    lesion = lesions(60, 1, RADIUS=radius_mm, EDGE=edge)
    _, label, out = painted(lesion, (n, n, n), torch.full((60, 1, 3), n / 2))
    inside = (label == 2).float()
    mean = (out.occupancy * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)
    assert mean.mean().item() >= least


def test_a_capsule_is_a_bright_rim_on_the_surface():
    """A ball of 8 mm with a capsule of 60 HU, 0.8 mm: HU on a ray, against the formula."""
    flat = dict.fromkeys(("IRREGULARITY", "LOBULATION", "SPICULATION", "CORE", "RIM", "TEXTURE", "SPECK", "HALO"), 0.0)
    lesion = lesions(1, 1, RADIUS=8.0, BODY=-30.0, CAPSULE=60.0, CAPSULE_MM=0.8, EDGE=0.8, **flat)
    lesion[..., Trait.AXES : Trait.AXES + 3], lesion[..., Trait.REACH] = 8.0, 1.1
    image, label, _ = painted(lesion, (40, 41, 41), torch.tensor([[[20.0, 20.0, 20.0]]]))
    away = torch.arange(20.0) - 8.0
    expected = -30.0 * 0.5 * torch.erfc(away / (0.8 * 2**0.5)) + 60.0 * torch.exp(-0.5 * (away / 0.8) ** 2)
    torch.testing.assert_close(image[0, 20:, 20, 20] - 100.0, torch.where(away < 3.2, expected, 0.0), rtol=0, atol=0.05)
    assert (label[0, 20:, 20, 20] == 2).sum() == 8


def test_a_halo_fades_outside_and_is_no_lesion():
    flat = dict.fromkeys(("IRREGULARITY", "LOBULATION", "SPICULATION", "CORE", "RIM", "TEXTURE", "SPECK", "CAPSULE"), 0.0)
    lesion = lesions(1, 1, RADIUS=6.0, BODY=-30.0, HALO=20.0, HALO_MM=6.0, EDGE=0.5, **flat)
    lesion[..., Trait.AXES : Trait.AXES + 3], lesion[..., Trait.REACH] = 6.0, 1.1
    image, label, out = painted(lesion, (40, 41, 41), torch.tensor([[[20.0, 20.0, 20.0]]]))
    change = image[0, 20:, 20, 20] - 100.0
    assert change[9].item() == pytest.approx(20.0 * 0.25, abs=0.01)  # half way out
    assert (change[8:12] > 0).all()
    assert (change[13:] == 0).all()
    assert (label[0, 26:, 20, 20] == 1).all()
    assert (out.occupancy[0, 29:, 20, 20] == 0).all()


def test_lesions_take_the_place_of_vessels():
    """A vessel of 60 HU through a lesion, and its excess: gone where a voxel is all lesion, kept where it is none, a share between."""
    lesion = lesions(1, 1, RADIUS=9.0)
    image, label, centre = torch.full((1, 40, 41, 42), 100.0), torch.ones(1, 40, 41, 42, dtype=torch.uint8), torch.full((1, 1, 3), 20.0)
    excess, images = torch.zeros(image.shape, dtype=torch.int16), []
    excess[:, :, 18:23, 18:23] = 240
    rest = (centre, lesion, torch.ones(1, 1, dtype=torch.bool), 2, torch.arange(1), ONE_MM, (0, 0, 0), 1, 2)
    for vessel in (0.0, excess / 4):
        images.append(image + vessel)
        out = paint_(images[-1], label.clone(), *rest, foreign=excess if len(images) == 2 else None)
    torch.testing.assert_close(images[1] - images[0], excess / 4 * (1 - out.occupancy), rtol=0, atol=1e-3)
    assert (out.occupancy[excess > 0] > 0.99).sum() > 200


def test_what_is_outside_the_organ_and_out_of_reach_keeps_its_bits():
    lesion = lesions(1, 2, RADIUS=5.0)
    image, label = torch.randn(1, 40, 30, 30), torch.ones(1, 40, 30, 30, dtype=torch.int32)
    label[:, :12], image[0, 20, 15, 15], image[0, 21, 15, 15] = 3, torch.nan, torch.inf
    before, centre = image.clone(), torch.tensor([[[14.0, 15.0, 15.0], [20.0, 15.0, 15.0]]])
    out = paint_(image, label, centre, lesion, torch.ones(1, 2, dtype=torch.bool), 2, torch.arange(1), ONE_MM, (0, 0, 0), 1, 2)
    assert torch.equal(image[:, :12], before[:, :12])
    assert torch.equal(image[:, 34:], before[:, 34:])
    assert torch.equal(image.isfinite(), before.isfinite())
    assert (label == 2).sum() == (out.number > 0).sum() > 100
    assert not (out.number[:, :12] > 0).any()


def test_a_crop_is_painted_as_the_whole():
    lesion, centre = (
        lesions(1, 4, RADIUS=7.0),
        torch.tensor([[[8.0, 9.0, 10.0], [20.0, 20.0, 20.0], [30.5, 12.0, 9.0], [15.0, 30.0, 28.0]]]),
    )
    active, uid = torch.ones(1, 4, dtype=torch.bool), torch.arange(1)
    images = [torch.full((1, 36, 36, 36), 100.0), torch.full((1, 20, 18, 16), 100.0)]
    for image, origin in zip(images, ((0, 0, 0), (7, 9, 11)), strict=True):
        paint_(image, torch.ones_like(image, dtype=torch.uint8), centre, lesion, active, 2, uid, ONE_MM, origin, 1, 2)
    torch.testing.assert_close(images[1], images[0][:, 7:27, 9:27, 11:27], rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("shape", "spacing_mm", "origin_vox"),
    [((33, 27, 41), ONE_MM, (0, 0, 0)), ((40, 38, 9), (0.7, 0.7, 5.0), (3, -2, 1)), ((5, 3, 2), (2.0, 1.0, 3.0), (0, 0, 0))],
    ids=["1mm", "0.7-0.7-5mm", "tiny"],
)  # fmt: skip
def test_kernel_paints_as_the_twin(device, dtype, shape, spacing_mm, origin_vox):
    generator = torch.Generator().manual_seed(1)
    lesion, active = lesions(3, 11), torch.rand(3, 11, generator=generator) < 0.8
    centre = torch.rand(3, 11, 3, generator=generator) * torch.tensor(shape) * 1.2 - 0.1 * torch.tensor(shape) + torch.tensor(origin_vox)
    image = (100 + 10 * torch.randn(3, *shape, generator=generator)).to(dtype)
    image[0, 0, 0, 0] = torch.nan
    label = (torch.rand(3, *shape, generator=generator) < 0.9).to(torch.int16)
    twin_image, twin_label = image.clone(), label.clone()
    rest, uid = (spacing_mm, origin_vox, 1, 2), torch.tensor([0, 2**40, -3])
    excess = torch.randint(0, 300, label.shape, generator=generator, dtype=torch.int16)
    twin = paint_(twin_image, twin_label, centre, lesion, active, 2, uid, *rest, foreign=excess)
    kernel_image, kernel_label = image.to(device, copy=True), label.to(device, copy=True)
    there = on(device, (centre, lesion, active))
    kernel = paint_(kernel_image, kernel_label, *there, 2, uid.to(device), *rest, "cupy", foreign=excess.to(device))
    assert_same_labels(kernel_label, twin_label)
    assert_same_images(kernel_image, twin_image, 0.05 + 400 * torch.finfo(dtype).eps)
    assert (kernel.number.cpu() != twin.number).sum() <= max(2, 1e-4 * (twin.number > 0).sum())
    assert (kernel.occupancy.cpu() - twin.occupancy).abs().max() < 1e-4

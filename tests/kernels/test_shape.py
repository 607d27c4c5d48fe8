"""Lesion shapes against SciPy's splines and filters, voxel for voxel."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from twins import on

from gpu_synth.kernels import _host
from gpu_synth.kernels.shape import box_vox, instance_map, lesion_masks

AXIS_PAIRS = ((0, 1), (1, 2), (0, 2))


def lesion(radii_vox, elastic_vox, box):
    """The published shape, on whole arrays in float64."""
    x = np.meshgrid(*(np.arange(n) - n // 2 for n in box), indexing="ij")
    mask = sum((axis / radius) ** 2 for axis, radius in zip(x, radii_vox, strict=True)) < 1 - 1e-5
    for (a, b), control in zip(AXIS_PAIRS, np.asarray(elastic_vox, np.float64), strict=True):
        at = np.meshgrid(np.linspace(0, 2, box[a]), np.linspace(0, 2, box[b]), indexing="ij")
        shift = [np.rint(map_coordinates(values, at, order=3, mode="mirror")).astype(int) for values in control]
        p, q = np.arange(box[a])[:, None] + shift[0], np.arange(box[b]) + shift[1]
        inside = (p >= 0) & (p < box[a]) & (q >= 0) & (q < box[b])
        lines = np.moveaxis(mask, (a, b), (0, 1))
        mask = np.moveaxis(lines[p.clip(0, box[a] - 1), q.clip(0, box[b] - 1)] & inside[..., None], (0, 1), (a, b))
    return mask


def drawn(lesions, box, sigma_vox, seed=0):
    """Semi-axes and control points of a few lesions; fractional, so that no voxel ties with the surface."""
    rng = np.random.default_rng(seed)
    radii = (np.array(box) * rng.uniform(0.15, 0.4, (lesions, 3))).astype(np.float32)
    elastic = (rng.normal(size=(lesions, 3, 2, 3, 3)) * np.broadcast_to(sigma_vox, 3)[list(map(list, AXIS_PAIRS)), None, None]).astype(
        np.float32
    )
    return radii, elastic


@pytest.mark.parametrize(
    ("box", "sigma_vox"),
    [
        pytest.param((16, 16, 16), 0.8, id="tiny-1mm"),
        pytest.param((64, 64, 64), 4.5, id="medium-1mm"),
        pytest.param((23, 33, 12), 2.0, id="odd-and-even"),
        pytest.param((91, 91, 13), (6.4, 6.4, 0.9), id="medium-0.7-0.7-5mm"),
        pytest.param((46, 46, 6), (2.9, 2.9, 0.4), id="small-0.7-0.7-5mm"),
        pytest.param((3, 23, 5), (0.2, 2.0, 0.3), id="three-voxels"),
        pytest.param((16, 16, 16), 40.0, id="torn-out-of-its-box"),
        pytest.param((31, 18, 24), 0.0, id="undeformed"),
    ],
)
def test_masks_equal_scipy(box, sigma_vox):
    radii, elastic = drawn(4, box, sigma_vox)
    got = lesion_masks(torch.from_numpy(radii), torch.from_numpy(elastic), box).numpy()
    expected = np.stack([lesion(*one, box) for one in zip(radii, elastic, strict=True)])
    assert got.shape == expected.shape
    assert (got != expected).sum() == 0
    assert sigma_vox == 40.0 or expected.any()


def test_voxels_that_tie_with_the_surface_are_outside():
    """(6/10)² + (8/10)² = 1, as in 30 of the 123 voxels of a ball of radius 3."""
    mask = lesion_masks(torch.full((1, 3), 10.0), torch.zeros(1, 3, 2, 3, 3), (24, 24, 24))[0]
    assert not mask[12 + 6, 12 + 8, 12]
    assert not mask[12 + 10, 12, 12]
    assert mask[12 + 6, 12 + 7, 12]
    ball = lesion_masks(torch.full((1, 3), 3.0), torch.zeros(1, 3, 2, 3, 3), (16, 16, 16))[0]
    assert ball.sum() == 123 - 30


@pytest.mark.parametrize(
    ("base_radius_mm", "spacing_mm", "box"),
    [(4, (1, 1, 1), (16, 16, 16)), (32, (1, 1, 1), (128, 128, 128)), (8, (0.7, 0.7, 5.0), (46, 46, 6)), (4, (8.0, 20.0, 1.5), (3, 3, 11))],
)
def test_boxes_are_four_base_radii_a_side(base_radius_mm, spacing_mm, box):
    assert box_vox(base_radius_mm, spacing_mm) == box


# ---- the map of a batch -----------------------------------------------------------------------------------------------------------------

SHAPE = (21, 26, 15)
BOXES = [(12, 12, 12)] * 3 + [(23, 23, 4)] * 2 + [(40, 38, 36)] * 2


def batch():
    """Three samples of seven slots: inside, over a border, half beyond, wholly beyond, unused, larger than the array."""
    rng = np.random.default_rng(4)
    parts = [drawn(3, box, 0.05 * np.array(box), seed) for seed, box in enumerate(BOXES)]
    radii, elastic = (np.stack([part[n] for part in parts], 1) for n in range(2))
    centre = rng.integers(0, SHAPE, (3, 7, 3))
    centre[0, 0], centre[0, 3], centre[1, 1], centre[2, 2], centre[2, 5] = (0, 0, 0), (20, 25, 14), (-4, 13, 7), (60, 5, 5), (-30, -30, 40)
    active = np.ones((3, 7), bool)
    active[1, 0] = active[1, 5] = active[2, 4] = False
    organ = np.ones((3, *SHAPE), bool)
    organ[:, ::4, 2] = organ[2, :, :, 6:9] = False
    return centre, radii, elastic, active, organ


def painted(centre, radii, elastic, active, organ):
    """Paint every voxel of the array from its lesion's box, the lowest slot last."""
    out = np.zeros(organ.shape, np.int16)
    index = np.indices(SHAPE)
    for n in range(len(organ)):
        for slot in reversed(np.flatnonzero(active[n])):
            at = index - (centre[n, slot] - np.array(BOXES[slot]) // 2)[:, None, None, None]
            box = np.array(BOXES[slot])[:, None, None, None]
            inside = ((at >= 0) & (at < box)).all(0)
            mask = lesion(radii[n, slot], elastic[n, slot], BOXES[slot])
            out[n][mask[tuple(at.clip(0, box - 1))] & inside & organ[n]] = slot + 1
    return out


@pytest.mark.parametrize("on_host", [True, False], ids=["looking", "without-looking"])
def test_map_of_a_batch(on_host, monkeypatch):
    """At borders, beyond them, one over the other, in slots that are not in use: as painting each voxel gives it, on either path."""
    monkeypatch.setattr(_host, "on_host", lambda device: on_host)
    centre, radii, elastic, active, organ = batch()
    tensors = (torch.from_numpy(x) for x in (centre, radii, elastic))
    got = instance_map(*tensors, BOXES, torch.from_numpy(active), torch.from_numpy(organ.astype(np.uint8)), 1).number
    expected = painted(centre, radii, elastic, active, organ)
    assert got.dtype == torch.int16
    assert (got.numpy() != expected).sum() == 0
    assert len(np.unique(expected[0])) == 8  # background and seven lesions: the case tells


def test_of_lesions_over_each_other_the_lowest_slot_wins():
    centre = torch.tensor([[[8, 8, 8]] * 3])
    radii = torch.tensor([[[2.5] * 3, [5.5] * 3, [3.5] * 3]])
    organ, active = torch.ones(1, 17, 17, 17, dtype=torch.uint8), torch.ones(1, 3, dtype=torch.bool)
    numbers = instance_map(centre, radii, torch.zeros(1, 3, 3, 2, 3, 3), [(16, 16, 16)] * 3, active, organ, 1).number
    line = numbers[0, :, 8, 8].tolist()
    assert line == [0] * 3 + [2] * 3 + [1] * 5 + [2] * 3 + [0] * 3  # the third is hidden


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 1.6, 5.0)], ids=str)
@pytest.mark.parametrize("origin_vox", [(0, 0, 0), (5, -3, 2)], ids=str)
def test_kernel_numbers_the_twins_voxels(device, origin_vox, spacing_mm):
    """Of the same lesions in voxels, whatever these are in millimetres."""
    centre, radii, elastic, active, organ = batch()
    in_voxels = tuple(torch.from_numpy(x) for x in (centre, radii, elastic))
    mm, pairs = torch.tensor(spacing_mm), torch.tensor([[spacing_mm[a] for a in pair] for pair in AXIS_PAIRS])
    tensors = (in_voxels[0], in_voxels[1] * mm, in_voxels[2] * pairs[:, :, None, None])
    used, label = torch.from_numpy(active), torch.from_numpy(np.where(organ, 5, 0).astype(np.int16))
    twin = instance_map(*in_voxels, BOXES, used, label, 5, origin_vox).number
    same = instance_map(*tensors, BOXES, used, label, 5, origin_vox, spacing_mm=spacing_mm).number
    assert (same != twin).sum() <= 2  # a millimetre and back is a rounding away
    kernel, touched = instance_map(*on(device, tensors), BOXES, *on(device, (used, label)), 5, origin_vox, "cupy", spacing_mm)
    assert kernel.dtype == torch.int16
    assert (kernel.cpu() != twin).sum() <= max(2, 1e-4 * (twin > 0).sum())
    padded = torch.nn.functional.pad(
        kernel.cpu(), [side for n, tile in zip(SHAPE[::-1], (32, 8, 8), strict=True) for side in (0, -n % tile)]
    )
    tiles = padded.unflatten(3, (-1, 32)).unflatten(2, (-1, 8)).unflatten(1, (-1, 8))  # (b, ti, 8, tj, 8, tk, 32)
    assert torch.equal((tiles > 0).any(6).any(4).any(2), touched.cpu() > 0)


def test_kernel_lists_more_lesions_than_fit_at_a_time(device):
    rng = np.random.default_rng(0)
    slots, box = 130, (9, 9, 9)
    radii, elastic = drawn(slots, box, 0.7)
    centre = torch.from_numpy(rng.integers(0, (20, 18, 37), (1, slots, 3)))
    tensors = (centre, torch.from_numpy(radii)[None], torch.from_numpy(elastic)[None])
    used, label = torch.ones(1, slots, dtype=torch.bool), torch.ones(1, 20, 18, 37, dtype=torch.uint8)
    twin = instance_map(*tensors, [box] * slots, used, label, 1).number
    kernel = instance_map(*on(device, tensors), [box] * slots, *on(device, (used, label)), 1, backend="cupy").number
    assert len(twin.unique()) > 60
    assert (kernel.cpu() != twin).sum() <= 2

"""Placement against SciPy's erosion and against the law it must follow.

Chi-square tests pass unless their p-value is under 10⁻⁶; seeds are fixed.
"""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from scipy.stats import chisquare
from twins import assert_equal, on

from gpu_synth.kernels import placement
from gpu_synth.kernels.placement import Site, erode, place

RARE = 1e-6
EXTENT = (0.3, 0.7)


def blob(shape=(27, 22, 18)):
    """A lopsided organ that touches two borders and has a hole."""
    u, v, w = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return ((u + 0.5) ** 2 + v**2 + (0.7 * w) ** 2 < 0.8) & ~((u + 0.2) ** 2 + (v - 0.3) ** 2 + w**2 < 0.06)


def centres(organ, draws, margin=(2, 2, 2), extent=EXTENT, axial_axis=2, seed=3):
    label = torch.from_numpy(organ.astype(np.uint8))[None]
    placed = place(label, Site(1, 2, margin, axial_axis), extent, draws, seed, torch.zeros(1, dtype=torch.int64))
    return placed.centre_vox[0].numpy(), bool(placed.possible)


def eroded_slices(organ, margin, axial_axis):
    box = [1 if axis == axial_axis else 2 * m + 1 for axis, m in enumerate(margin)]
    return binary_erosion(organ, np.ones(box, bool), border_value=1)


@pytest.mark.parametrize("margin", [(2, 2, 2), (3, 1, 2), (0, 4, 1), (30, 1, 1)], ids=str)
def test_erosion_equals_scipy(margin):
    mask = torch.from_numpy(np.stack([blob(), np.random.default_rng(0).random((27, 22, 18)) < 0.97]))
    before = mask.clone()
    got = erode(mask, margin)
    for n in range(2):
        expected = binary_erosion(mask[n].numpy(), np.ones([2 * m + 1 for m in margin], bool), border_value=1)
        assert (got[n].numpy() != expected).sum() == 0
    assert torch.equal(mask, before)


@pytest.mark.parametrize("axial_axis", [0, 1, 2])
@pytest.mark.parametrize("margin", [(2, 2, 2), (3, 1, 2), (1, 3, 4)], ids=["1mm", "0.7-2-1mm", "2-0.7-0.5mm"])
def test_every_centre_lies_in_the_eroded_organ_and_its_middle(axial_axis, margin):
    organ = blob()
    left = eroded_slices(organ, margin, axial_axis)
    at, possible = centres(organ, 4000, margin, axial_axis=axial_axis)
    assert possible
    assert left[tuple(at.T)].all()
    axial = np.flatnonzero(organ.any(axis=tuple(axis for axis in range(3) if axis != axial_axis)))
    ends = [axial[0] + share * (axial[-1] - axial[0]) for share in EXTENT]
    assert at[:, axial_axis].min() >= np.rint(ends[0])
    assert at[:, axial_axis].max() <= np.rint(ends[1])


def test_pixels_of_a_slice_are_equally_likely():
    organ = np.repeat(blob()[:, :, 9:10], 5, axis=2)  # one cross-section throughout
    left = eroded_slices(organ, (2, 2, 2), 2)[:, :, 0]
    at, _ = centres(organ, 60_000)
    counts = np.zeros(left.shape, int)
    np.add.at(counts, tuple(at[:, :2].T), 1)
    assert left.sum() > 50
    assert chisquare(counts[left]).pvalue > RARE
    assert counts.sum() == counts[left].sum()


def slice_law(organ, margin, extent=EXTENT):
    """Shares of z0 + U(extent)·(z1 − z0) that round to each slice with something left, from a fine grid of U."""
    axial = np.flatnonzero(organ.any((0, 1)))
    u = extent[0] + (np.arange(2_000_000) + 0.5) / 2_000_000 * (extent[1] - extent[0])
    share = np.bincount(np.rint(axial[0] + u * (axial[-1] - axial[0])).astype(int), minlength=organ.shape[2]).astype(float)
    share *= eroded_slices(organ, margin, 2).any((0, 1))
    return share / share.sum()


@pytest.mark.parametrize("extent", [(0.3, 0.7), (0.0, 1.0), (0.52, 0.52), (0.05, 0.3)], ids=str)
def test_slices_follow_their_law(extent):
    organ = blob()
    organ[:, :, 8] &= np.arange(22) % 4 > 0  # a slice of the middle that erosion empties
    at, _ = centres(organ, 30_000, extent=extent)
    expected = slice_law(organ, (2, 2, 2), extent)
    counts = np.bincount(at[:, 2], minlength=organ.shape[2])
    assert counts[expected == 0].sum() == 0
    if (expected > 0).sum() > 1:
        assert chisquare(counts[expected > 0], 30_000 * expected[expected > 0]).pvalue > RARE


def test_axes_are_alike():
    """Turning organ, margins and axial axis turns the centres."""
    organ, (margin_i, margin_j) = blob((19, 24, 18)), (1, 2)
    at, _ = centres(organ, 500, (margin_i, margin_j, 9), axial_axis=2)
    first, _ = centres(np.ascontiguousarray(np.moveaxis(organ, 2, 0)), 500, (9, margin_i, margin_j), axial_axis=0)
    middle, _ = centres(np.ascontiguousarray(np.moveaxis(organ, 2, 1)), 500, (margin_i, 9, margin_j), axial_axis=1)
    assert (first == at[:, [2, 0, 1]]).all()
    assert (middle == at[:, [0, 2, 1]]).all()


def box_organ(i, j, k, shape=(20, 18, 16)):
    out = np.zeros(shape, bool)
    out[i, j, k] = True
    return out


@pytest.mark.parametrize(
    ("organ", "possible"),
    [
        pytest.param(box_organ(slice(0), slice(0), slice(0)), False, id="none"),
        pytest.param(box_organ(5, 5, slice(5, 8)), False, id="three-voxels"),
        pytest.param(box_organ(0, 0, slice(0, 3)), False, id="three-voxels-in-a-corner"),
        pytest.param(box_organ(slice(4, 8), slice(2, 16), slice(2, 14)), False, id="thin"),
        pytest.param(box_organ(slice(4, 9), slice(2, 16), slice(2, 14)), True, id="five-wide"),
        pytest.param(box_organ(slice(0, 3), slice(2, 16), slice(2, 14)), True, id="three-wide-but-cut-by-the-border"),
        pytest.param(box_organ(slice(2, 9), slice(2, 9), 7), True, id="one-slice"),
        pytest.param(box_organ(slice(2, 7), slice(2, 7), slice(15, 16)), True, id="one-pixel-left-in-the-last-slice"),
        pytest.param(box_organ(slice(None), slice(None), slice(None)), True, id="everything"),
        pytest.param(np.ones((1, 3, 2), bool), True, id="tiny-and-everything"),
    ],
)
def test_where_a_lesion_is_possible(organ, possible):
    at, got = centres(organ, 200)
    assert got == possible
    if possible:
        assert eroded_slices(organ, (2, 2, 2), 2)[tuple(at.T)].all()


def test_samples_do_not_touch_each_other():
    label = torch.from_numpy(np.stack([blob(), np.zeros_like(blob()), blob()[::-1, :, ::-1], blob()]).astype(np.uint8))
    label[3, 0, 0, 0] = 2  # a tumour, however small
    site, extent, uid = Site(1, 2, (2, 2, 2)), EXTENT, torch.arange(4)
    together = place(label, site, extent, 28, 8, uid)
    assert together.possible.tolist() == [True, False, True, False]
    for n in (0, 2):
        alone = place(label[n : n + 1], site, extent, 28, 8, uid[n : n + 1])
        assert torch.equal(alone.centre_vox[0], together.centre_vox[n])


@pytest.mark.parametrize("height", range(2, 60))
def test_the_largest_word_still_falls_inside(height, monkeypatch):
    """Rounding must not carry the rank past the last slice that has any weight."""
    monkeypatch.setattr(placement, "words", lambda *_: torch.full((1, 1, 2), 2**32 - 1))
    label = torch.from_numpy(box_organ(slice(None), slice(None), slice(3, 3 + height), shape=(7, 6, 70)).astype(np.uint8))[None]
    placed = place(label, Site(1, 2, (2, 2, 2)), EXTENT, 1, 0, torch.zeros(1, dtype=torch.int64))
    i, j, k = placed.centre_vox[0, 0].tolist()
    assert (i, j) == (6, 5)
    assert k == 3 + int(np.ceil(0.7 * (height - 1) - 0.5 - 1e-5))


@pytest.mark.parametrize("axial_axis", [0, 1, 2])
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64], ids=str
)
def test_kernel_places_where_the_twin_does(device, axial_axis, dtype):
    """Any label type, odd shapes, a sample with nothing, one that is all organ, one with a tumour, one with few voxels left."""
    empty, full = np.zeros_like(blob()), np.ones_like(blob())
    organ = np.stack([blob(), empty, full, blob()[::-1], box_organ(slice(4, 9), slice(2, 7), slice(2, 14), blob().shape)])
    label = torch.from_numpy(organ.astype(np.uint8))
    label[3, 5, 5, 5] = 2
    label = torch.where(label == 1, 7, label).to(dtype)
    for margin, extent in (((2, 2, 2), EXTENT), ((3, 1, 2), (0.0, 1.0)), ((30, 0, 1), (0.5, 0.5))):
        site, uid = Site(7, 2, margin, axial_axis), torch.tensor([0, 9, 2**40, -3, 5])
        twin = place(label, site, extent, 28, 11, uid)
        kernel = place(label.to(device), site, extent, 28, 11, uid.to(device), "cupy")
        assert_equal(kernel.possible, twin.possible)
        assert_equal(kernel.centre_vox[twin.possible.to(device)], twin.centre_vox[twin.possible])


def test_kernel_scans_more_slices_and_rows_than_a_block_has_threads(device):
    organ = np.zeros((150, 5, 300), bool)
    organ[3:140:7, :, 20:270:3] = True
    label, site, extent, uid = (
        torch.from_numpy(organ.astype(np.uint8))[None],
        Site(1, 2, (0, 0, 0)),
        (0.0, 1.0),
        torch.tensor([4]),
    )
    twin = place(label, site, extent, 60, 0, uid)
    assert_equal(place(*on(device, (label, site, extent)), 60, 0, uid.to(device), "cupy").centre_vox, twin.centre_vox)

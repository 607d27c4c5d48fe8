"""Sites: uniform over what fits, clear of vessels and of each other; kernels against twin."""

import pytest
import torch
from scans import organ, uids
from scipy.ndimage import binary_dilation
from scipy.stats import chisquare
from twins import assert_equal, on

from gpu_synth.kernels._columns import Trait
from gpu_synth.kernels.sites import Maps, Rule, Wanted, sites, widened

RARE = 1e-6
SPACING_MM = (1.0, 1.5, 2.0)
SHAPE = (40, 30, 24)


def label_of(b=1, shape=SHAPE):
    return organ(shape).to(torch.uint8).expand(b, *shape).contiguous()


def placed(
    label,
    reach,
    vessel=None,
    apart_mm=2.0,
    seed=3,
    uid=None,
    backend="torch",
    parent=None,
    within=20.0,
    given=None,
    where=None,
    avoid_to=100.0,
    inside=0.0,
):
    active = torch.ones(reach.shape, dtype=torch.bool, device=reach.device)
    uid = uids(len(label)).to(label.device) if uid is None else uid
    lesion = torch.zeros(*reach.shape, Trait.COLUMNS, device=reach.device)
    lesion[..., Trait.AXES : Trait.AXES + 3], lesion[..., Trait.REACH], lesion[..., Trait.ROTATION] = 0.8 * reach[..., None], 1.25, 1.0
    lesion[..., Trait.RADIUS] = 0.8 * reach
    lesion[..., Trait.PARENT], lesion[..., Trait.WITHIN_MM] = -1 if parent is None else parent, within
    wanted = Wanted(lesion, active, given)
    return sites(Maps(label, vessel, where), wanted, Rule(apart_mm, avoid_to, inside), SPACING_MM, 1, 2, seed, uid, backend)


def test_centres_are_uniform_over_the_organ():
    label = label_of(3000, (12, 10, 8))
    got = placed(label, torch.ones(3000, 1), apart_mm=-2000.0)
    at = got.centre_vox[:, 0].round().long()
    assert got.placed.all()
    counts = torch.zeros(12, 10, 8)
    counts.index_put_(tuple(at.T), torch.ones(3000), accumulate=True)
    inside = label[0] > 0
    assert counts[~inside].sum() == 0
    assert chisquare(counts[inside].numpy()).pvalue > RARE


def test_lesions_keep_apart():
    got = placed(label_of(20), torch.full((20, 6), 4.0))
    at = got.centre_vox * torch.tensor(SPACING_MM)
    for n in range(20):
        gap = torch.cdist(at[n][got.placed[n]][None], at[n][got.placed[n]][None])[0]
        assert (gap + 99 * torch.eye(len(gap)) >= 2 * 4.0 + 2.0 - 1e-3).all()
    assert got.placed.float().mean() > 0.5


def test_lesions_keep_clear_of_vessels():
    """A wall of vessels across the organ: no lesion of 5 mm within 5 mm of it, less the gaps between looks."""
    label, vessel = label_of(40), torch.zeros(40, *SHAPE, dtype=torch.uint8)
    vessel[:, :, 14:16] = 1
    near = placed(label, torch.full((40, 3), 5.0), None, apart_mm=-2000.0)
    clear = placed(label, torch.full((40, 3), 5.0), vessel, apart_mm=-2000.0)

    def gap_mm(got):
        return (got.centre_vox[..., 1] - 14.5).abs()[got.placed] * SPACING_MM[1]

    assert (gap_mm(near) < 4.0).float().mean() > 0.2
    assert (gap_mm(clear) < 4.0).sum() == 0
    assert clear.placed.float().mean() > 0.9


def test_satellites_lie_around_their_lesion_in_the_organ():
    """400 samples: the centre of the second lesion lies between the two balls' touching, less nothing, and 10 mm off the first's."""
    label = label_of(400)
    parent = torch.tensor([-1, 0]).expand(400, 2)
    got = placed(label, torch.tensor([5.0, 1.0]).expand(400, 2), parent=parent, within=10.0)
    assert got.placed.float().mean() > 0.95
    both = got.placed.all(1)
    gap = ((got.centre_vox[:, 0] - got.centre_vox[:, 1]) * torch.tensor(SPACING_MM)).norm(dim=-1)[both]
    assert gap.min() >= 1.15 * 4.0 + 1.0 + 2.0 - 1e-3
    assert gap.max() <= 4.0 + 10.0 + 1e-3
    assert gap.std() > 1.0
    i, j, k = got.centre_vox[both, 1].round().long().unbind(1)
    assert (label[0, i, j, k] == 1).all()


def test_a_lesion_whose_parent_has_no_place_has_none():
    parent, vessel = torch.tensor([[-1, 0]]), torch.ones(1, *SHAPE, dtype=torch.uint8)
    assert not placed(label_of(), torch.full((1, 2), 2.0), vessel, parent=parent).placed.any()


def test_a_map_says_how_likely_a_place_is():
    """3000 samples: as the map has it over the organ's voxels, and nowhere else."""
    label = label_of(3000, (12, 10, 8))
    where = torch.randint(0, 4, (12, 10, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    got = placed(label, torch.ones(3000, 1), apart_mm=-2000.0, where=where.expand(3000, -1, -1, -1))
    counts = torch.zeros(12, 10, 8)
    counts.index_put_(tuple(got.centre_vox[:, 0].round().long().T), torch.ones(3000), accumulate=True)
    likely = (label[0] > 0) * where.float()
    assert counts[likely == 0].sum() == 0
    assert chisquare(counts[likely > 0].numpy(), (3000 * likely / likely.sum())[likely > 0].numpy()).pvalue > RARE
    nothing = placed(label[:1], torch.ones(1, 1), where=torch.zeros_like(where)[None])
    assert not nothing.placed.any()


def test_a_given_place_is_kept_and_others_keep_away_from_it():
    given = torch.full((20, 3, 3), torch.nan)
    given[:, 2] = torch.tensor([15.0, 15.0, 12.0])
    got = placed(label_of(20), torch.full((20, 3), 4.0), torch.ones(20, *SHAPE, dtype=torch.uint8), given=given)
    assert got.placed.tolist() == [[False, False, True]] * 20  # vessels everywhere: the others find none
    got = placed(label_of(20), torch.full((20, 3), 4.0), given=given)
    assert torch.equal(got.centre_vox[:, 2], given[:, 2])
    gap = ((got.centre_vox[:, :2] - given[:, 2:]) * torch.tensor(SPACING_MM)).norm(dim=-1)
    assert gap[got.placed[:, :2]].min() >= 2 * 4.0 + 2.0 - 1e-3


def test_lesions_lie_in_the_organ_as_far_as_asked():
    """200 lesions of 6 mm in a slab of the organ: four fifths of each ball inside; beyond the array counts."""
    label = torch.zeros(200, 40, 40, 30, dtype=torch.uint8)
    label[:, :20] = 1
    got = placed(label, torch.full((200, 1), 6.0), inside=0.8)
    depth = 19.5 - got.centre_vox[got.placed][:, 0]
    assert got.placed.all()
    assert depth.min() > 0.30 * 6.0  # a ball cut at 0.4 of its radius keeps 0.784 of itself
    assert depth.max() > 18.0


def test_large_lesions_need_not_avoid_vessels():
    vessel = torch.ones(1, *SHAPE, dtype=torch.uint8)
    lesions = placed(label_of(), torch.tensor([[3.0, 6.0]]), vessel, avoid_to=4.0)
    assert lesions.placed.tolist() == [[False, True]]


def test_lesions_at_the_surface_are_told_from_those_within():
    label = torch.zeros(2, 30, 30, 30, dtype=torch.uint8)
    label[:, :20] = 1
    given = torch.tensor([[[17.0, 15.0, 12.0]], [[8.0, 15.0, 12.0]]])
    got = placed(label, torch.full((2, 1), 4.0), given=given)
    assert got.at_surface.tolist() == [[True], [False]]


def test_where_nothing_fits_nothing_is_placed():
    label = label_of(4)
    label[1], label[2, 0, 0, 0] = 0, 2
    got = placed(label, torch.full((4, 2), 2.0), torch.ones_like(label) * (torch.arange(4) == 3).view(4, 1, 1, 1))
    assert got.possible.tolist() == [True, False, False, True]
    assert got.placed.any(1).tolist() == [True, False, False, False]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64], ids=str)
@pytest.mark.parametrize("vessels", [False, True])
@pytest.mark.parametrize("apart_mm", [2.0, -2000.0])
def test_kernels_choose_what_the_twin_chooses(device, dtype, vessels, apart_mm):
    label = label_of(5).to(dtype)
    label[1], label[2, 3, 3, 3], label[3] = 0, 2, 1
    reach = torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) * 8 + 1
    vessel = (torch.rand(label.shape, generator=torch.Generator().manual_seed(2)) < 0.002).to(torch.uint8) if vessels else None
    twin = placed(label, reach, vessel, apart_mm, uid=torch.tensor([0, 5, 2**40, -3, 9]))
    kernel = placed(
        *on(device, (label, reach)), on(device, vessel), apart_mm, uid=torch.tensor([0, 5, 2**40, -3, 9]).to(device), backend="cupy"
    )
    assert_equal(kernel.placed, twin.placed)
    assert_equal(kernel.possible, twin.possible)
    assert_equal(kernel.centre_vox[twin.placed.to(device)], twin.centre_vox[twin.placed])


@pytest.mark.parametrize("vessels", [False, True])
def test_kernels_place_satellites_and_given_lesions_as_the_twin_does(device, vessels):
    label = label_of(4).to(torch.int32)
    label[1] = 0
    reach = torch.rand(4, 7, generator=torch.Generator().manual_seed(1)) * 4 + 1
    rule = {"avoid_to": 3.0, "inside": 0.6}
    vessel = (torch.rand(label.shape, generator=torch.Generator().manual_seed(2)) < 0.002).to(torch.uint8) if vessels else None
    where = torch.randint(0, 200, label.shape, generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    parent = torch.tensor([-1, 0, -1, 0, 2, -1, 5]).expand(4, -1).contiguous()
    given = torch.full((4, 7, 3), torch.nan)
    given[2, 5], given[3, 0] = torch.tensor([12.0, 13.0, 9.0]), torch.tensor([-3.0, 2.5, 60.0])
    twin = placed(label, reach, vessel, parent=parent, given=given, where=where, **rule)
    there = on(device, (label, reach, vessel))
    others = {"parent": parent.to(device), "given": given.to(device), "where": where.to(device)}
    kernel = placed(*there, backend="cupy", **others, **rule)
    assert_equal(kernel.placed, twin.placed)
    assert_equal(kernel.possible, twin.possible)
    assert_equal(kernel.at_surface[twin.placed.to(device)], twin.at_surface[twin.placed])
    torch.testing.assert_close(kernel.centre_vox.cpu()[twin.placed], twin.centre_vox[twin.placed], rtol=0, atol=2e-5)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (2.1, 2.0, 1.0), (3.0, 3.0, 3.0)], ids=str)
@pytest.mark.parametrize("shape", [(11, 9, 37), (1, 2, 130)], ids=str)
def test_vessels_are_widened_along_axes_of_thin_slices(device, shape, spacing_mm):
    vessel = (torch.rand(2, *shape, generator=torch.Generator().manual_seed(7)) < 0.02).to(torch.uint8)
    vessel[1] = 0
    vessel[1, -1, -1, -1] = 1
    box = [[1], *([3 if mm <= 2.0 else 1] for mm in spacing_mm)]
    twin = widened(vessel, spacing_mm)
    assert (twin.numpy() > 0).tolist() == binary_dilation(vessel.numpy(), torch.ones([n for (n,) in box]).numpy()).tolist()
    assert_equal(widened(vessel.to(device), spacing_mm, "cupy"), twin)

"""Sites: uniform over what fits, clear of vessels and of each other; kernels against twin."""

import pytest
import torch
from scans import organ, uids
from scipy.stats import chisquare
from twins import assert_equal, on

from gpu_synth.kernels.sites import sites

RARE = 1e-6
SPACING_MM = (1.0, 1.5, 2.0)
SHAPE = (40, 30, 24)


def label_of(b=1, shape=SHAPE):
    return organ(shape).to(torch.uint8).expand(b, *shape).contiguous()


def placed(label, reach, vessel=None, apart_mm=2.0, seed=3, uid=None, backend="torch"):
    active = torch.ones(reach.shape, dtype=torch.bool, device=reach.device)
    uid = uids(len(label)).to(label.device) if uid is None else uid
    return sites(label, vessel, reach, active, apart_mm, SPACING_MM, 1, 2, seed, uid, backend)


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

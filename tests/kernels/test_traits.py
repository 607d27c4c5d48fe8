"""Traits: sizes, volumes, contrasts and floors against what the preset asks for; kernel against twin."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lesion_tables import BUSY, busy_tables
from scipy.stats import kstest
from twins import assert_equal, on

from gpu_synth.kernels._columns import Trait
from gpu_synth.kernels.traits import BULGE_REACH, settle_, traits
from gpu_synth.lesion_table import lesion_table

RARE = 1e-6
SCANS = 600
FIRST_UID = 10_000  # after the curriculum


@pytest.fixture(scope="module")
def drawn():
    organ, noise = torch.full((SCANS,), 100.0), torch.full((SCANS,), 8.0)
    return traits(*busy_tables(torch.device("cpu"), 1.0), 9, 3, 5, FIRST_UID + torch.arange(SCANS), organ, noise)


def test_sizes_follow_their_bins(drawn):
    radius = drawn.lesion[:, :9, Trait.RADIUS].flatten().double().numpy()
    share = np.histogram(radius, BUSY.size_mm)[0] / len(radius)
    assert np.abs(share - BUSY.size_prob).max() < 5 * (0.25 / len(radius)) ** 0.5
    for low, high in zip(BUSY.size_mm, BUSY.size_mm[1:], strict=False):
        within = radius[(radius >= low) & (radius < high)]
        assert kstest(np.log(within / low) / np.log(high / low), "uniform").pvalue > RARE


def test_a_curriculum_moves_the_sizes_as_the_run_goes_on():
    """200 samples of 9 lesions at the start, half way, and after it, from the largest bin alone to the smallest alone."""
    preset = replace(BUSY, size_prob_start=(0.0, 0.0, 0.0, 1.0), size_prob=(1.0, 0.0, 0.0, 0.0), curriculum_samples=10**6)
    small = []
    for first in (0, 500_000, 10**6):
        hu = torch.full((200,), 100.0)
        lesion = traits(*lesion_table(preset, 1.0, torch.device("cpu")), 9, 0, 5, first + torch.arange(200), hu, 0.1 * hu).lesion
        small.append((lesion[..., Trait.RADIUS] < preset.size_mm[1]).float().mean().item())
    assert small[0] < 0.01
    assert abs(small[1] - 0.5) < 5 * (0.25 / 1800) ** 0.5
    assert small[2] == 1.0


def test_rotations_are_uniform(drawn):
    """The first axis of each lesion points anywhere: its components are uniform in [−1, 1] (Archimedes)."""
    w, x, y, z = drawn.lesion[..., Trait.ROTATION : Trait.ROTATION + 4].flatten(0, 1).double().unbind(-1)
    torch.testing.assert_close(w**2 + x**2 + y**2 + z**2, torch.ones_like(w), rtol=0, atol=1e-5)
    for component in (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)):
        assert kstest(component.numpy(), "uniform", args=(-1, 2)).pvalue > RARE


def test_contrast_keeps_its_floor_and_sign(drawn):
    body = drawn.lesion[..., Trait.BODY]
    assert (body.abs() >= 1.5 * 8.0 - 1e-4).all()
    assert ((body > 0).float().mean() - 0.1).abs() < 5 * (0.09 / body.numel()) ** 0.5  # hyperdense ones, and no others


def test_satellites_belong_to_the_largest_lesion_and_are_like_it(drawn):
    """Where it is large enough: 80 % of those scans, 1 to 3 each; half as large as it at most, and of its kind."""
    radius, active = drawn.lesion[..., Trait.RADIUS], drawn.active
    most, largest = torch.where(active[:, :9], radius[:, :9], -1.0).max(1)
    count, large = active[:, 9:].sum(1), most >= BUSY.satellite_from_mm
    assert (count[~large] == 0).all()
    assert (count[large] <= 3).all()
    share = (count[large] > 0).float().mean().item()
    assert abs(share - 0.8) < 5 * (0.16 / large.sum().item()) ** 0.5
    parent = drawn.lesion[:, 9:, Trait.PARENT]
    assert torch.equal(parent, torch.where(active[:, 9:], largest[:, None], -1).float())
    assert (radius[:, 9:] <= (0.5 * most[:, None]).clamp_max(5.0) + 1e-4)[active[:, 9:]].all()
    kind = drawn.lesion[..., Trait.KIND]
    assert (kind[:, 9:] == kind.gather(1, largest[:, None]))[active[:, 9:]].all()


def test_clusters_lie_around_the_first_lesion(drawn):
    parent = drawn.lesion[:, :9, Trait.PARENT]
    clustered = (parent[:, 1:] == 0).all(1)
    assert (parent[:, 0] == -1).all()
    assert ((parent[:, 1:] == -1).all(1) | clustered).all()
    assert abs(clustered.float().mean().item() - 0.3) < 5 * (0.21 / SCANS) ** 0.5


def test_half_of_the_organs_are_cirrhotic(drawn):
    surface, nodule = drawn.cirrhosis.unbind(1)
    has = surface > 0
    assert abs(has.float().mean().item() - 0.5) < 5 * (0.25 / SCANS) ** 0.5
    assert torch.equal(nodule > 0, has)
    assert surface[has].min() >= BUSY.surface_mm[0]
    assert nodule.max() <= BUSY.nodule_hu[1]


def test_a_scan_without_noise_or_organ_gives_finite_traits():
    zero = torch.zeros(3)
    lesion = traits(*busy_tables(torch.device("cpu")), 9, 3, 5, torch.arange(3), zero, zero).lesion
    assert lesion.isfinite().all()
    assert (lesion[..., Trait.BODY].abs() > 0).any()


def test_a_scan_is_drawn_the_same_in_any_company(drawn):
    part = traits(
        *busy_tables(torch.device("cpu"), 1.0),
        9,
        3,
        5,
        torch.tensor([FIRST_UID + 7, FIRST_UID + 3]),
        torch.full((2,), 100.0),
        torch.full((2,), 8.0),
    )
    assert torch.equal(part.lesion, drawn.lesion[[7, 3]])
    assert torch.equal(part.active, drawn.active[[7, 3]])


def test_kernel_draws_what_the_twin_draws(device):
    """Powers, logarithms and waves differ in the last places from library to library: 1e-4 of a trait."""
    uid, organ, noise = (
        torch.tensor([0, 1, 2, 2**40, -7]),
        torch.tensor([110.0, 55.0, 30.0, -20.0, 0.0]),
        torch.tensor([10.0, 30.0, 5.0, 0.0, 0.0]),
    )
    twin = traits(*busy_tables(torch.device("cpu")), 9, 3, 77, uid, organ, noise)
    kernel = traits(*busy_tables(device), 9, 3, 77, *on(device, (uid, organ, noise)), "cupy")
    assert_equal(kernel.altered, twin.altered)
    assert_equal(kernel.active, twin.active)
    torch.testing.assert_close(kernel.cirrhosis.cpu(), twin.cirrhosis, rtol=1e-6, atol=0)
    assert_equal(kernel.lesion[..., Trait.KIND].contiguous(), twin.lesion[..., Trait.KIND].contiguous())
    torch.testing.assert_close(kernel.lesion.cpu(), twin.lesion, rtol=1e-4, atol=1e-5)


def settling(drawn):
    """A batch of which the second sample has no place, the third none at the surface, and others have either."""
    kept = drawn._replace(**{name: value[:40].clone() for name, value in drawn._asdict().items()})
    rng = torch.Generator().manual_seed(4)
    placed, at_surface = (torch.rand(kept.active.shape, generator=rng) < share for share in (0.3, 0.5))
    placed[1], at_surface[2], kept.lesion[3, :, Trait.BULGE] = False, False, 0.0
    return kept, placed, at_surface


def test_lesions_at_the_surface_push_harder_and_a_sample_without_lesions_stays_as_it_is(drawn):
    kept, placed, at_surface = settling(drawn)
    before = kept.lesion.clone()
    settled = settle_(kept, placed, at_surface)
    assert settled.skipped.tolist() == [bool(kept.altered[n] and not placed[n].any()) for n in range(40)]
    assert settled.skipped[1]
    assert torch.equal(settled.cirrhosis, torch.where(placed.any(1, keepdim=True), kept.cirrhosis, 0.0))
    bulges = at_surface & (before[..., Trait.BULGE] > 0)
    assert (kept.lesion[..., Trait.PUSH][bulges] == before[..., [Trait.PUSH, Trait.BULGE]].amax(-1)[bulges]).all()
    torch.testing.assert_close(kept.lesion[..., Trait.PUSH_MM][bulges], BULGE_REACH * before[..., Trait.RADIUS][bulges])
    before[bulges] = kept.lesion[bulges]
    assert torch.equal(kept.lesion, before), "the others are as they were"
    assert bulges.any()
    assert not bulges.all()


def test_kernel_settles_as_the_twin(device, drawn):
    twin, kernel = settling(drawn), on(device, settling(drawn))
    for by_kernel, by_twin in zip(settle_(*kernel, "cupy"), settle_(*twin), strict=True):
        assert_equal(by_kernel.contiguous(), by_twin)
    assert_equal(kernel[0].lesion, twin[0].lesion)

"""The scalar draws against the laws of the published method, and the flat table they are read from.

Means pass within 5 standard errors of the law's, p-values above 10⁻⁶; seeds are fixed.
"""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from twins import assert_equal, on

from gpu_synth import presets
from gpu_synth.kernels.plan import draw, tally
from gpu_synth.preset_table import parameter_table, slots_of

RARE = 1e-6
SCANS = 4000
GROUPS = {"tiny": slice(0, 10), "small": slice(10, 20), "medium": slice(20, 25), "large": slice(25, 28)}
RADII = {"tiny": (3, 5), "small": (6, 10), "medium": (12, 20), "large": (24, 40)}
ALONE = {"tiny": (3, 10), "small": (3, 10), "medium": (2, 5), "large": (1, 3)}
MIXED = {"tiny": (3, 10), "small": (5, 10), "medium": (2, 5), "large": (1, 3)}
ELASTIC_VARIANCE = {"tiny": 7 / 12, "small": 5 / 2, "medium": 86 / 4, "large": 355 / 6}  # mean σ² of U(0.5, 1), {1, 2}, {3…6}, {5…10}


def drawn(uid, seed=77, prob=0.9, possible=True, **overrides):
    preset = presets.get("liver-hu2022", **overrides)
    return draw(*parameter_table(preset, prob, torch.device("cpu")), slots_of(preset), seed, uid, torch.full(uid.shape, possible))


def altered(uid, **draws):
    """Scans that are to be altered: where none can be, those are the skipped."""
    return drawn(uid, possible=False, **draws).skipped


@pytest.fixture(scope="module")
def published():
    return drawn(torch.arange(SCANS))


def counts(draws):
    return np.stack([draws.active[:, slots].sum(1).numpy() for slots in GROUPS.values()], 1)


def test_classes_and_counts():
    per_group = counts(drawn(torch.arange(SCANS), prob=1.0))
    mixed = (per_group > 0).all(1)
    assert chisquare([*((per_group > 0) & ~mixed[:, None]).sum(0), mixed.sum()]).pvalue > RARE  # five classes, alike
    assert ((per_group > 0).sum(1)[~mixed] == 1).all()
    for n, name in enumerate(GROUPS):
        for of, (low, high) in ((per_group[~mixed, n], ALONE[name]), (per_group[mixed, n], MIXED[name])):
            seen = np.bincount(of[of > 0])
            assert len(seen) == high + 1
            assert not seen[:low].any()
            assert chisquare(seen[low:]).pvalue > RARE


def test_slots_in_use_come_first(published):
    for slots in GROUPS.values():
        used = published.active[:, slots].int()
        assert (used.diff(dim=1) <= 0).all()


def test_share_of_scans_altered(published):
    assert abs(altered(torch.arange(SCANS)).float().mean().item() - 0.9) < 5 * (0.09 / SCANS) ** 0.5
    assert not altered(torch.arange(500), prob=0.0).any()
    assert altered(torch.arange(500), prob=1.0).all()


def test_lesions_are_in_scans_that_are_altered_and_can_be(published):
    assert torch.equal(published.active.any(1), altered(torch.arange(SCANS)))
    assert not published.skipped.any()
    assert not drawn(torch.arange(500), possible=False).active.any()


@pytest.mark.parametrize("group", GROUPS)
def test_semi_axes_are_whole_and_uniform(published, group):
    low, high = RADII[group]
    radii = published.radii_mm[:, GROUPS[group]].numpy()
    for axis in range(3):
        seen = np.bincount(radii[..., axis].ravel().astype(int))
        assert len(seen) == high + 1
        assert not seen[:low].any()
        assert chisquare(seen[low:]).pvalue > RARE
    assert np.array_equal(radii, radii.round())
    correlation = np.corrcoef(radii.reshape(-1, 3).T)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 5 / len(radii.reshape(-1, 3)) ** 0.5


@pytest.mark.parametrize("group", GROUPS)
def test_elastic_displacements_have_their_lesions_sigma(published, group):
    values = published.elastic_mm[:, GROUPS[group]].reshape(-1, 54).double().numpy()
    variance = (values**2).mean(1)  # one a lesion: lesions are independent, a lesion's points share its sigma
    assert abs(variance.mean() - ELASTIC_VARIANCE[group]) < 5 * variance.std() / len(variance) ** 0.5
    assert abs(values.mean()) < 5 * (ELASTIC_VARIANCE[group] / values.size) ** 0.5
    if group == "medium":  # σ is an integer: given that, its points are N(0, σ²), so the largest of a lesion's tells 3 from 6
        nearest = np.rint(variance**0.5)
        assert {3, 4, 5, 6} <= set(nearest)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("contrast_hu", -145, -65),
        ("edge_sigma_mm", 1, 2),
        ("density_sigma_mm", 3, 15),
        ("density_scale", 0.19, 0.21),
        ("density_offset", 0.04, 0.06),
        ("texture_gain", 0.5, 0.55),
    ],
)
def test_ranges_are_uniform(published, name, low, high):
    assert kstest(getattr(published, name).double().numpy(), "uniform", args=(low, high - low)).pvalue > RARE


def test_grain_is_fine_in_seven_of_ten(published):
    sigma = published.grain_sigma_mm.double().numpy()
    fine = sigma[sigma < 5]
    assert abs(len(fine) / SCANS - 0.7) < 5 * (0.21 / SCANS) ** 0.5
    assert kstest(fine, "uniform", args=(3, 2)).pvalue > RARE
    assert kstest(sigma[sigma >= 5], "uniform", args=(5, 3)).pvalue > RARE


def test_draws_of_a_scan_are_independent(published):
    names = ("contrast_hu", "edge_sigma_mm", "density_sigma_mm", "density_scale", "density_offset", "texture_gain", "grain_sigma_mm")
    columns = [getattr(published, name).double().numpy() for name in names]
    columns += [*counts(drawn(torch.arange(SCANS), prob=1.0)).T, published.radii_mm[:, 0, 0].numpy()]
    columns += [altered(torch.arange(SCANS)).double().numpy()]
    correlation = np.corrcoef(columns)
    correlation[7:11, 7:11] = 0  # the groups' counts exclude each other
    assert np.abs(correlation[np.triu_indices(len(columns), 1)]).max() < 5 / SCANS**0.5


def test_a_scan_is_drawn_the_same_in_any_company():
    uid = torch.tensor([2**40, 3, -1, 12345])
    together = drawn(uid)
    for order in ([0], [3, 1], [2, 0, 1, 3]):
        for name, tensor in drawn(uid[order])._asdict().items():
            assert torch.equal(tensor, getattr(together, name)[order]), name


def test_overrides_reach_the_draws():
    draws = drawn(torch.arange(300), class_prob=(0, 0, 1, 0, 0), count=((1, 1), (1, 1), (0, 12), (1, 1)), contrast_hu=(20, 20))
    assert (draws.contrast_hu == 20).all()
    assert draws.active.shape[1] == 10 + 10 + 12 + 3  # a group has as many slots as either count needs
    used = draws.active[:, 20:32].sum(1)
    assert not draws.active[:, :20].any()
    assert set(used.tolist()) == set(range(13))


@pytest.mark.parametrize("prob", [0.0, 0.9, 1.0])
def test_kernel_draws_what_the_twin_draws(device, prob):
    """All but the elastic fields to the last bit; those to the last place, where two libraries' logarithms and cosines may differ."""
    preset = presets.get("liver-hu2022", count=((0, 10), (3, 10), (2, 5), (1, 3)))
    uid, possible = torch.tensor([0, 1, 2, 3, 4, 5, 6, 2**40, -7]), torch.arange(9) % 4 > 0
    slots = slots_of(preset)
    twin = draw(*parameter_table(preset, prob, torch.device("cpu")), slots, 77, uid, possible)
    kernel = draw(*parameter_table(preset, prob, device), slots, 77, *on(device, (uid, possible)), "cupy")
    for name, expected in twin._asdict().items():
        if name == "elastic_mm":
            torch.testing.assert_close(kernel.elastic_mm.cpu(), expected, rtol=2e-7, atol=0)
        else:
            assert_equal(getattr(kernel, name), expected)


@pytest.mark.parametrize(("samples", "slots"), [(1, 1), (3, 7), (700, 28)], ids=str)
def test_kernel_counts_as_the_twin(device, samples, slots):
    rng = torch.Generator().manual_seed(samples)
    active, skipped = torch.rand(samples, slots, generator=rng) < 0.4, torch.rand(samples, generator=rng) < 0.3
    twin = tally(active, skipped)
    assert twin.tolist() == [int(active.numpy().sum()), int(skipped.numpy().sum())]
    assert_equal(tally(*on(device, (active, skipped)), "cupy"), twin)
    assert tally(*on(device, (~active & active, skipped & ~skipped)), "cupy").tolist() == [0, 0]

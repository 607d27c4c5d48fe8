"""Intervals and p-values against direct resampling and enumeration."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import norm

from gpu_synth.evaluate.intervals import difference, difference_of_shares, mean_over_scans, share_of_lesions, share_of_scans


def resampled(scans: np.ndarray, statistic, resamples: int = 20000) -> np.ndarray:
    """A statistic of scans drawn with replacement, one draw at a time."""
    rng = np.random.default_rng(7)
    return np.array([statistic(scans[rng.integers(len(scans), size=len(scans))]) for _ in range(resamples)])


def test_interval_of_a_mean_is_that_of_direct_resampling():
    """Both ends are quantiles of two independent sets of resamples: they differ by a few standard errors of such a quantile."""
    values = np.random.default_rng(0).beta(2, 2, size=25)
    estimate = mean_over_scans(values.tolist())
    direct = np.quantile(resampled(values, np.mean), [0.025, 0.975])
    error = math.sqrt(0.025 * 0.975 * (1 / 9999 + 1 / 20000)) / norm.pdf(norm.ppf(0.025)) * values.std() / 5
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.n == 25
    np.testing.assert_allclose([estimate.low, estimate.high], direct, atol=4 * error)
    assert estimate == mean_over_scans(values.tolist()), "a fixed seed"


def test_interval_of_a_share_resamples_scans_not_lesions():
    """Lesions of one scan are found together here: resampled one by one, the interval would be far too narrow."""
    rng = np.random.default_rng(1)
    lesions = rng.integers(0, 12, size=30)
    found = np.where(rng.random(30) < 0.5, lesions, 0)
    estimate = share_of_lesions(found.tolist(), lesions.tolist())
    scans = np.stack([found, lesions], 1)[lesions > 0]
    direct = np.quantile(resampled(scans, lambda x: x[:, 0].sum() / x[:, 1].sum()), [0.025, 0.975])
    assert estimate.value == pytest.approx(found.sum() / lesions.sum())
    assert estimate.n == lesions.sum()
    np.testing.assert_allclose([estimate.low, estimate.high], direct, atol=0.015)
    p = estimate.value
    assert estimate.high - estimate.low > 1.5 * 2 * 1.96 * math.sqrt(p * (1 - p) / estimate.n)


@pytest.mark.parametrize(
    ("found", "lesions"),
    [([3, 1, 2], [3, 1, 2]), ([0, 0], [4, 4]), ([2, 0], [5, 0]), ([1, 2, 1, 1, 1], [2, 4, 2, 2, 2])],
    ids=["all", "none", "one-scan", "half-of-each"],
)
def test_where_no_resample_differs_wilsons_interval_stands(found, lesions):
    k, n, z = sum(found), sum(lesions), norm.ppf(0.975)
    centre, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    wilson = pytest.approx((k / n, centre - half, centre + half, n), abs=1e-9)
    assert share_of_lesions(found, lesions) == wilson
    assert share_of_scans([True] * k + [False] * (n - k)) == wilson


def test_too_few_scans_have_no_interval():
    assert mean_over_scans([]) == pytest.approx((math.nan, math.nan, math.nan, 0), nan_ok=True)
    assert mean_over_scans([0.4]) == pytest.approx((0.4, math.nan, math.nan, 1), nan_ok=True)
    assert share_of_lesions([0, 0], [0, 0]) == pytest.approx((math.nan, math.nan, math.nan, 0), nan_ok=True)
    assert share_of_scans([]) == pytest.approx((math.nan, math.nan, math.nan, 0), nan_ok=True)
    assert math.isnan(difference([0.4], [0.3]).p_value)
    assert math.isnan(difference_of_shares([], [], []).p_value)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_mean_of_equal_values_has_no_interval(value):
    assert mean_over_scans([value] * 7) == pytest.approx((value, math.nan, math.nan, 7), nan_ok=True)


def test_p_value_is_the_share_of_sign_flips_as_far_from_zero():
    rng = np.random.default_rng(3)
    ours, theirs = rng.random(9), rng.random(9) - 0.25
    apart = ours - theirs
    flips = np.array([np.mean(apart * signs) for signs in product((-1, 1), repeat=9)])
    out = difference(ours.tolist(), theirs.tolist())
    assert out.mean.value == pytest.approx(apart.mean())
    assert out.p_value == pytest.approx(np.mean(np.abs(flips) >= abs(apart.mean()) - 1e-12))
    assert 0.01 < out.p_value < 0.5


def test_equal_models_do_not_differ_and_better_ones_do():
    values = np.random.default_rng(4).random(30)
    same = difference(values.tolist(), values.tolist())
    assert same.mean == pytest.approx((0.0, math.nan, math.nan, 30), nan_ok=True)
    assert same.p_value == 1.0
    assert difference((values + 0.1).tolist(), values.tolist()).p_value < 0.001
    worse = difference(values.tolist(), (1.1 * values + 0.1).tolist())
    assert worse.mean.high < 0


def test_difference_of_shares_by_hand():
    out = difference_of_shares([3, 1, 0, 0], [1, 1, 0, 0], [4, 2, 2, 0])
    assert out.mean.value == pytest.approx(4 / 8 - 2 / 8)
    assert out.mean.n == 8
    assert out.p_value == 1.0  # of three scans only one differs: a flip of its sign is as far from zero


@pytest.mark.parametrize("n", [12, 20], ids=["exact", "random"])
def test_the_test_keeps_its_level(n):
    """Of 100 pairs of equal models, at 0.05 some 5 differ; 14 or more would have a chance of 0.0005 with the right level."""
    rng = np.random.default_rng(n)
    low = sum(difference(rng.random(n).tolist(), rng.random(n).tolist()).p_value <= 0.05 for _ in range(100))
    assert 1 <= low < 14

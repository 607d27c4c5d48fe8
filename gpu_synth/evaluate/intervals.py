"""Means with their uncertainty, and whether two models differ."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap, permutation_test

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 0


class Estimate(NamedTuple):
    """A figure and its interval.

    Attributes:
        value: NaN where nothing was counted.
        low: Lower end of the 95 % interval; NaN where there is none, as with one scan.
        high: Upper end.
        n: How many scans, or lesions, it rests on.
    """

    value: float
    low: float
    high: float
    n: int


def mean_over_scans(values: Sequence[float]) -> Estimate:
    """Mean, and the percentile interval of a bootstrap over scans; none where all values are equal, which would be no width at all."""
    kept = np.asarray(values, dtype=np.float64)
    if len(kept) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    return Estimate(float(kept.mean()), *_bootstrap((kept,), _mean), len(kept))


def share_of_lesions(found: Sequence[int], lesions: Sequence[int]) -> Estimate:
    """Share of all lesions that was found, and the interval of a bootstrap over the scans that hold one.

    Where no resample differs, as where all are found, or the same share in every scan, or one scan holds them all: Wilson's interval, for
    lesions taken as independent.

    Args:
        found: Of each scan.
        lesions: Of each scan.
    """
    held = np.asarray(lesions) > 0
    hits, total = np.asarray(found, np.int64)[held], np.asarray(lesions, np.int64)[held]
    n, k = int(total.sum()), int(hits.sum())
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    low, high = _bootstrap((hits, total), _share)
    return _wilson(k, n) if math.isnan(low) else Estimate(k / n, low, high, n)


def share_of_scans(held: Sequence[bool]) -> Estimate:
    """Share of scans of which something holds, and Wilson's interval."""
    return _wilson(sum(held), len(held)) if held else Estimate(math.nan, math.nan, math.nan, 0)


def _wilson(k: int, n: int) -> Estimate:
    wilson = binomtest(k, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(k / n, float(wilson.low), float(wilson.high), n)


class Difference(NamedTuple):
    """How much higher one model scores than another on the same scans.

    Attributes:
        mean: The difference, and its interval.
        p_value: Of a two-sided sign-flip permutation test, scan by scan; NaN with fewer than two scans.
    """

    mean: Estimate
    p_value: float


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Compare two models by a mean over the same scans."""
    apart = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    return Difference(mean_over_scans(apart.tolist()), _p_value(apart))


def difference_of_shares(ours: Sequence[int], theirs: Sequence[int], lesions: Sequence[int]) -> Difference:
    """Compare two models by the share of the same lesions that they found.

    Args:
        ours: Lesions found, of each scan.
        theirs: Lesions found, of each scan.
        lesions: Of each scan.
    """
    held = np.asarray(lesions) > 0
    apart, total = (np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))[held], np.asarray(lesions, np.float64)[held]
    if len(apart) == 0:
        return Difference(Estimate(math.nan, math.nan, math.nan, 0), math.nan)
    mean = Estimate(float(_share(apart, total)), *_bootstrap((apart, total), _share), int(total.sum()))
    return Difference(mean, _p_value(apart))


def _p_value(apart: NDArray[np.float64]) -> float:
    """Whether the differences' mean could well be chance.

    If neither model were better, each scan's difference could as well have the other sign. The test flips signs: in all 2ⁿ ways for n scans
    where these are no more than the resamples, else in that many random ways. It is of the mean, which is what is reported; a rank test
    would be of something else.
    """
    if len(apart) < 2:
        return math.nan
    rng = np.random.default_rng(SEED)
    test = permutation_test((apart,), _mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=rng)
    return float(test.pvalue)


def _bootstrap(data: tuple[NDArray[Any], ...], statistic: Any) -> tuple[float, float]:
    """Percentile interval; none with fewer than two scans, or where no resample differs."""
    if len(data[0]) < 2:
        return math.nan, math.nan
    interval = bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return (low, high) if not math.isclose(low, high, abs_tol=1e-12) else (math.nan, math.nan)  # but for rounding


def _mean(values: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    return np.asarray(values.mean(axis))


def _share(found: NDArray[Any], lesions: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    return np.asarray(found.sum(axis) / lesions.sum(axis))

"""What a scan says about its organ: its HU, its noise, and where vessels run.

Contrast is told relative to the organ, a contrast-to-noise floor to the noise, and lesions keep away from vessels: all three are read from
the CT itself, on its device. HU become integers once (quarters of an HU); from there on all is counting, shifting and adding of integers,
so twin and kernels agree to the bit, in any batch and any order of threads.

**Noise** is that of a residual, four times a voxel less its four neighbours 3 mm away in the plane of i and j (all five in the organ, and
finite): blind to constants and slopes. Its SD is √20 that of white noise; it is taken as 1.4826 times the median of its size. Noise that is
still correlated at 3 mm, ρ, comes out too low, by a factor of √(1 − 1.6 ρ(3 mm) + 0.4 ρ(4.2 mm) + 0.2 ρ(6 mm)): 0.91 for noise blurred by a
Gaussian of 1 mm, 1 for filtered back-projection (|ρ| ≤ 0.04 in the noisy CT below). Vessels make it too high: by 3 % in a portal-venous CT.
It gives 31.8, 11.2 and 23.2 HU in the CTs ccth_a01, totalseg_example and chaos_ctset3, where squares of 16 mm of single slices, less a
fitted plane, have SDs of 29–33, 10–11 and 22–25 HU (the quieter half of them, lower quartile to median).

**Vessels** are what is brighter than the organ by 20 HU and by 3 times the noise that is left, after smoothing with a Gaussian of 1 mm.
The noise that is left is measured: the same residual of the smoothed values, 5 mm apart. Smoothing weighs the organ alone. Where less
than 1.5 % of the organ is that bright, the scan shows no vessels. (Noise alone leaves 0.1 %; patches of 64³ and 96³ at 1 mm have up to
1.1 and 0.8 % in the CTs without contrast, and from 1.9 and 3.5 % on in the one with it: our choice lies between.)

Cost, voxels that are all organ: the twin makes three histograms and 15 additions of 16-bit integers to smooth one of two fields. The
kernels read image and label twice, and move some 23 bytes a voxel besides.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int16, UInt8
from torch import Tensor

from gpu_synth.kernels import _launch
from gpu_synth.kernels._organ_field import (
    BINS,
    HU_FIRST,
    QUARTERS,
    SMOOTH_MOST,
    THREADS,
    field_cuda,
    field_of,
    kinds,
    known_hu,
    parts,
    smooth_cuda_,
    smooth_of_organ,
    smooth_plane_cuda,
    weights_of,
)

NOISE_LAG_MM = 3.0  # CT noise of soft kernels is all but uncorrelated there: |ρ| ≤ 0.05 less structure, in the CTs that we measured
LEFT_LAG_MM = 5.0  # smoothing widens the noise's correlation
VESSEL_LEAST_HU = 20
VESSEL_NOISES = 3
VESSEL_LEAST_PERMILLE = 15
_PER_BLOCK = 16384  # of the kernels
_SD_PER_MEDIAN = 1.4826 / (QUARTERS * math.sqrt(20.0))  # HU of noise, by the median of a residual's size


class Tissue(NamedTuple):
    """What a scan says about its organ.

    Attributes:
        organ_hu: Median HU of the organ's voxels; 0 where there are none.
        noise_hu: SD of the noise in the organ, HU; 0 where no voxel has four neighbours in it.
        vessel: 1 where a vessel runs, in the organ; all zero where the scan shows none.
        foreign_hu: How much brighter than the organ, smoothed, a vessel is at least, 0 where the scan shows none; and how much darker what
            is no tissue of the organ either, such as fat in a fissure that the mask holds.
    """

    organ_hu: Float[Tensor, " b"]
    noise_hu: Float[Tensor, " b"]
    vessel: UInt8[Tensor, "b i j k"]
    foreign_hu: Float[Tensor, "b 2"]


def tissue(
    image: Float[Tensor, "b i j k"],
    label: Int[Tensor, "b i j k"],
    organ_label: int,
    spacing_mm: Sequence[float],
    vessels: bool = True,
    backend: str = "torch",
) -> Tissue:
    """Measure organs in their scans. Voxels that are not finite are no part of any figure, and no vessel.

    Args:
        image: HU, any floating type.
        label: Labels, any integer type; a tumour is not organ.
        organ_label: Number of the organ.
        spacing_mm: Voxel spacing along i, j, k, of all samples.
        vessels: Whether vessels are looked for; else `vessel` is all zero.
        backend: "torch" or "cupy".

    Source: Hu et al. 2023, facts on vessel avoidance: v = 1 where G_sigma(HU) > T inside the organ, T = organ HU + offset. Ours: the
        median for the mean, G normalised by the organ's own share, the offset by the noise. Noise: Rousseeuw and Croux 1993 on the
        median absolute deviation, of a residual in place of the values, as Immerkær 1996 does for images.
    """
    return (_tissue_cuda if backend == "cupy" else tissue_torch)(image, label, organ_label, spacing_mm, vessels)


def _tissue_cuda(image: Tensor, label: Tensor, organ_label: int, spacing_mm: Sequence[float], vessels: bool) -> Tissue:
    image, label = image.contiguous(), label.contiguous()
    b, *shape = image.shape
    voxels, device = math.prod(shape), image.device
    numbers = torch.zeros(3 * b * BINS + 3 * b, dtype=torch.int32, device=device)
    counts, of_noise, of_left, seen, organ_voxels, threshold = numbers.split_with_sizes([b * BINS] * 3 + [b] * 3)
    organ_hu, noise_hu = torch.empty(2, b, dtype=torch.float32, device=device)
    tallies, samples, block = (-(-voxels // _PER_BLOCK), b, 1), (b, 1, 1), (THREADS, 1, 1)
    _launch.launch("tissue", "count_kernel", tallies, block, (counts, image, label, *kinds(image, label, organ_label)))
    _launch.launch("tissue", "organ_kernel", samples, block, (organ_hu, organ_voxels, counts))
    field = field_cuda(image, label, organ_hu, organ_label)
    lags = _lags(NOISE_LAG_MM, spacing_mm, shape)
    _launch.launch("tissue", "residual_kernel", tallies, block, (of_noise, field, *lags, *shape))
    if vessels:
        smooth_cuda_(field, spacing_mm)
        lags = _lags(LEFT_LAG_MM, spacing_mm, shape)
        _launch.launch("tissue", "residual_kernel", tallies, block, (of_left, field, *lags, *shape))
    law = (_SD_PER_MEDIAN, VESSEL_NOISES * QUARTERS, VESSEL_LEAST_HU * QUARTERS)
    measured = (noise_hu, threshold, of_noise, of_left if vessels else _launch.NULL, *law)
    _launch.launch("tissue", "noise_kernel", samples, block, measured)
    if not vessels:
        nowhere = torch.zeros(image.shape, dtype=torch.uint8, device=device)
        return Tissue(organ_hu, noise_hu, nowhere, torch.zeros(b, 2, dtype=torch.float32, device=device))
    vessel = torch.empty(image.shape, dtype=torch.uint8, device=device)
    foreign_hu = torch.empty(b, 2, dtype=torch.float32, device=device)
    _launch.launch("tissue", "vessel_kernel", tallies, block, (vessel, seen, field, threshold, voxels))
    shown = (vessel, foreign_hu, organ_voxels, seen, threshold, VESSEL_LEAST_PERMILLE, voxels)
    _launch.launch("tissue", "shown_kernel", tallies, block, shown)
    return Tissue(organ_hu, noise_hu, vessel, foreign_hu)


def tissue_torch(image: Tensor, label: Tensor, organ_label: int, spacing_mm: Sequence[float], vessels: bool) -> Tissue:
    """Twin of the kernels. It works in place and in parts: on a host, to fault in fresh memory costs more than the arithmetic."""
    value, known = known_hu(image, label, organ_label)
    counts = _counts(value, known, HU_FIRST)
    organ_hu = _organ_hu(counts)
    field = field_of(value, known, organ_hu)
    noise_hu = _noise_hu(_residuals(field, known, _lags(NOISE_LAG_MM, spacing_mm, field.shape[1:])))
    vessel = torch.zeros(field.shape, dtype=torch.uint8, device=field.device)
    foreign_hu = torch.zeros(len(field), 2, dtype=torch.float32, device=field.device)
    if vessels:
        smooth = smooth_of_organ(field, known, spacing_mm)
        threshold = _threshold(_residuals(smooth, known, _lags(LEFT_LAG_MM, spacing_mm, field.shape[1:])))
        vessel = smooth.gt(threshold).logical_and_(known).to(torch.uint8)
        seen = torch.stack([of_sample.count_nonzero() for of_sample in vessel])
        vessel.mul_(shown := _shown(seen, counts))
        foreign_hu = torch.stack((threshold * shown, threshold), 1)[:, :, 0, 0, 0].to(torch.float32) / QUARTERS
    return Tissue(organ_hu, noise_hu, vessel, foreign_hu)


def excess(
    image: Float[Tensor, "b i j k"],
    label: Int[Tensor, "b i j k"],
    organ_label: int,
    organ_hu: Float[Tensor, " b"],
    foreign_hu: Float[Tensor, "b 2"],
    spacing_mm: Sequence[float],
    backend: str = "torch",
) -> Int16[Tensor, "b i j k"]:
    """Measure by how much vessels are brighter than the organ, and fat in it darker, in quarters of an HU; 0 elsewhere.

    It is what `tissue` smooths: nothing up to ¾ of `foreign_hu`, from there on more and more of it, from 5/4 on all; and all that is beyond
    128 HU. Taken away, it leaves the organ with its noise, which after smoothing is as far out in 1 of 50 voxels.

    Args:
        image: HU, any floating type.
        label: Labels, any integer type.
        organ_label: Number of the organ.
        organ_hu: As `tissue` found it.
        foreign_hu: As `tissue` found it.
        spacing_mm: Voxel spacing along i, j, k, of all samples.
        backend: "torch" or "cupy".
    """
    return (_excess_cuda if backend == "cupy" else excess_torch)(image, label, organ_label, organ_hu, foreign_hu, spacing_mm)


def _excess_cuda(
    image: Tensor, label: Tensor, organ_label: int, organ_hu: Tensor, foreign_hu: Tensor, spacing_mm: Sequence[float]
) -> Tensor:
    image, label = image.contiguous(), label.contiguous()
    field = field_cuda(image, label, organ_hu, organ_label)
    pairs, voxels = smooth_plane_cuda(field, spacing_mm), image[0].numel()
    sizes = (*weights_of(spacing_mm[0]), image[0, 0].numel(), voxels)
    grid = (-(-voxels // THREADS), len(image), 1)
    _launch.launch("tissue", "excess_kernel", grid, (THREADS, 1, 1), (field, pairs, foreign_hu.contiguous(), *sizes))
    return field


def excess_torch(
    image: Tensor, label: Tensor, organ_label: int, organ_hu: Tensor, foreign_hu: Tensor, spacing_mm: Sequence[float]
) -> Tensor:
    """Twin of the kernels."""
    value, known = known_hu(image, label, organ_label)
    field = field_of(value, known, organ_hu)
    beyond = field - field.clamp(-SMOOTH_MOST, SMOOTH_MOST)
    smooth, threshold = smooth_of_organ(field, known, spacing_mm), (foreign_hu * QUARTERS).to(torch.int32)[:, :, None, None, None]
    dark = smooth < 0
    beyond = torch.where(dark, -beyond, beyond).clamp_min_(0)
    threshold, size = torch.where(dark, threshold[:, 1], threshold[:, 0]), smooth.abs()
    share = (4 * size - 3 * threshold).clamp_min_(0).minimum(2 * threshold)
    out = ((size + beyond) * share).floor_divide_((2 * threshold).clamp_min_(1)).mul_(known).to(torch.int16)
    return torch.where(dark, -out, out)


def _counts(value: Tensor, known: Tensor, first: int = 0) -> Int[Tensor, "b bins"]:
    """Known voxels by their value, rounded, from `first` on. Others are counted apart: to pick voxels would read the device back."""
    counts = torch.zeros(len(value), BINS + 1, dtype=torch.int32, device=value.device)
    one = torch.ones(1, dtype=torch.int32, device=value.device)
    for of_sample, *sample in zip(counts, value.flatten(1), known.flatten(1), strict=True):
        for values, is_known in zip(*map(parts, sample), strict=True):
            index = values.round().sub_(first - 1).to(torch.int32).mul_(is_known)
            of_sample.index_add_(0, index, one.expand(len(index)))
    return counts[:, 1:]


def _residuals(field: Int[Tensor, "b i j k"], known: Tensor, lags: tuple[int, int]) -> Int[Tensor, "b bins"]:
    """Voxels by the size of four times their value less their four neighbours: of every other plane along i, which is plenty."""
    (p, q), (_, n, m, _) = lags, field.shape
    windows = [(p, q), (0, q), (2 * p, q), (p, 0), (p, 2 * q)]
    middle, *around = (field[:, i : i + n - 2 * p : 2, j : j + m - 2 * q] for i, j in windows)
    there, *others = (known[:, i : i + n - 2 * p : 2, j : j + m - 2 * q] for i, j in windows)
    residual, there = middle * 4, there.clone()
    for neighbour, is_known in zip(around, others, strict=True):
        residual.sub_(neighbour)
        there.logical_and_(is_known)
    return _counts(residual.abs_().clamp_max_(BINS - 1), there)


def _lags(lag_mm: float, spacing_mm: Sequence[float], shape: Sequence[int]) -> tuple[int, int]:
    """Distance of neighbours along i and j in voxels, as far as there are voxels."""
    lag_i, lag_j = (max(1, min(round(lag_mm / spacing), n // 2)) for spacing, n in zip(spacing_mm[:2], shape[:2], strict=True))
    return lag_i, lag_j


def _median(counts: Int[Tensor, "b bins"]) -> Float[Tensor, " b"]:
    """Median in bins, evenly spread within its own; where nothing was counted, it means nothing. In float32, in the kernel's order."""
    ends = counts.cumsum(1)
    total = ends[:, -1:]
    at = (2 * ends < total).sum(1, keepdim=True)
    own = counts.gather(1, at).to(torch.int64)
    before = ends.gather(1, at) - own
    return (at + (0.5 * total.to(torch.float32) - before) / own.clamp_min(1) - 0.5)[:, 0]


def _organ_hu(counts: Tensor) -> Float[Tensor, " b"]:
    return torch.where(counts.sum(1) > 0, _median(counts) + HU_FIRST, 0.0)


def _noise_hu(counts: Tensor) -> Float[Tensor, " b"]:
    return torch.where(counts.sum(1) > 0, _median(counts) * _SD_PER_MEDIAN, 0.0)


def _threshold(counts: Tensor) -> Int[Tensor, "b 1 1 1"]:
    """Quarter HU above the organ's at which a vessel begins, given the residuals of the smoothed values."""
    threshold = (_noise_hu(counts) * (VESSEL_NOISES * QUARTERS)).round().clamp_min(VESSEL_LEAST_HU * QUARTERS)
    return threshold.to(torch.int16)[:, None, None, None]


def _shown(seen: Int[Tensor, " b"], counts: Tensor) -> Tensor:
    """Whether a scan shows vessels at all."""
    return ((seen > 0) & (1000 * seen.to(torch.int64) >= VESSEL_LEAST_PERMILLE * counts.sum(1)))[:, None, None, None]

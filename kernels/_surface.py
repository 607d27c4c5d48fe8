"""The surface of an organ: which voxels are near it, where it lies from them, and how to shift it.

The organ's mask, smoothed by a Gaussian, has at distance t of a flat surface the gradient exp(−t² / 2σ²), once it is scaled so, which
points inward. It serves as direction and window at once: it is smooth along edges and vanishes half-way between two surfaces.

Weights of the Gaussian are integers, so that smoothed masks are the same to the bit however they are summed.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gpu_synth.kernels import _host
from gpu_synth.kernels._cached import cached
from gpu_synth.kernels._masks import planes_with_some
from gpu_synth.kernels.gaussian import apply_matrices

SIGMA_MM, REACH_VOX = 2.5, 7  # of the Gaussian that smooths masks, which is cut at three sigma or wider
WEIGHT_SUM = 128  # of an axis; a mask's unit is its cube, so that all sums are exact in float32
CUT = 0.1  # what is below this share of a flat surface's gradient moves nothing: 2.1 sigma away
MOST_SHIFT, MOST_STRENGTH = 0.6, 0.35  # sigma: a surface is shifted no farther, and its shifts' standard deviation counts up to that
MOST_VOX = 3.0  # that anything is moved along an axis
MOST_DEPTH, MOST_DEPTH_VOX = 2.2, 6.0  # sigma, and voxels along an axis, between a voxel and the surface's point next to it
HOLD = 16.0  # times a smoothed mask of other labels is the share of a shift that they hold back
_STEP_VOX = 16  # ends of the box around a surface are multiples of it
_TO_NORMAL, _POWER = 4.91, 0.14  # Tukey's lambda for the normal distribution's quantiles, right to 0.03 for shares of 0.02 to 0.98


class Band(NamedTuple):
    """Voxels near a surface, each tensor `(1, m)`."""

    voxel: list[Tensor]  # along i, j, k
    offset: Tensor
    gradient: list[Tensor]  # of the smoothed mask along i, j, k, times each one's sigma
    share: Tensor  # of organ in the smoothed mask
    free: Tensor | None  # share of a shift that other labels leave; None: all of it


@lru_cache(maxsize=64)
def sigma_vox(spacing_mm: float) -> float:
    """Width of a surface's window along an axis: a central difference widens the Gaussian by a box of two voxels, variance 1/3."""
    second_moment = 2 * sum(weight * distance**2 for distance, weight in enumerate(weights(spacing_mm)))
    return math.sqrt(second_moment / WEIGHT_SUM + 1 / 3)


@lru_cache(maxsize=64)
def slope_scale(spacing_mm: float) -> float:
    """What makes a difference of two smoothed masks, two voxels apart, a gradient that is 1 on a flat surface."""
    return math.sqrt(2.0 * math.pi) * sigma_vox(spacing_mm) / (2 * WEIGHT_SUM**3)


@lru_cache(maxsize=64)
def weights(spacing_mm: float) -> tuple[int, ...]:
    """Weights of distances 0 to 7 voxels: a Gaussian's, rounded, and what is missing to 128 in the middle."""
    sigma = min(SIGMA_MM / spacing_mm, REACH_VOX / 3)
    gaussian = [math.exp(-0.5 * (distance / sigma) ** 2) for distance in range(REACH_VOX + 1)]
    around = [round(WEIGHT_SUM * share / (2 * sum(gaussian) - 1)) for share in gaussian[1:]]
    return (WEIGHT_SUM - 2 * sum(around), *around)


@cached(maxsize=64)
def _matrix(spacing_mm: float, n: int, device: str) -> Float[Tensor, "1 n+2 n"]:
    """The weights as a matrix, for the array and a voxel beyond each end; there, the first and the last voxel go on."""
    rows, out = torch.arange(n + 2), torch.zeros(n + 2, n)
    for step in range(-REACH_VOX, REACH_VOX + 1):
        weight = torch.tensor(float(weights(spacing_mm)[abs(step)]))
        out.index_put_((rows, ((rows - 1).clamp(0, n - 1) + step).clamp(0, n - 1)), weight, accumulate=True)
    return out[None].to(device)


def band(organ: Bool[Tensor, "i j k"], other: Bool[Tensor, "i j k"], spacing_mm: Sequence[float]) -> Band | None:
    """Find voxels near the organ's surface; None where it is seen that there are none.

    Args:
        organ: Where the organ is.
        other: Where labels are that do not move.
        spacing_mm: Along i, j, k.
    """
    host = _host.on_host(organ.device)
    box = _around_surface(organ) if host else [(0, n) for n in organ.shape]
    if any(start == end for start, end in box):
        return None
    organ_there, other_there = (mask[tuple(slice(start, end) for start, end in box)] for mask in (organ, other))
    matrices = [_matrix(mm, n, str(organ.device)) for mm, n in zip(spacing_mm, organ_there.shape, strict=True)]
    smooth = apply_matrices(organ_there[None].float(), matrices)[0]
    gradient = [_gradient(smooth, axis, mm) for axis, mm in enumerate(spacing_mm)]
    near = _square(gradient) > CUT**2 if host else torch.ones_like(organ)
    at = near.nonzero().t().contiguous() if host else torch.cartesian_prod(*(torch.arange(n, device=organ.device) for n in organ.shape)).t()
    i, j, k = at[:, None]
    found = (i * near.shape[1] + j).mul_(near.shape[2]).add_(k)
    if found.numel() == 0:
        return None
    free = None
    if not host or bool(other_there.any()):
        held = _inner(apply_matrices(other_there[None].float(), matrices)[0]).mul(HOLD / WEIGHT_SUM**3)
        free = (1.0 - held).clamp_min_(0.0).view(1, -1).gather(1, found)
    i, j, k = voxel = [x + start for x, (start, _) in zip((i, j, k), box, strict=True)]
    offset = (i * organ.shape[1] + j).mul_(organ.shape[2]).add_(k)
    share = _inner(smooth).div(WEIGHT_SUM**3).view(1, -1).gather(1, found)
    return Band(voxel, offset, [g.view(1, -1).gather(1, found) for g in gradient], share, free)


def _around_surface(organ: Bool[Tensor, "i j k"]) -> list[tuple[int, int]]:
    """Where a smoothed mask is not the same all around, and what lies in its reach; in few different sizes, for which matrices are kept."""
    box = []
    for n, has_organ, has_rest in zip(organ.shape, planes_with_some(organ), planes_with_some(~organ), strict=True):
        borders = has_organ & has_rest
        borders[1:] |= has_organ[1:] != has_organ[:-1]
        at = borders.nonzero()[:, 0].tolist()
        start, end = (at[0] - 2 * (REACH_VOX + 1), at[-1] + 2 * (REACH_VOX + 1)) if at else (0, 0)
        box.append((max(0, start // _STEP_VOX * _STEP_VOX), min(n, -(-end // _STEP_VOX) * _STEP_VOX)))
    return box


def _inner(padded: Tensor) -> Tensor:
    """Without the voxels beyond each end."""
    return padded[1:-1, 1:-1, 1:-1]


def _gradient(smooth: Tensor, axis: int, spacing_mm: float) -> Tensor:
    """Central difference along an axis."""
    n = smooth.shape[axis] - 2
    across = [slice(1, -1) if other != axis else slice(None) for other in range(3)]
    along_axis = smooth[tuple(across)]
    return (along_axis.narrow(axis, 2, n) - along_axis.narrow(axis, 0, n)).mul_(slope_scale(spacing_mm))


def _square(parts: Sequence[Tensor]) -> Tensor:
    i, j, k = parts
    return (i * i).addcmul_(j, j).addcmul_(k, k)


def _length(parts: Sequence[Tensor]) -> Tensor:
    return _square(parts).sqrt_().clamp_min_(1e-6)


def nearest_point(near: Band, spacing_mm: Sequence[float]) -> tuple[list[Tensor], Tensor]:
    """From each voxel to the surface's point next to it, in voxels along i, j, k; and sigma in mm along the normal there."""
    sigma_mm = [sigma_vox(mm) * mm for mm in spacing_mm]
    normal = [part / sigma for part, sigma in zip(near.gradient, sigma_mm, strict=True)]
    length = _length(normal)
    normal = [part.div_(length) for part in normal]
    of_normal = _length([part * sigma for part, sigma in zip(normal, sigma_mm, strict=True)])
    depth = (near.share**_POWER).sub_((1.0 - near.share) ** _POWER).mul_(_TO_NORMAL).clamp_(-MOST_DEPTH, MOST_DEPTH).mul_(of_normal)
    away = [(depth * part).div_(-mm).clamp_(-MOST_DEPTH_VOX, MOST_DEPTH_VOX) for part, mm in zip(normal, spacing_mm, strict=True)]
    return away, of_normal


def displacement(near: Band, profile: Tensor, strength_mm: Tensor, sigma_mm: Tensor, spacing_mm: Sequence[float]) -> list[Tensor]:
    """From each voxel to where it samples for the surface to be shifted outward, in voxels along i, j, k.

    A voxel x takes what lies at x + d w, w being the window. A surface at 0 then comes to lie at t where t = d w(t), so d = t / w(t).

    Args:
        near: The voxels.
        profile: By how much the surface is to move at each, of standard deviation 1.
        strength_mm: What it is multiplied by.
        sigma_mm: From `nearest_point`.
        spacing_mm: Along i, j, k.
    """
    shift = (strength_mm / sigma_mm).clamp_max_(MOST_STRENGTH).mul_(profile)
    shift.div_((1.0 + (shift / MOST_SHIFT) ** 4).sqrt_().sqrt_())
    window = (shift * shift).mul_(-0.5).exp_().sub_(CUT)
    push = shift.div_(window).mul_(sigma_mm).mul_((1.0 - CUT / _length(near.gradient)).clamp_min_(0.0))
    if near.free is not None:
        push.mul_(near.free)
    return [(push * part).div_(mm).clamp_(-MOST_VOX, MOST_VOX) for part, mm in zip(near.gradient, spacing_mm, strict=True)]

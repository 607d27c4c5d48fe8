"""HU of an organ less its own, as integers, and smoothed: what vessels are told by, the same to the bit in twin and kernels.

Quarters of an HU; 16-bit integers throughout, so the smoothing is shifts and additions. What is not organ, or not finite, weighs nothing.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Int, Int16
from torch import Tensor

from gpu_synth.kernels import _host, _launch
from gpu_synth.kernels.shape import TILE_VOX

HU_FIRST, BINS = -1024, 4096  # bins of 1 HU
QUARTERS = 4  # of an HU: the unit of a field
FIELD_MOST = 2047  # quarter HU: four of it less four neighbours stay within 16 bits
SMOOTH_MOST = 511  # quarter HU: times weights of 2⁵, within 16 bits
WHOLE = 512  # share of a voxel that is all known
WEIGHT_BITS = 5  # weights of an axis add up to 2⁵
REACH_MOST = 15  # voxels: as many weights as the kernel takes
SIGMA_MM = 1.0
THREADS = 256  # of the kernels
_CHUNK = 1 << 16  # voxels


def quarters_of(organ_hu: Tensor) -> Int[Tensor, "b 1 1 1"]:
    """The organ's HU, in quarters."""
    return (organ_hu * QUARTERS).round().to(torch.int16)[:, None, None, None]


def kinds(image: Tensor, label: Tensor, organ_label: int) -> list[object]:
    """What the kernels are told of an image and its label: types, the organ's number, voxels."""
    return [_launch.image_kind(image.dtype), _launch.label_kind(label.dtype), organ_label, math.prod(image.shape[1:])]


def field_cuda(image: Tensor, label: Tensor, organ_hu: Tensor, organ_label: int) -> Int16[Tensor, "b i j k"]:
    """HU less the organ's, in quarters; UNKNOWN of the source where nothing is known."""
    field = torch.empty(image.shape, dtype=torch.int16, device=image.device)
    arguments = (field, image, label, organ_hu.contiguous(), *kinds(image, label, organ_label))
    _launch.launch("tissue", "field_kernel", (-(-image[0].numel() // THREADS), len(image), 1), (THREADS, 1, 1), arguments)
    return field


def smooth_plane_cuda(field: Tensor, spacing_mm: Sequence[float]) -> Int16[Tensor, "b i j k 2"]:
    """Smooth what is known alone along k and j: sums of values, and of what is known."""
    (b, i, j, k), (near_j, far_j, reach_j), (near_k, far_k, reach_k) = field.shape, weights_of(spacing_mm[1]), weights_of(spacing_mm[2])
    pairs = torch.empty(*field.shape, 2, dtype=torch.int16, device=field.device)
    sizes = (near_j, far_j, near_k, far_k, reach_j, reach_k, j, k)
    grid = (-(-j // TILE_VOX[1]) * -(-k // TILE_VOX[2]), i, b)
    _launch.launch("tissue", "smooth_plane_kernel", grid, (THREADS, 1, 1), (pairs, field, *sizes))
    return pairs


def smooth_cuda_(field: Tensor, spacing_mm: Sequence[float]) -> None:
    """Smooth what is known alone, in place."""
    pairs, voxels = smooth_plane_cuda(field, spacing_mm), field[0].numel()
    sizes = (*weights_of(spacing_mm[0]), field[0, 0].numel(), voxels)
    _launch.launch("tissue", "smooth_kernel", (-(-voxels // THREADS), len(field), 1), (THREADS, 1, 1), (field, pairs, *sizes))


@lru_cache(maxsize=64)
def weights_of(spacing_mm: float) -> tuple[int, int, int]:
    """Weights along an axis as kernels take them: a byte each, of distances 0 to 7, then 8 to 15; and how far they reach."""
    weights = _weights(spacing_mm)
    near, far = (sum(w << 8 * d for d, w in enumerate(part)) for part in (weights[:8], weights[8:]))
    return near, far, len(weights) - 1


def known_hu(image: Tensor, label: Tensor, organ_label: int) -> tuple[Tensor, Tensor]:
    """HU within bounds, a fresh copy; and where they are the organ's, and finite."""
    value = image.to(torch.float32)
    known = (label == organ_label) & (value > -math.inf) & (value < math.inf)
    return value.clamp(HU_FIRST, HU_FIRST + BINS - 1), known


def field_of(value: Tensor, known: Tensor, organ_hu: Tensor) -> Int16[Tensor, "b i j k"]:
    """HU less the organ's, in quarters; alters `value`."""
    quarters = value.mul_(QUARTERS).round_().to(torch.int16)
    return quarters.sub_(quarters_of(organ_hu)).clamp_(-FIELD_MOST, FIELD_MOST).mul_(known)


def smooth_of_organ(field: Tensor, known: Tensor, spacing_mm: Sequence[float]) -> Int16[Tensor, "b i j k"]:
    """Smooth what is known alone; alters `field`."""
    smooth = _smooth(field.clamp_(-SMOOTH_MOST, SMOOTH_MOST), spacing_mm)
    share = _smooth(known.to(torch.int16).mul_(WHOLE), spacing_mm).clamp_min_(1)
    for quotient, divisor in zip(parts(smooth.flatten()), parts(share.flatten()), strict=True):
        quotient.copy_(quotient.to(torch.float32).mul_(WHOLE).div_(divisor).round_())
    return smooth


def _smooth(field: Int[Tensor, "b i j k"], spacing_mm: Sequence[float]) -> Int[Tensor, "b i j k"]:
    """Sums of weights and values over neighbours, shifted back after each axis; alters `field`."""
    spare = torch.empty_like(field)
    for axis in (3, 2, 1):
        weights, n = _weights(spacing_mm[axis - 1]), field.shape[axis]
        torch.mul(field, weights[0], out=spare)
        for distance, weight in enumerate(weights[1:n], start=1):
            for to, start in ((0, distance), (distance, 0)):
                spare.narrow(axis, to, n - distance).add_(field.narrow(axis, start, n - distance), alpha=weight)
        spare.add_(1 << (WEIGHT_BITS - 1)).bitwise_right_shift_(WEIGHT_BITS)
        field, spare = spare, field
    return field


def smoothing_vox(spacing_mm: Sequence[float]) -> list[int]:
    """How far the smoothing reaches along i, j, k."""
    return [len(_weights(spacing)) - 1 for spacing in spacing_mm]


def _weights(spacing_mm: float) -> list[int]:
    """Weights of distances 0, 1, … voxels: a Gaussian's, rounded, and what is missing to 2⁵ in the middle."""
    sigma_vox = SIGMA_MM / spacing_mm
    gaussian = [math.exp(-0.5 * (distance / sigma_vox) ** 2) for distance in range(REACH_MOST + 1)]
    total = 2 * sum(gaussian) - 1
    around = [round(share / total * 2**WEIGHT_BITS) for share in gaussian[1:]]
    around = around[: sum(weight > 0 for weight in around)]
    return [2**WEIGHT_BITS - 2 * sum(around), *around]


def parts(flat: Tensor) -> Sequence[Tensor]:
    """What is worked on at a time: on a host, as much as stays in cache."""
    return torch.split(flat, _CHUNK if _host.on_host(flat.device) else max(len(flat), 1))

"""Lesion shapes: ellipsoids bent by three elastic displacement fields, each evaluated in its lesion's own box.

A field moves two axes and is the same along the third, so pulling a mask back through it moves whole lines of voxels:
a row gather. The three pull-backs are exact on the voxel lattice, as the published method rounds displaced coordinates.

Cost a lesion of n³ box voxels: one comparison, two row gathers and one transposition, a byte a voxel each.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

AXIS_PAIRS = ((0, 1), (1, 2), (0, 2))
INSIDE = 1.0 - 1e-5  # integer radii tie often: (6/10)² + (8/10)² = 1 is outside


def box_vox(base_radius_mm: float, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """Shape of a lesion's box: four base radii a side, at least three voxels. Its voxel n // 2 is the lesion's centre."""
    i, j, k = (max(3, round(4.0 * base_radius_mm / spacing)) for spacing in spacing_mm)
    return i, j, k


def lesion_masks(
    radii_vox: Float[Tensor, "l 3"], elastic_vox: Float[Tensor, "l 3 2 3 3"], box: tuple[int, int, int]
) -> UInt8[Tensor, "l n0 n1 n2"]:
    """Evaluate deformed ellipsoids on their boxes.

    Args:
        radii_vox: Semi-axes in voxels.
        elastic_vox: Displacements at the 3 × 3 control points, in voxels: for each pair of `AXIS_PAIRS` and each of its two axes.
        box: Shape of the boxes.

    Returns:
        1 inside, 0 outside; what is displaced from outside the box is 0.

    Source: Hu et al. 2022; facts on shape: cubic B-spline with prefilter and mirror boundary on a 3 × 3 grid whose control points lie on
        the box's first, middle and last voxel; the displacement is added to the output coordinate, which is rounded.
    """
    n0, n1, n2 = box
    device = radii_vox.device
    q0, q1, q2 = (
        ((torch.arange(n, device=device) - n // 2) / radii_vox[:, axis, None].clamp_min(1e-3)) ** 2 for axis, n in enumerate(box)
    )
    disc = (q0[:, :, None] + q1[:, None, :]).flatten(1)
    moved = [_line_index(elastic_vox[:, pair], box[a], box[b]) for pair, (a, b) in enumerate(AXIS_PAIRS)]
    outside = torch.full((len(disc), 1), torch.inf, device=device)
    disc = torch.cat([disc, outside], 1).gather(1, moved[0]).view(-1, n0, n1)
    mask = (disc.transpose(1, 2)[:, :, None, :] < (INSIDE - q2)[:, None, :, None]).to(torch.uint8)  # (l, n1, n2, n0)
    mask = _take_lines(mask.reshape(-1, n1 * n2, n0), moved[1]).view(-1, n1, n2, n0)
    mask = _take_lines(mask.permute(0, 3, 2, 1).reshape(-1, n0 * n2, n1), moved[2]).view(-1, n0, n2, n1)
    return mask.transpose(2, 3)


def _line_index(control: Float[Tensor, "l 2 3 3"], na: int, nb: int) -> Int[Tensor, "l lines"]:
    """For each lattice point of a plane, the number of the point it is pulled from; `na·nb` stands for outside."""
    wa, wb = _spline_weights(na, str(control.device)), _spline_weights(nb, str(control.device))
    shift = torch.matmul(torch.matmul(wa, control), wb.T).round().to(torch.int64)
    a = torch.arange(na, device=control.device)[:, None] + shift[:, 0]
    b = torch.arange(nb, device=control.device) + shift[:, 1]
    inside = (a >= 0) & (a < na) & (b >= 0) & (b < nb)
    return torch.where(inside, a * nb + b, na * nb).flatten(1)


def _take_lines(lines: UInt8[Tensor, "l m n"], index: Int[Tensor, "l m"]) -> UInt8[Tensor, "lm n"]:
    """Gather lines of voxels, each as one contiguous copy; the line number m is empty."""
    count, m, n = lines.shape
    source = torch.cat([lines.view(count * m, n), lines.new_zeros(1, n)])
    first = m * torch.arange(count, device=lines.device)[:, None]
    return source.index_select(0, torch.where(index == m, count * m, index + first).flatten())


@lru_cache(maxsize=64)
def _spline_weights(n: int, device: str) -> Float[Tensor, "n 3"]:
    """Weights of three control values at n voxels: cubic B-spline, prefiltered, mirrored at the first and last control point."""
    position = np.arange(n)[:, None] * (2.0 / (n - 1)) - np.arange(-1, 4)[None]
    distance = np.abs(position)
    basis = np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6)
    mirrored = np.stack([basis[:, 1], basis[:, 0] + basis[:, 2] + basis[:, 4], basis[:, 3]], 1)
    prefilter = np.linalg.inv(np.array([[4, 2, 0], [1, 4, 1], [0, 2, 4]]) / 6)
    return torch.tensor(mirrored @ prefilter, dtype=torch.float32, device=device)

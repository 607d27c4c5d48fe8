"""Soft edges: how much of each voxel is lesion, the mask of all lesions smoothed by a Gaussian.

The kernels store it in 16 bits, wrong by at most 7.7e-6 a pass (0.004 HU at 145 HU of contrast), and do nothing but a store where no lesion
is near: 6 bytes read and 6 written a voxel, 3 · (8σ + 1) operations near a lesion.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gpu_synth.kernels import _launch
from gpu_synth.kernels.gaussian import TRUNCATE, Axis, apply_matrices, columns_grid, lines_grid, matrices, matrices_torch, plain_axes
from gpu_synth.kernels.shape import Instances


class Edge(NamedTuple):
    """Share of each voxel that is lesion: float32 in [0, 1], or 65535ths in uint16; and the tiles in which any is (for the kernels)."""

    occupancy: Tensor
    changing: UInt8[Tensor, "b ti tj tk"] | None


def edge(
    instances: Instances,
    sigma: Float[Tensor, "b ..."],
    sigma_max_vox: Sequence[float],
    backend: str = "torch",
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> Edge:
    """Smooth the mask of all lesions.

    Args:
        instances: Which lesion holds a voxel.
        sigma: Standard deviations, `(b,)` or one an axis `(b, 3)`: in mm, or in voxels where no spacing is given.
        sigma_max_vox: Host bounds on them, one an axis.
        backend: "torch" or "cupy".
        spacing_mm: Along i, j, k.

    Source: Hu et al. 2022; facts on composite: G_sigma(mask), sigma ~ U(1, 2).
    """
    return (_edge_cuda if backend == "cupy" else edge_torch)(
        instances, sigma, plain_axes(instances.number.shape[1:], sigma_max_vox), spacing_mm
    )


def _edge_cuda(instances: Instances, sigma: Tensor, axes: Sequence[Axis], spacing_mm: Sequence[float]) -> Edge:
    number, touched = instances
    assert touched is not None  # the map was made by the kernel
    b, i, j, k = number.shape
    (of_i, of_j, of_k), _, (band_i, band_j, band_k) = matrices(sigma, axes, backend="cupy", spacing_mm=spacing_mm)
    reach = [int(TRUNCATE * axis.bound_vox + 0.5) for axis in axes]
    changing = torch.empty_like(touched)
    first, second = (torch.empty(number.shape, dtype=torch.uint16, device=number.device) for _ in range(2))
    arguments: list[object] = [first, changing, number, of_k, band_k, touched, k, i * j, j, reach[2], *touched.shape[1:]]
    _launch.launch("edge", "edge_lines_kernel", lines_grid(k, i * j, b), (32, 8, 1), arguments)
    passes = (
        (second, _launch.NULL, first, of_j, band_j, j, k, i),
        (first, changing, second, of_i, band_i, i, j * k, 1),
    )
    for out, marks, source, weights, band, n, inner, outer in passes:
        sizes: list[object] = [n, inner, outer, k, *reach, *touched.shape[1:]]
        arguments = [out, marks, source, weights, band, touched, *sizes]
        _launch.launch("edge", "edge_columns_kernel", columns_grid(n, inner, b * outer), (128, 1, 1), arguments)
    return Edge(first, changing)


def edge_torch(instances: Instances, sigma: Tensor, axes: Sequence[Axis], spacing_mm: Sequence[float]) -> Edge:
    """Twin of the kernels."""
    weights = matrices_torch(sigma, axes, False, spacing_mm).weights
    return Edge(apply_matrices((instances.number > 0).to(torch.float32), weights), None)

"""Separable Gaussian smoothing as one matrix product an axis.

A matrix holds the weights from every input sample to every output sample of an axis, with the borders reflected and the
kernel cut at four sigma. One routine therefore serves plain smoothing, smoothing on a grid of coarser cells, and going
from coarse cells back to voxels; and a crop is smoothed as the crop of the whole would be, because positions are absolute.

Weights are the same bits on every device: the exponential is made of additions and multiplications in float64, sums are integers.

Cost on a CPU: 3 products of (n × n) by (n × n²), 2·n⁴·3 operations, which for n = 96 beat a convolution four to one. The kernels use that
the matrices are banded: 8 bytes and 2·(8σ + 1) operations a voxel and axis.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.kernels import _launch
from gpu_synth.kernels._cached import cached, on_device

TRUNCATE = 4.0
INTEGER_BITS = 15  # integer weights add up to 2¹⁵
_TABLE = 4096  # entries of the table of weights over distance that the kernel has room for
_TABLE_BITS = 30  # its unit


class Axis(NamedTuple):
    """What is smoothed along an axis: samples in, samples out, both as absolute ranges, and how far at the most.

    Sample q of cells of c voxels sits at voxel q·c + (c − 1)/2. The whole axis is reflected at its ends (`d c b a | a b c d | d c b a`);
    columns outside it weigh nothing, rows outside it are those at its ends.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    whole_vox: int
    bound_vox: float  # host bound on sigma
    row_cell: int = 1
    column_cell: int = 1

    @property
    def reach(self) -> int:
        """Distance, in half voxels, at which nothing weighs any more."""
        return 2 * (int(TRUNCATE * self.bound_vox + 0.5) + self.row_cell + self.column_cell)


class Matrices(NamedTuple):
    """Weights of three axes, each `(b, n, m)`: shares of one in float32, or integers that add up to 2¹⁵ (each rounded).

    `squares`, the sum of a row's squared weights over the voxels of a cell, is what smoothing leaves of white noise's variance `(b, n)`.
    Kernels leave all of these flat, and say each row's `band`: the first column that weighs and the one after the last `(b, n, 2)`.
    """

    weights: list[Tensor]
    squares: list[Tensor]
    band: list[Tensor]


class Smoothing(NamedTuple):
    """What is smoothed: standard deviations `(b,)` or one an axis `(b, 3)`, what along each axis, and whether weights are integers."""

    sigma: Float[Tensor, "b ..."]
    axes: Sequence[Axis]
    integer: bool = False


def matrices(
    sigma: Float[Tensor, "b ..."],
    axes: Sequence[Axis],
    integer: bool = False,
    backend: str = "torch",
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> Matrices:
    """Weights that smooth along three axes.

    Args:
        sigma: Standard deviations, `(b,)` or one an axis `(b, 3)`: in mm, or in voxels where no spacing is given.
        axes: What is smoothed along each.
        integer: Whether weights are integers.
        backend: "torch" or "cupy".
        spacing_mm: Along i, j, k.
    """
    if backend == "cupy":
        return matrices_cuda([Smoothing(sigma, axes, integer)], spacing_mm)[0]
    return matrices_torch(sigma, axes, integer, spacing_mm)


def matrices_cuda(smoothings: Sequence[Smoothing], spacing_mm: Sequence[float]) -> list[Matrices]:
    """Weights of one smoothing, or of two, by one launch."""
    first, last, device = smoothings[0].sigma, smoothings[-1].sigma, smoothings[0].sigma.device
    b = len(first)
    layout = _layout(tuple((tuple(axes), integer) for _, axes, integer in smoothings), b, device)
    shares = torch.empty(sum(layout.shares), dtype=torch.float32, device=device)
    integers = torch.empty(sum(layout.integers), dtype=torch.int32, device=device)
    widths = (first.contiguous(), last.contiguous(), first.numel() // b, last.numel() // b)
    grid = (layout.longest, b, 3 * len(smoothings))
    _launch.launch("gaussian", "weights_kernel", grid, (128, 1, 1), (shares, integers, *widths, *spacing_mm, layout.table))
    floats, ints = iter(shares.split_with_sizes(layout.shares)), iter(integers.split_with_sizes(layout.integers))
    made = []
    for _, _, integer in smoothings:
        of_axes = [(next(ints if integer else floats), next(floats), next(ints)) for _ in range(3)]
        made.append(Matrices(*map(list, zip(*of_axes, strict=True))))
    return made


class _Layout(NamedTuple):
    """Axes as the kernel reads them, and the sizes of what stands in its buffers: of each axis weights, squares and bands."""

    table: Int[Tensor, "axes fields"]
    longest: int
    shares: list[int]
    integers: list[int]


@cached(maxsize=256)
def _layout(smoothings: tuple[tuple[tuple[Axis, ...], bool], ...], b: int, device: torch.device) -> _Layout:
    shares: list[int] = []
    integers: list[int] = []
    rows: list[tuple[int, ...]] = []
    for axis, integer in ((axis, integer) for axes, integer in smoothings for axis in axes):
        if axis.reach >= _TABLE:
            raise ValueError(f"sigma must stay below {_TABLE // 8} voxels for backend 'cupy', got up to {axis.bound_vox:g}")
        n, m = axis.rows[1] - axis.rows[0], axis.columns[1] - axis.columns[0]
        places = []
        for buffer, size in ((integers if integer else shares, b * n * m), (shares, b * n), (integers, 2 * b * n)):
            places.append(sum(buffer))
            buffer.append(size)
        known = (axis.rows[0], n, axis.columns[0], m, axis.whole_vox, axis.reach, axis.row_cell, axis.column_cell)
        rows.append((*known, int(integer), *places))
    return _Layout(torch.tensor(rows, dtype=torch.int32).to(device), max(row[1] for row in rows), shares, integers)


def matrices_torch(sigma: Tensor, axes: Sequence[Axis], integer: bool, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> Matrices:
    """Twin of the kernel; bands are left empty, for its products are dense."""
    weights, squares = [], []
    sigma_vox = sigma.view(len(sigma), -1) / on_device(tuple(spacing_mm[: len(axes)]), sigma.device)
    for sigma, axis in zip(sigma_vox.unbind(1), axes, strict=True):
        sums = _weight_sums(sigma, axis)
        total = sums.sum(-1, keepdim=True).clamp_min(1)
        share = sums.to(torch.float32) / total.to(torch.float32)
        squares.append((share**2).sum(-1) / axis.column_cell)
        weights.append(((sums << INTEGER_BITS) + total // 2) // total if integer else share)
    return Matrices(weights, squares, [])


def _weight_sums(sigma_vox: Float[Tensor, " b"], axis: Axis) -> Int[Tensor, "b n m"]:
    """Weights before they are made to add up, integers. Distances are multiples of half a voxel: a table over those, looked up."""
    device, reach, whole = sigma_vox.device, axis.reach, axis.whole_vox
    half = torch.arange(reach + 1, device=device)
    sigma = sigma_vox.clamp_min(1e-3)[:, None]
    x = 0.125 * (half.to(torch.float64) / sigma.to(torch.float64)) ** 2
    table = (_exp_of_minus(x.clamp_max(32.0)) * 2.0**_TABLE_BITS).round().to(torch.int64)
    table = torch.where((half <= 2 * (TRUNCATE * sigma + 0.5).floor()) & (half < reach), table, 0)
    row = 2 * (torch.arange(*axis.rows, device=device) * axis.row_cell).clamp(0, whole - 1)[:, None] + axis.row_cell - 1
    place = torch.arange(*axis.columns, device=device) * axis.column_cell
    column = 2 * place + axis.column_cell - 1
    sums = torch.zeros(len(sigma), len(row), len(column), dtype=torch.int64, device=device)
    period = 4 * whole  # two lengths, in half voxels
    images = (reach + period - 1) // period
    for turn in range(-images, images + 1):
        for image in (column + turn * period, turn * period - 2 - column):
            sums += table[:, (row - image).abs().clamp_max(reach)]
    return sums * torch.where(place < 0, 0, (whole - place).clamp(0, axis.column_cell))  # a cell may stick out


def _exp_of_minus(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """exp(−x) by additions and multiplications alone, each rounded: the same bits on every device. Right to 1e-13 for x ≤ 32."""
    s = -0.015625 * x
    total = torch.ones_like(s)
    for k in range(12, 0, -1):
        total = s.mul(total).div_(float(k)).add_(1.0)
    for _ in range(6):
        total = total * total
    return total


def apply_matrices(field: Float[Tensor, "b i j k"], weights: Sequence[Float[Tensor, "b n m"]]) -> Float[Tensor, "b x y z"]:
    """Multiply each spatial axis by its matrix: first axis, then second, then third.

    Args:
        field: Input, float32.
        weights: Three matrices whose columns match the input's axes.
    """
    b, i, j, k = field.shape
    x, y, z = (matrix.shape[1] for matrix in weights)
    field = torch.bmm(weights[0], field.reshape(b, i, j * k)).view(b, x, j, k)
    field = torch.matmul(weights[1][:, None], field)
    return torch.bmm(field.view(b, x * y, k), weights[2].transpose(1, 2)).view(b, x, y, z)


def lines_grid(n: int, lines: int, samples: int) -> tuple[int, int, int]:
    """Blocks of (32, 8) threads that smooth n outputs along the contiguous axis: see `smooth_lines` in smoothing.cuh."""
    return -(-n // 32), -(-lines // 32), samples


def columns_grid(n: int, inner: int, outer: int) -> tuple[int, int, int]:
    """Blocks of 128 threads that smooth n outputs along an axis that others follow: see `smooth_columns` in smoothing.cuh."""
    return -(-inner // 128), -(-n // 8), outer


def plain_axes(shape: Sequence[int], bound_vox: Sequence[float]) -> list[Axis]:
    """Axes of a field that is smoothed voxel by voxel and is all there is."""
    return [Axis((0, n), (0, n), n, bound) for n, bound in zip(shape, bound_vox, strict=True)]


def gaussian(
    field: Float[Tensor, "b i j k"], sigma_vox: Float[Tensor, "b 3"], sigma_max_vox: Sequence[float], backend: str = "torch"
) -> Float[Tensor, "b i j k"]:
    """Smooth a field with a Gaussian of its own width for each sample and axis.

    Args:
        field: Input, float32.
        sigma_vox: Standard deviations in voxels.
        sigma_max_vox: Host bounds on them, one an axis.
        backend: "torch" or "cupy".

    Returns:
        The smoothed field; equals `scipy.ndimage.gaussian_filter(truncate=4, mode="reflect")` to float32 rounding.

    Source: facts on the published method: separable Gaussian, truncated at 4 sigma, borders reflected.
    """
    return (_gaussian_cuda if backend == "cupy" else gaussian_torch)(field, sigma_vox, sigma_max_vox)


def _gaussian_cuda(field: Tensor, sigma_vox: Tensor, sigma_max_vox: Sequence[float]) -> Tensor:
    b, i, j, k = field.shape
    (of_i, of_j, of_k), _, (band_i, band_j, band_k) = matrices(sigma_vox, plain_axes((i, j, k), sigma_max_vox), backend="cupy")
    first, second = field.contiguous(), torch.empty_like(field)
    sizes: list[object] = [k, k, i * j]
    _launch.launch("gaussian", "lines_kernel", lines_grid(k, i * j, b), (32, 8, 1), (second, first, of_k, band_k, *sizes))
    first = torch.empty_like(field)
    sizes = [j, j, k]
    grid = columns_grid(j, k, b * i)
    _launch.launch("gaussian", "columns_kernel", grid, (128, 1, 1), (first, second, of_j, band_j, *sizes, i))
    sizes = [i, i, j * k]
    grid = columns_grid(i, j * k, b)
    _launch.launch("gaussian", "columns_kernel", grid, (128, 1, 1), (second, first, of_i, band_i, *sizes, 1))
    return second


def gaussian_torch(field: Tensor, sigma_vox: Tensor, sigma_max_vox: Sequence[float]) -> Tensor:
    """Twin of the kernels."""
    return apply_matrices(field, matrices_torch(sigma_vox, plain_axes(field.shape[1:], sigma_max_vox), integer=False).weights)

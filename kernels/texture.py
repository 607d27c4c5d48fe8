"""Texture: salt noise, denser here than there, smoothed to grains. Fresh for each sample, of any size, nothing stored.

Noise belongs to cells of h voxels (h = 1 or 2 an axis): the average of a cell's h³ salt voxels is drawn, not its voxels. Averages of
independent tosses are independent tosses again, of 1/h³ the variance, so the smoothing is the same: its covariance differs from that of
smoothed voxels by 0.02 % at the narrowest grain, which is 1.1 cells wide.

A cell's noise depends on its absolute position, so windows of a field agree with the whole. What a window cannot know (the whole
density's least and greatest value, the mean of the grain) are arguments, from `statistics`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.kernels.gaussian import TRUNCATE, apply_matrices, smoothing_matrix
from gpu_synth.kernels.rng import Purpose, halfwords

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # start and end (exclusive) of each axis
HALFWORDS = 8  # what one Philox block holds: eight cells of density, or a cell's salt
DENSITY_BITS = 16


class Field(NamedTuple):
    """A texture's random field: its key, its whole, its widths. Widths `(b, 3)` in voxels; bounds are host numbers, one an axis."""

    seed: int
    uid: Int[Tensor, " b"]
    whole_vox: tuple[int, int, int]
    cell_vox: tuple[int, int, int]
    density_sigma_vox: Float[Tensor, "b 3"]
    density_bound_vox: Sequence[float]
    grain_sigma_vox: Float[Tensor, "b 3"]
    grain_bound_vox: Sequence[float]

    @property
    def whole_cells(self) -> Box:
        """All cells of the field."""
        i, j, k = ((0, -(-n // h)) for n, h in zip(self.whole_vox, self.cell_vox, strict=True))
        return i, j, k


class Normalised(NamedTuple):
    """How smoothed noise becomes a density: to [0, 1] by the whole's range, then scaled and lifted. Each `(b,)`."""

    low: Float[Tensor, " b"]
    high: Float[Tensor, " b"]
    scale: Float[Tensor, " b"]
    offset: Float[Tensor, " b"]


def cell_vox(grain_sigma_min_mm: float, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """Voxels a cell, one number an axis: two where the narrowest grain spans three voxels, else one."""
    i, j, k = (max(1, min(2, round(grain_sigma_min_mm / (1.5 * spacing)))) for spacing in spacing_mm)
    return i, j, k


def statistics(
    field: Field, scale: Float[Tensor, " b"], offset: Float[Tensor, " b"], threshold: float
) -> tuple[Normalised, Float[Tensor, " b"]]:
    """Learn from the whole field what a window of it cannot know.

    The grain's mean at a cell is the smoothed density m, its variance m·(1 − m)·Σw² with the smoothing's weights w. The mean over
    all is taken over cells and, in each, over three Gauss–Hermite nodes of that variance: the salt need not be drawn for it.

    Args:
        field: The random field.
        scale: Range of the density.
        offset: Its lowest value.
        threshold: Grain above it counts in the mean.

    Returns:
        How the noise becomes a density, and the mean of the grain where it is above the threshold (1 if it is nowhere).

    Source: Hu et al. 2022; facts on texture: min-max normalised; beta = U(0.5, 0.55) / mean of t where t > 0.12.
    """
    cells = field.whole_cells
    smooth = _smooth_noise(field, cells)
    norm = Normalised(smooth.flatten(1).amin(1), smooth.flatten(1).amax(1), scale, offset)
    rows = _cell_matrices(field, cells, cells, field.grain_sigma_vox, field.grain_bound_vox)
    mean = apply_matrices(_normalise(smooth, norm), rows)
    share = [(row**2).sum(-1) / h for row, h in zip(rows, field.cell_vox, strict=True)]
    spread = share[0][:, :, None, None] * share[1][:, None, :, None] * share[2][:, None, None, :]
    deviation = (mean * (1.0 - mean)).mul_(spread).clamp_min_(0.0).sqrt_()
    total, count = torch.zeros_like(norm.low), torch.zeros_like(norm.low)
    for node, weight in ((-math.sqrt(3.0), 1 / 6), (0.0, 2 / 3), (math.sqrt(3.0), 1 / 6)):
        grain = torch.add(mean, deviation, alpha=node)
        above = (grain > threshold).to(torch.float32)
        total += weight * _sum(grain.mul_(above))
        count += weight * _sum(above)
    return norm, torch.where(count > 0, total / count.clamp_min(1e-6), 1.0)


def texture(field: Field, norm: Normalised, gain: Float[Tensor, " b"], box: Box) -> Float[Tensor, "b x y z"]:
    """Evaluate the texture in a box of the whole.

    Args:
        field: The random field.
        norm: How its noise becomes density.
        gain: Factor on the grain (the drawn gain over the grain's mean).
        box: Voxels wanted, absolute in the whole; may reach beyond it, where values are finite and mean nothing.

    Returns:
        Texture in [0, 1].

    Source: Hu et al. 2022; facts on texture: a = G(noise), b = 1 where a > noise, t = G(b), clip(beta·t, 0, 1).
    """
    cells = _reach(field, _to_cells(field, box), field.grain_bound_vox)
    grain = _salt(field, cells, _normalise(_smooth_noise(field, cells), norm))
    matrices = []
    for axis, ((start, end), (first, last), h) in enumerate(zip(box, cells, field.cell_vox, strict=True)):
        sigma = field.grain_sigma_vox[:, axis]
        voxels = torch.arange(start, end, device=sigma.device).clamp(0, field.whole_vox[axis] - 1)
        columns = torch.arange(first, last, device=sigma.device)
        b = len(sigma)
        matrices.append(
            smoothing_matrix(
                sigma, voxels.expand(b, -1), columns.expand(b, -1), field.whole_vox[axis], field.grain_bound_vox[axis], column_cell=h
            )
        )
    return apply_matrices(grain, matrices).mul_(gain[:, None, None, None]).clamp_(0.0, 1.0)


def _smooth_noise(field: Field, cells: Box) -> Float[Tensor, "b x y z"]:
    """Smooth uniform noise, drawn a value a cell and eight cells of the last axis a block."""
    source = _reach(field, cells, field.density_bound_vox)
    (i0, i1), (j0, j1), (k0, k1) = source
    block0, block1 = k0 // HALFWORDS, -(-k1 // HALFWORDS)
    _, columns, line = (end for _, end in field.whole_cells)
    index = _positions(((i0, i1), (j0, j1), (block0, block1)), columns, -(-line // HALFWORDS), field.uid)
    drawn = halfwords(field.seed, field.uid, Purpose.DENSITY, index)
    noise = drawn.to(torch.float32).permute(1, 2, 0).reshape(len(field.uid), i1 - i0, j1 - j0, -1)
    noise = noise[..., k0 - HALFWORDS * block0 : k1 - HALFWORDS * block0].contiguous()
    return apply_matrices(noise, _cell_matrices(field, cells, source, field.density_sigma_vox, field.density_bound_vox))


def _normalise(smooth: Tensor, norm: Normalised) -> Float[Tensor, "b x y z"]:
    """Turn smoothed noise into the probability of salt, in place."""
    slope = norm.scale / (norm.high - norm.low).clamp_min(1e-6)
    return smooth.sub_(norm.low[:, None, None, None]).mul_(slope[:, None, None, None]).add_(norm.offset[:, None, None, None])


def _salt(field: Field, cells: Box, density: Tensor) -> Float[Tensor, "b x y z"]:
    """Share of each cell's voxels that are salt: as many coin tosses of the density as the cell has voxels."""
    voxels = math.prod(field.cell_vox)
    _, columns, line = (end for _, end in field.whole_cells)
    drawn = halfwords(field.seed, field.uid, Purpose.SALT, _positions(cells, columns, line, field.uid))[:voxels]
    level = (density.flatten(1) * 2.0**DENSITY_BITS).ceil().to(torch.int32)  # word < level with probability ⌈·⌉/2¹⁶
    return (drawn < level).sum(0, dtype=torch.int32).to(torch.float32).div_(voxels).view_as(density)


def _cell_matrices(field: Field, rows: Box, columns: Box, sigma_vox: Tensor, bound_vox: Sequence[float]) -> list[Tensor]:
    """Smoothing matrices from cells to cells."""
    out = []
    for axis, (row, column, h) in enumerate(zip(rows, columns, field.cell_vox, strict=True)):
        to, of = (torch.arange(*ends, device=sigma_vox.device).expand(len(sigma_vox), -1) for ends in (row, column))
        whole = h * field.whole_cells[axis][1]
        out.append(smoothing_matrix(sigma_vox[:, axis], to, of, whole, bound_vox[axis], row_cell=h, column_cell=h))
    return out


def _to_cells(field: Field, box: Box) -> Box:
    """Cells that hold the voxels of a box, as far as the whole has them."""
    i, j, k = (
        (max(0, min(start, n - 1) // h), min(-(-max(end, 1) // h), cells))
        for (start, end), n, h, (_, cells) in zip(box, field.whole_vox, field.cell_vox, field.whole_cells, strict=True)
    )
    return i, j, k


def _reach(field: Field, cells: Box, bound_vox: Sequence[float]) -> Box:
    """Cells that smoothing up to the given width needs, as far as the whole has them."""
    i, j, k = (
        (max(0, first - reach), min(end, last + reach))
        for (first, last), (_, end), reach in zip(
            cells, field.whole_cells, (int(TRUNCATE * s / h + 1.5) for s, h in zip(bound_vox, field.cell_vox, strict=True)), strict=True
        )
    )
    return i, j, k


def _positions(box: Box, columns: int, line: int, uid: Tensor) -> Int[Tensor, "b n"]:
    """Row-major numbers, in a whole of `columns` × `line` a layer, of the points in a box."""
    i, j, k = (torch.arange(*ends, device=uid.device) for ends in box)
    return ((i[:, None, None] * columns + j[:, None]) * line + k).flatten().expand(len(uid), -1)


def _sum(field: Tensor) -> Float[Tensor, " b"]:
    """Sum over all but the batch, an axis at a time: the same bits in any batch and with any number of threads."""
    return field.sum(-1).sum(-1).sum(-1)

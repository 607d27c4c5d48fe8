"""Texture: salt noise, denser here than there, smoothed to grains. Fresh for each sample, of any size, nothing stored.

Noise belongs to cells of h voxels (h = 1 or 2 an axis): the average of a cell's h³ salt voxels is drawn, not its voxels. Averages of
independent tosses are independent tosses again, of 1/h³ the variance, so the smoothing is the same: its covariance differs from that of
smoothed voxels by 0.02 % at the narrowest grain, which is 1.1 cells wide.

A cell's noise depends on its absolute position, so windows of a field agree with the whole. What a window cannot know (the whole
density's least and greatest value, the mean of the grain) are arguments, from `statistics`.

From the noise to the toss, all is integers: noise of 16 bits, weights that add up to 2¹⁵, sums that a float64 holds exactly. So salt is
the same on every device and in every window, to the last cell.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from gpu_synth.kernels import _launch
from gpu_synth.kernels._cells import Box, Field, Window, window
from gpu_synth.kernels._groups import groups
from gpu_synth.kernels.gaussian import (
    INTEGER_BITS,
    TRUNCATE,
    Matrices,
    Smoothing,
    apply_matrices,
    columns_grid,
    lines_grid,
    matrices_cuda,
    matrices_torch,
)
from gpu_synth.kernels.rng import Purpose, halfwords
from gpu_synth.kernels.shape import TILE_VOX

HALFWORDS = 8  # what one Philox block holds: eight cells of density, or a cell's salt
DENSITY_BITS = 16


class Normalised(NamedTuple):
    """How smoothed noise becomes a density: to [0, 1] by the whole's range, then scaled and lifted. Each `(b,)`."""

    low: Int[Tensor, " b"]  # of the smoothed noise, int32
    high: Int[Tensor, " b"]
    scale: Float[Tensor, " b"]
    offset: Float[Tensor, " b"]


class Texture(NamedTuple):
    """What is needed to evaluate a field's texture anywhere: how its noise becomes a density, and the factor from grain to texture."""

    norm: Normalised
    gain: Float[Tensor, " b"]


def statistics(
    field: Field,
    scale: Float[Tensor, " b"],
    offset: Float[Tensor, " b"],
    gain: Float[Tensor, " b"],
    threshold: float,
    backend: str = "torch",
) -> Texture:
    """Learn from the whole field what a window of it cannot know.

    The grain's mean at a cell is the smoothed density m, its variance m·(1 − m)·Σw² with the smoothing's weights w. The mean over
    all is taken over cells and, in each, over three Gauss–Hermite nodes of that variance: the salt need not be drawn for it.

    Args:
        field: The random field.
        scale: Range of the density.
        offset: Its lowest value.
        gain: Mean that the texture is to have where the grain is above the threshold.
        threshold: Grain above it counts in the mean.
        backend: "torch" or "cupy".

    Returns:
        How the noise becomes a density, and `gain` over the mean of the grain where it is above the threshold (over 1 if it is nowhere).

    Source: Hu et al. 2022; facts on texture: min-max normalised; beta = U(0.5, 0.55) / mean of t where t > 0.12.
    """
    return (_statistics_cuda if backend == "cupy" else statistics_torch)(field, scale, offset, gain, threshold)


def _statistics_cuda(field: Field, scale: Tensor, offset: Tensor, gain: Tensor, threshold: float) -> Texture:
    known, b, device = window(field.lattice, None), len(scale), scale.device
    ci, cj, ck = (end for _, end in known.cells)
    low, high = torch.empty(2, b, dtype=torch.int32, device=device)
    of_density, (weights, squares, band) = _matrices_cuda(field, known)
    density = _smooth_noise_cuda(field, known, of_density, (low, high))
    first = torch.empty(density.shape, dtype=torch.float32, device=device)
    norm = Normalised(low, high, scale, offset)
    sizes: list[object] = [ck, ck, ci * cj]
    arguments: list[object] = [first, density, weights[2], band[2], *norm, *sizes]
    _launch.launch("texture", "mean_lines_kernel", lines_grid(ck, ci * cj, b), (32, 8, 1), arguments)
    del density, arguments
    second = torch.empty_like(first)
    arguments = [second, first, weights[1], band[1], cj, cj, ck, ci]
    _launch.launch("gaussian", "columns_kernel", columns_grid(cj, ck, b * ci), (128, 1, 1), arguments)
    grid = columns_grid(ci, cj * ck, b)
    parts = grid[0] * grid[1]
    totals = torch.empty(b, parts, dtype=torch.float32, device=device)
    counts = torch.empty(b, parts, dtype=torch.int32, device=device)
    sizes = [threshold, ci, cj * ck, ck]
    arguments = [totals, counts, second, weights[0], band[0], *squares, *sizes]
    _launch.launch("texture", "moments_kernel", grid, (128, 1, 1), arguments)
    factor = torch.empty_like(gain)
    _launch.launch("texture", "gain_kernel", (b, 1, 1), (256, 1, 1), (factor, gain, totals, counts, parts))
    return Texture(norm, factor)


def statistics_torch(field: Field, scale: Tensor, offset: Tensor, gain: Tensor, threshold: float) -> Texture:
    """Twin of the kernels."""
    known = window(field.lattice, None)
    smooth = _smooth_noise_torch(field, known)
    norm = Normalised(smooth.flatten(1).amin(1), smooth.flatten(1).amax(1), scale, offset)
    rows, share, _ = matrices_torch(field.grain_sigma, known.grain_axes, False, field.spacing_mm)
    mean = apply_matrices(_normalise(smooth, norm), rows)
    spread = share[0][:, :, None, None] * share[1][:, None, :, None] * share[2][:, None, None, :]
    deviation = (mean * (1.0 - mean)).mul_(spread).clamp_min_(0.0).sqrt_()
    total, count = torch.zeros_like(scale), torch.zeros_like(scale)
    for node, weight in ((-math.sqrt(3.0), 1 / 6), (0.0, 2 / 3), (math.sqrt(3.0), 1 / 6)):
        grain = torch.add(mean, deviation, alpha=node)
        above = (grain > threshold).to(torch.float32)
        total += weight * _sum(grain.mul_(above))
        count += weight * _sum(above)
    return Texture(norm, gain / torch.where(count > 0, total / count.clamp_min(1e-6), 1.0))


def texture(
    field: Field, texture: Texture, box: Box, changing: UInt8[Tensor, "b ti tj tk"] | None = None, backend: str = "torch"
) -> Float[Tensor, "b x y z"]:
    """Evaluate the texture in a box of the whole.

    Args:
        field: The random field.
        texture: How its noise becomes texture, from `statistics`.
        box: Voxels wanted, absolute in the whole; may reach beyond it, where values are finite and mean nothing.
        changing: Tiles of the box in which the texture is wanted, for the kernels; elsewhere they may leave anything. All by default.
        backend: "torch" or "cupy".

    Returns:
        Texture in [0, 1]: float32, or 65535ths in uint16 from the kernels.

    Source: Hu et al. 2022; facts on texture: a = G(noise), b = 1 where a > noise, t = G(b), clip(beta·t, 0, 1).
    """
    return _texture_cuda(field, texture, box, changing) if backend == "cupy" else texture_torch(field, texture, box)


def _texture_cuda(field: Field, texture: Texture, box: Box, changing: Tensor | None) -> Tensor:
    b, device = len(texture.gain), texture.gain.device
    shape = [end - start for start, end in box]
    if changing is None:
        changing = torch.ones(b, *(-(-n // tile) for n, tile in zip(shape, TILE_VOX, strict=True)), dtype=torch.uint8, device=device)
    out = torch.empty(b, *shape, dtype=torch.uint16, device=device)
    for rows in groups(b, 8 / math.prod(field.lattice.cell_vox)):
        if rows == slice(0, b):
            _evaluate_cuda(out, field, texture, box, changing)
        else:
            known = Texture(Normalised(*(x[rows] for x in texture.norm)), texture.gain[rows])
            _evaluate_cuda(out[rows], field.part(rows), known, box, changing[rows])
    return out


def _evaluate_cuda(out: Tensor, field: Field, texture: Texture, box: Box, changing: Tensor) -> None:
    """Evaluate the texture of some samples, into `out`."""
    (b, *shape), device, known, lattice = out.shape, out.device, window(field.lattice, box), field.lattice
    ci, cj, ck = (end - start for start, end in known.cells)
    (_, whole_j, whole_k), starts = (end for _, end in lattice.whole_cells), [start for start, _ in known.cells]
    of_density, (weights, _, band) = _matrices_cuda(field, known)
    density = _smooth_noise_cuda(field, known, of_density, None)
    reach = [int(TRUNCATE * bound + 0.5 + h) for bound, h in zip(lattice.grain_bound_vox, lattice.cell_vox, strict=True)]
    cell, origin, tiles = lattice.cell_vox, [start for start, _ in box], changing.shape[1:]

    salt = torch.empty(b, ci, cj, shape[2], dtype=torch.uint16, device=device)
    sizes: list[object] = [shape[2], ck, ci * cj, *starts, cj, whole_j, whole_k, *cell, *reach[:2], *origin[:2], *tiles]
    key = [field.uid, changing, _launch.key(field.seed)]
    arguments: list[object] = [salt, density, weights[2], band[2], *texture.norm, *key, *sizes]
    _launch.launch("texture", "salt_lines_kernel", lines_grid(shape[2], ci * cj, b), (32, 8, 1), arguments)
    del density
    grain = torch.empty(b, ci, *shape[1:], dtype=torch.uint16, device=device)
    sizes = [shape[1], cj, shape[2], ci, starts[0], cell[0], reach[0], origin[0], *tiles]
    arguments = [grain, salt, weights[1], band[1], changing, *sizes]
    _launch.launch("texture", "grain_columns_kernel", columns_grid(shape[1], shape[2], b * ci), (128, 1, 1), arguments)
    del salt
    inner = shape[1] * shape[2]
    sizes = [shape[0], ci, inner, shape[2], *tiles]
    arguments = [out, grain, weights[0], band[0], texture.gain, changing, *sizes]
    _launch.launch("texture", "texture_kernel", columns_grid(shape[0], inner, b), (128, 1, 1), arguments)


def texture_torch(field: Field, texture: Texture, box: Box) -> Tensor:
    """Twin of the kernels."""
    known = window(field.lattice, box)
    grain = _salt(field, known.cells, _normalise(_smooth_noise_torch(field, known), texture.norm))
    weights = matrices_torch(field.grain_sigma, known.grain_axes, False, field.spacing_mm).weights
    return apply_matrices(grain, weights).mul_(texture.gain[:, None, None, None]).clamp_(0.0, 1.0)


def _matrices_cuda(field: Field, known: Window) -> list[Matrices]:
    """Weights of density and grain, by one launch."""
    density, grain = Smoothing(field.density_sigma, known.density_axes, True), Smoothing(field.grain_sigma, known.grain_axes)
    return matrices_cuda([density, grain], field.spacing_mm)


def _smooth_noise_cuda(field: Field, known: Window, matrices: Matrices, extrema: tuple[Tensor, Tensor] | None) -> Int[Tensor, "b x y z"]:
    """Smooth uniform noise; also write its least and greatest value where asked."""
    cells, source, b, device = known.cells, known.source, len(field.uid), field.uid.device
    (ri, rj, rk), (si, sj, sk) = ((end - start for start, end in box) for box in (cells, source))
    (weights, _, band), none = matrices, _launch.NULL
    low, high = extrema or (none, none)
    first = torch.empty(b, si, sj, rk, dtype=torch.int32, device=device)
    whole = [end for _, end in field.lattice.whole_cells[1:]]
    sizes: list[object] = [rk, sk, si * sj, *(start for start, _ in source), sj, *whole]
    arguments: list[object] = [first, low, high, weights[2], band[2], field.uid, _launch.key(field.seed), *sizes]
    _launch.launch("texture", "noise_lines_kernel", lines_grid(rk, si * sj, b), (32, 8, 1), arguments)
    second = torch.empty(b, si, rj, rk, dtype=torch.int32, device=device)
    arguments = [second, none, none, first, weights[1], band[1], rj, sj, rk, si]
    _launch.launch("texture", "density_columns_kernel", columns_grid(rj, rk, b * si), (128, 1, 1), arguments)
    del first, arguments  # before the next is allocated: on coarse grids these are the largest fields
    out = torch.empty(b, ri, rj, rk, dtype=torch.int32, device=device)
    arguments = [out, low, high, second, weights[0], band[0], ri, si, rj * rk, 1]
    _launch.launch("texture", "density_columns_kernel", columns_grid(ri, rj * rk, b), (128, 1, 1), arguments)
    return out


def _smooth_noise_torch(field: Field, known: Window) -> Int[Tensor, "b x y z"]:
    """Smooth uniform noise, drawn a value a cell and eight cells of the last axis a block; int32, in units of 2⁻¹⁵ of the noise's."""
    (i0, i1), (j0, j1), (k0, k1) = known.source
    block0, block1 = k0 // HALFWORDS, -(-k1 // HALFWORDS)
    _, columns, line = (end for _, end in field.lattice.whole_cells)
    index = _positions(((i0, i1), (j0, j1), (block0, block1)), columns, -(-line // HALFWORDS), field.uid)
    drawn = halfwords(field.seed, field.uid, Purpose.DENSITY, index)
    noise = drawn.to(torch.float64).sub_(2.0 ** (DENSITY_BITS - 1)).permute(1, 2, 0).reshape(len(field.uid), i1 - i0, j1 - j0, -1)
    noise = noise[..., k0 - HALFWORDS * block0 : k1 - HALFWORDS * block0]
    weights = matrices_torch(field.density_sigma, known.density_axes, True, field.spacing_mm).weights
    of_i, of_j, of_k = (w.to(torch.float64) for w in weights)
    b, i, j, k = noise.shape
    smooth = torch.bmm(noise.reshape(b, i * j, k), of_k.transpose(1, 2)).view(b, i, j, -1)
    smooth = torch.matmul(of_j[:, None], smooth).mul_(2.0**-INTEGER_BITS).floor_()
    smooth = torch.bmm(of_i, smooth.view(b, i, -1)).mul_(2.0**-INTEGER_BITS).floor_()
    return smooth.view(b, of_i.shape[1], of_j.shape[1], of_k.shape[1]).to(torch.int32)


def _normalise(smooth: Int[Tensor, "b x y z"], norm: Normalised) -> Float[Tensor, "b x y z"]:
    """Turn smoothed noise into the probability of salt."""
    slope = norm.scale / (norm.high - norm.low).clamp_min(1).to(torch.float32)
    above = (smooth - norm.low[:, None, None, None]).to(torch.float32)
    return above.mul_(slope[:, None, None, None]).add_(norm.offset[:, None, None, None])


def _salt(field: Field, cells: Box, density: Tensor) -> Float[Tensor, "b x y z"]:
    """Share of each cell's voxels that are salt: as many coin tosses of the density as the cell has voxels."""
    voxels = math.prod(field.lattice.cell_vox)
    _, columns, line = (end for _, end in field.lattice.whole_cells)
    drawn = halfwords(field.seed, field.uid, Purpose.SALT, _positions(cells, columns, line, field.uid))[:voxels]
    level = (density.flatten(1) * 2.0**DENSITY_BITS).ceil().to(torch.int32)  # word < level with probability ⌈·⌉/2¹⁶
    return (drawn < level).sum(0, dtype=torch.int32).to(torch.float32).div_(voxels).view_as(density)


def _positions(box: Box, columns: int, line: int, uid: Tensor) -> Int[Tensor, "b n"]:
    """Row-major numbers, in a whole of `columns` × `line` a layer, of the points in a box."""
    i, j, k = (torch.arange(*ends, device=uid.device) for ends in box)
    return ((i[:, None, None] * columns + j[:, None]) * line + k).flatten().expand(len(uid), -1)


def _sum(field: Tensor) -> Float[Tensor, " b"]:
    """Sum over all but the batch, an axis at a time: the same bits in any batch and with any number of threads."""
    return field.sum(-1).sum(-1).sum(-1)

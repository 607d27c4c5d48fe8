"""Separable Gaussian smoothing as one dense matrix product an axis.

A matrix holds the weights from every input sample to every output sample of an axis, with the borders reflected and the
kernel cut at four sigma. One routine therefore serves plain smoothing, smoothing on a grid of coarser cells, and going
from coarse cells back to voxels; and a crop is smoothed as the crop of the whole would be, because positions are absolute.

Cost on a CPU: 3 products of (n × n) by (n × n²), 2·n⁴·3 operations, which for n = 96 beat a convolution four to one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

TRUNCATE = 4.0


def smoothing_matrix(
    sigma_vox: Float[Tensor, " b"],
    rows: Int[Tensor, "b n"],
    columns: Int[Tensor, "b m"],
    whole_vox: int,
    sigma_max_vox: float,
    row_cell: int = 1,
    column_cell: int = 1,
) -> Float[Tensor, "b n m"]:
    """Weights that smooth samples at `columns` into samples at `rows` along one axis.

    Sample q of cells of c voxels sits at voxel q·c + (c − 1)/2. Distances are thus multiples of half a voxel and the
    weights come from a table over those, so that they do not depend on how many of them are asked for at once.

    Args:
        sigma_vox: Standard deviation in voxels, one a sample of the batch.
        rows: Output sample numbers, absolute in the whole axis.
        columns: Input sample numbers, absolute; those outside the whole weigh nothing.
        whole_vox: Length of the whole axis in voxels; it is reflected at its ends (`d c b a | a b c d | d c b a`).
        sigma_max_vox: Host bound on `sigma_vox`: fixes the table's length and the number of reflections.
        row_cell: Voxels per output sample.
        column_cell: Voxels per input sample.

    Returns:
        Weights; each row sums to one.
    """
    reach = 2 * (int(TRUNCATE * sigma_max_vox + 0.5) + row_cell + column_cell)  # in half voxels
    half = torch.arange(reach + 1, device=rows.device, dtype=torch.float32)
    sigma = sigma_vox.clamp_min(1e-3)[:, None]
    table = torch.exp(-0.125 * (half / sigma) ** 2) * (half <= 2 * (TRUNCATE * sigma + 0.5).floor())
    table[:, -1] = 0.0
    x = (2 * rows * row_cell + row_cell - 1)[:, :, None]
    c = (2 * columns * column_cell + column_cell - 1)[:, None, :]
    inside = ((whole_vox - columns * column_cell).to(torch.float32) / column_cell).clamp(0.0, 1.0) * (columns >= 0)  # a cell may stick out
    weights = torch.zeros(x.shape[0], x.shape[1], c.shape[2], dtype=torch.float32, device=rows.device)
    batch = torch.arange(len(table), device=rows.device)[:, None, None]
    period = 4 * whole_vox  # two lengths, in half voxels
    images = (reach + period - 1) // period
    for turn in range(-images, images + 1):
        for image in (c + turn * period, turn * period - 2 - c):
            weights += table[batch, (x - image).abs().clamp_max(reach)]
    weights *= inside[:, None, :]
    return weights / weights.sum(-1, keepdim=True)


def apply_matrices(field: Float[Tensor, "b i j k"], matrices: Sequence[Float[Tensor, "b n m"]]) -> Float[Tensor, "b x y z"]:
    """Multiply each spatial axis by its matrix: first axis, then second, then third.

    Args:
        field: Input, float32.
        matrices: Three matrices whose columns match the input's axes.
    """
    b, i, j, k = field.shape
    x, y, z = (matrix.shape[1] for matrix in matrices)
    field = torch.bmm(matrices[0], field.reshape(b, i, j * k)).view(b, x, j, k)
    field = torch.matmul(matrices[1][:, None], field)
    return torch.bmm(field.view(b, x * y, k), matrices[2].transpose(1, 2)).view(b, x, y, z)


def gaussian(field: Float[Tensor, "b i j k"], sigma_vox: Float[Tensor, "b 3"], sigma_max_vox: Sequence[float]) -> Float[Tensor, "b i j k"]:
    """Smooth a field with a Gaussian of its own width for each sample and axis.

    Args:
        field: Input, float32.
        sigma_vox: Standard deviations in voxels.
        sigma_max_vox: Host bounds on them, one an axis.

    Returns:
        The smoothed field; equals `scipy.ndimage.gaussian_filter(truncate=4, mode="reflect")` to float32 rounding.

    Source: facts on the published method: separable Gaussian, truncated at 4 sigma, borders reflected.
    """
    matrices = []
    for axis, n in enumerate(field.shape[1:]):
        index = torch.arange(n, device=field.device).expand(len(field), n)
        matrices.append(smoothing_matrix(sigma_vox[:, axis], index, index, n, sigma_max_vox[axis]))
    return apply_matrices(field, matrices)

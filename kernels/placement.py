"""Where lesions go: an axial slice of the organ's middle, then a uniform pixel of what erosion leaves of it.

Everything is counting: voxels left per slice, a cumulative sum over slices, over rows, over a row. So the choice is exactly
uniform, needs no trial and error, and reads nothing back to the host. A slice in which nothing is left has weight zero, which is what
drawing another slice until one fits comes to.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpu_synth.kernels.rng import to_integer, to_uniform


class Placement(NamedTuple):
    """Where lesions may be put, and where they were."""

    centre_vox: Int[Tensor, "b slots 3"]
    possible: Bool[Tensor, " b"]


def place(
    organ: Bool[Tensor, "b i j k"],
    word: Int[Tensor, "b slots 2"],
    margin_vox: Sequence[int],
    extent: Float[Tensor, "2"],
    axial_axis: int = 2,
) -> Placement:
    """Choose a centre voxel for each lesion slot.

    Args:
        organ: Voxels of the organ.
        word: Two random words a slot: for the slice and for the pixel.
        margin_vox: Half width of the square that erodes each axial slice, one an axis (the axial entry is not used).
            What lies outside the array counts as organ: an organ cut by the border goes on there.
        extent: Lowest and highest share of the organ's axial extent to use.
        axial_axis: Which spatial axis is perpendicular to the axial slices.

    Returns:
        Centres in voxels, in the array's axis order, and whether the sample has any place at all (where it has none,
        its centres mean nothing).

    Source: Hu et al. 2022; facts on location: z0 + U(0.3, 0.7)·(z1 − z0) rounded, slice eroded by 5 × 5, uniform pixel.
    """
    in_plane = [axis for axis in range(3) if axis != axial_axis]
    eroded = erode(organ, [margin_vox[axis] if axis in in_plane else 0 for axis in range(3)])
    organ, eroded = (mask.movedim(1 + axial_axis, 3) for mask in (organ, eroded))
    per_row = eroded.sum(2, dtype=torch.int32)  # (b, i, k)
    per_slice = per_row.sum(1, dtype=torch.int32)  # (b, k)
    weight = _slice_weights(organ.any(2).any(1), extent) * (per_slice > 0)
    ends = weight.cumsum(-1)[:, None]
    axial = _pick(ends, to_uniform(word[..., 0])[..., None] * ends[..., -1:])  # below the last end, however it was rounded
    sample = torch.arange(len(organ), device=organ.device)[:, None]
    rank = to_integer(word[..., 1], 0, per_slice[sample, axial].to(torch.int64) - 1)[..., None]
    row_end = per_row.transpose(1, 2)[sample, axial].cumsum(-1)  # (b, slots, i)
    row = _pick(row_end, rank)
    before = torch.where(row > 0, row_end.gather(-1, (row - 1).clamp_min(0)[..., None])[..., 0], 0)
    line = eroded[sample, row, :, axial].cumsum(-1, dtype=torch.int32)  # (b, slots, j)
    centre = torch.empty(*row.shape, 3, dtype=torch.int64, device=organ.device)
    for axis, chosen in zip((*in_plane, axial_axis), (row, _pick(line, rank - before[..., None]), axial), strict=True):
        centre[..., axis] = chosen
    return Placement(centre, (weight > 0).any(-1))


def erode(mask: Bool[Tensor, "b i j k"], radius_vox: Sequence[int]) -> Bool[Tensor, "b i j k"]:
    """Erode a mask by a box of the given half widths; what lies outside the array counts as set."""
    out = mask
    for axis, radius in enumerate(radius_vox, start=1):
        source, n = out, out.shape[axis]
        out = source.clone() if radius else source
        for shift in range(1, min(radius, n - 1) + 1):
            out.narrow(axis, shift, n - shift).logical_and_(source.narrow(axis, 0, n - shift))
            out.narrow(axis, 0, n - shift).logical_and_(source.narrow(axis, shift, n - shift))
    return out


def _slice_weights(occupied: Bool[Tensor, "b k"], extent: Float[Tensor, "2"]) -> Float[Tensor, "b k"]:
    """Share of z0 + U(extent)·(z1 − z0) that rounds to each slice, up to a factor."""
    k = torch.arange(occupied.shape[1], dtype=torch.float32, device=occupied.device)
    first = torch.where(occupied, k, occupied.shape[1]).amin(-1, keepdim=True)
    height = torch.where(occupied, k, -1).amax(-1, keepdim=True) - first
    low = first + extent[0] * height
    high = torch.maximum(first + extent[1] * height, low + 1e-3)  # an extent of one point still has a slice
    overlap = (torch.minimum(k + 0.5, high) - torch.maximum(k - 0.5, low)).clamp_min(0.0)
    return torch.where(height > 0, overlap, (k == first).to(torch.float32))


def _pick(ends: Tensor, value: Tensor) -> Int[Tensor, "b slots"]:
    """Index of the bin that holds `value`, given the bins' cumulative ends along the last axis."""
    return (ends <= value).sum(-1).clamp_max(ends.shape[-1] - 1)

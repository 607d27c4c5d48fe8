"""Images at displaced positions: what of them moves, and its values between voxels.

Interpolation would smooth noise away, so only what a median keeps is moved: two passes of a median of five along i, j, k. Edges, ramps and
vessels of five voxels are in that smooth part; grain is not, and stays where it is.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gpu_synth.kernels import _host
from gpu_synth.kernels._masks import SIGNED

HALO_VOX = 4  # what two medians of five reach
_PLANES = 24  # worked on at a time on a host: what stays in cache


def to_write(image: Tensor, label: Tensor, donated: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Image and label to write into, copies where they are not donated; and the label as it is, which stays so while others read it."""
    if donated:
        return image.contiguous(), label.contiguous(), label.clone(memory_format=torch.contiguous_format)
    before = label.contiguous()
    return image.clone(memory_format=torch.contiguous_format), before.clone(), before


def smooth_part(image: Tensor, box: Sequence[tuple[int, int]]) -> Tensor:
    """Two passes of medians of five along i, j, k, on a box of the image, float32; NaN where any voxel in reach is not finite."""
    wide = [(max(0, start - HALO_VOX), min(n, end + HALO_VOX)) for (start, end), n in zip(box, image.shape[1:], strict=True)]
    field = image[(slice(None), *(slice(start, end) for start, end in wide))].to(torch.float32)
    field = (field - field).add_(field)  # infinities become NaN, which minima and maxima hand on
    beyond = [n for (start, end), (a, b) in zip(box[::-1], wide[::-1], strict=True) for n in (a - start + HALO_VOX, end + HALO_VOX - b)]
    if any(beyond):
        field = torch.nn.functional.pad(field[None], beyond, mode="replicate")[0]
    step = _PLANES if _host.on_host(field.device) else max(field.shape[1], 1)
    planes = [field[:, start : start + step + 2 * HALO_VOX] for start in range(0, field.shape[1] - 2 * HALO_VOX, step)]
    return torch.cat([_two_medians(part) for part in planes], 1)


def _two_medians(field: Tensor) -> Tensor:
    for axis in (1, 2, 3, 1, 2, 3):
        field = _median_of_five(field, axis)
    return field


def _median_of_five(field: Tensor, axis: int) -> Tensor:
    """Median along an axis, which becomes four shorter: of two minima the larger, of two maxima the smaller, and the middle."""
    n = field.shape[axis]
    low, high = (of(field.narrow(axis, 0, n - 1), field.narrow(axis, 1, n - 1)) for of in (torch.minimum, torch.maximum))
    low = torch.maximum(low.narrow(axis, 0, n - 4), low.narrow(axis, 3, n - 4))
    high = torch.minimum(high.narrow(axis, 0, n - 4), high.narrow(axis, 3, n - 4))
    lesser = torch.minimum(low, high)
    greater = torch.maximum(low, high, out=low)
    return torch.maximum(lesser, torch.minimum(greater, field.narrow(axis, 2, n - 4), out=greater), out=lesser)


class Along(NamedTuple):
    """Where voxels sample along one axis: offsets, in what may be sampled, of the two voxels beside that point; its way between."""

    low: Tensor
    high: Tensor
    part: Tensor


def along(at: Tensor, shift: Tensor, shape: Sequence[int], axis: int) -> Along:
    """Offsets of displaced positions, clamped to what may be sampled; alters `shift`.

    Args:
        at: Where the voxels are along the axis, in what may be sampled.
        shift: What is added to it, in voxels.
        shape: Voxels along i, j, k of what may be sampled.
        axis: 0, 1 or 2 for i, j or k.
    """
    stride, whole = math.prod(shape[axis + 1 :]), shift.floor()
    low = whole.to(torch.int64).add_(at)
    high = (low + 1).clamp_(0, shape[axis] - 1).mul_(stride)
    return Along(low.clamp_(0, shape[axis] - 1).mul_(stride), high, shift.sub_(whole))


def trilinear(field: Tensor, ways: Sequence[Along]) -> Tensor:
    """A field `(b, i, j, k)`, float32, at displaced positions: along k first, then j, then i."""
    of_i, of_j, of_k = ways
    lines = []
    for row in (of_i.low + of_j.low, of_i.low + of_j.high, of_i.high + of_j.low, of_i.high + of_j.high):
        first, second = gather(field, row + of_k.low), gather(field, row.add_(of_k.high))
        lines.append(second.sub_(first).mul_(of_k.part).add_(first))
    planes = [second.sub_(first).mul_(of_j.part).add_(first) for first, second in (lines[:2], lines[2:])]
    return planes[1].sub_(planes[0]).mul_(of_i.part).add_(planes[0])


def gather(field: Tensor, offset: Tensor) -> Tensor:
    """Voxels of each sample at offsets `(b, …)`."""
    bits = field.view(SIGNED.get(field.dtype, field.dtype))
    if len(field) == 1:
        return bits.reshape(-1).index_select(0, offset.flatten()).view_as(offset).view(field.dtype)  # faster on a host
    return bits.reshape(len(field), -1).gather(1, offset.flatten(1)).view_as(offset).view(field.dtype)

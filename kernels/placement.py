"""Where lesions go: an axial slice of the organ's middle, then a uniform pixel of what erosion leaves of it.

Everything is counting: voxels left per slice, a running sum over slices, over rows, over a row, all in integers. So the choice is exactly
uniform, the same on every device, needs no trial and error, and reads nothing back to the host. A slice in which nothing is left has
weight zero, which is what drawing another slice until one fits comes to.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gpu_synth.kernels import _launch
from gpu_synth.kernels._masks import some
from gpu_synth.kernels.rng import Purpose, to_integer, words

WEIGHT_ONE = 65536  # weight of a slice that is wholly in the extent


class Placement(NamedTuple):
    """Where lesions may be put, and where they were."""

    centre_vox: Int[Tensor, "b slots 3"]
    possible: Bool[Tensor, " b"]


class Site(NamedTuple):
    """Which voxels of a label lesions may be centred in.

    Attributes:
        organ_label: Number of the organ.
        tumor_label: Number of tumours: a sample that has one gets no other.
        margin_vox: Half width of the square that erodes each axial slice, one an axis (the axial entry is not used).
            What lies outside the array counts as organ: an organ cut by the border goes on there.
        axial_axis: Which spatial axis is perpendicular to the axial slices.
    """

    organ_label: int
    tumor_label: int
    margin_vox: tuple[int, int, int]
    axial_axis: int = 2

    @property
    def in_plane(self) -> tuple[int, int]:
        """The two axes of an axial slice: rows, columns."""
        row, column = (axis for axis in range(3) if axis != self.axial_axis)
        return row, column


def place(
    label: Int[Tensor, "b i j k"],
    site: Site,
    extent: tuple[float, float],
    slots: int,
    seed: int,
    uid: Int[Tensor, " b"],
    backend: str = "torch",
) -> Placement:
    """Choose a centre voxel for each lesion slot.

    Args:
        label: Labels.
        site: Which of their voxels lesions may be centred in.
        extent: Lowest and highest share of the organ's axial extent to use.
        slots: Lesion slots of a sample.
        seed: The run's seed.
        uid: The samples' ordinals in the run.
        backend: "torch" or "cupy".

    Returns:
        Centres in voxels, in the array's axis order, and whether the sample can hold a lesion: it has a place for one and no tumour
        (where it has no place, its centres mean nothing).

    Source: Hu et al. 2022; facts on location: z0 + U(0.3, 0.7)·(z1 − z0) rounded, slice eroded by 5 × 5, uniform pixel.
    """
    return (_place_cuda if backend == "cupy" else place_torch)(label, site, extent, slots, seed, uid)


def _place_cuda(label: Tensor, site: Site, extent: tuple[float, float], slots: int, seed: int, uid: Tensor) -> Placement:
    label = label.contiguous()
    b, *shape = label.shape
    axes = (*site.in_plane, site.axial_axis)
    rows, columns, axials = (shape[axis] for axis in axes)
    strides = [label.stride(1 + axis) for axis in axes]
    margins = [min(site.margin_vox[axis], shape[axis] - 1) for axis in site.in_plane]
    kind, organ = _launch.label_kind(label.dtype), site.organ_label
    sizes: list[object] = [rows, columns, axials, *strides, *margins]
    per_row = torch.empty(b, rows, axials, dtype=torch.int32, device=label.device)
    counts = torch.zeros(b, 2 * axials + 1, dtype=torch.int32, device=label.device)
    grid = (-(-rows * axials // 128), b, 1)
    _launch.launch("placement", "count_kernel", grid, (128, 1, 1), (per_row, counts, label, kind, organ, site.tumor_label, *sizes))
    centre = torch.empty(b, slots, 3, dtype=torch.int64, device=label.device)
    possible = torch.empty(b, dtype=torch.bool, device=label.device)
    key = [uid, *extent, _launch.key(seed), kind, organ]
    arguments: list[object] = [centre, possible, per_row, counts, label, *key, *sizes, *axes]
    _launch.launch("placement", "pick_kernel", (slots, b, 1), (128, 1, 1), arguments)
    return Placement(centre, possible)


def place_torch(label: Tensor, site: Site, extent: tuple[float, float], slots: int, seed: int, uid: Tensor) -> Placement:
    """Twin of the kernels."""
    organ = label == site.organ_label
    eroded = erode(organ, [site.margin_vox[axis] if axis in site.in_plane else 0 for axis in range(3)])
    organ, eroded = (mask.movedim(1 + site.axial_axis, 3) for mask in (organ, eroded))
    per_row = eroded.sum(2, dtype=torch.int32)  # (b, i, k)
    per_slice = per_row.sum(1, dtype=torch.int32)  # (b, k)
    weight = _slice_weights(some(organ, 1, 2), extent) * (per_slice > 0)
    ends = weight.cumsum(-1)[:, None]
    word = words(seed, uid, Purpose.PLACEMENT, slots, 2)
    axial = _pick(ends, to_integer(word[..., 0], 0, ends[..., -1] - 1)[..., None])
    sample = torch.arange(len(organ), device=organ.device)[:, None]
    rank = to_integer(word[..., 1], 0, per_slice[sample, axial].to(torch.int64) - 1)[..., None]
    row_end = per_row.transpose(1, 2)[sample, axial].cumsum(-1)  # (b, slots, i)
    row = _pick(row_end, rank)
    before = torch.where(row > 0, row_end.gather(-1, (row - 1).clamp_min(0)[..., None])[..., 0], 0)
    line = eroded[sample, row, :, axial].cumsum(-1, dtype=torch.int32)  # (b, slots, j)
    centre = torch.empty(*row.shape, 3, dtype=torch.int64, device=organ.device)
    for axis, chosen in zip((*site.in_plane, site.axial_axis), (row, _pick(line, rank - before[..., None]), axial), strict=True):
        centre[..., axis] = chosen
    has_tumor = some(label == site.tumor_label, 1, 2, 3)
    return Placement(centre, (weight > 0).any(-1) & ~has_tumor)


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


def _slice_weights(occupied: Bool[Tensor, "b k"], extent: tuple[float, float]) -> Int[Tensor, "b k"]:
    """Share of z0 + U(extent)·(z1 − z0) that rounds to each slice, in 65536ths of a slice."""
    k = torch.arange(occupied.shape[1], dtype=torch.float32, device=occupied.device)
    first = torch.where(occupied, k, occupied.shape[1]).amin(-1, keepdim=True)
    height = torch.where(occupied, k, -1).amax(-1, keepdim=True) - first
    low = first + extent[0] * height
    high = torch.maximum(first + extent[1] * height, low + 1e-3)  # an extent of one point still has a slice
    overlap = (torch.minimum(k + 0.5, high) - torch.maximum(k - 0.5, low)).clamp_min(0.0)
    return (torch.where(height > 0, overlap, (k == first).to(torch.float32)) * WEIGHT_ONE).round().to(torch.int64)


def _pick(ends: Tensor, value: Tensor) -> Int[Tensor, "b slots"]:
    """Index of the bin that holds `value`, given the bins' cumulative ends along the last axis."""
    return (ends <= value).sum(-1).clamp_max(ends.shape[-1] - 1)

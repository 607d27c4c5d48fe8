"""Mass effect: lesions push the tissue around them outward; image and organ label move alike, the image's noise stays.

A voxel x samples the point x + u(x). One lesion gives u = −s (1 − d/R)² (x − c) within R, the displacements of several add up. Its
Jacobian is symmetric with the eigenvalues −s (1 − d/R)², twice, and −s (1 − d/R)(1 − 3 d/R), which is never below the former. So as long
as Σ s (1 − d/R)² ≤ `COMPRESSION` < 1 everywhere, I + ∂u is symmetric and positive definite: the map is the gradient of a strictly convex
function, hence one to one, with a determinant of at least (1 − COMPRESSION)³; and what lies within reach of lesions stays within. One
lesion of strength s has the least determinant (1 − s)³, in its centre: 0.343 as published. Where lesions overlap, `lesion_table` cuts their
strengths so that the bound holds.

Interpolation at the new positions would smooth noise away: in a lesion of 10 to 40 mm, trilinear leaves 0.3 of white noise's power
between ¾ and 1 of Nyquist; the nearest voxel gives 1.2 to 1.4 of it between ¼ and ½. So only what a median keeps moves: the image gains
S(x + u) − S(x), S being two passes of a median of five along i, j, k. Edges, ramps and vessels of five voxels are in S; grain is not, and
stays. A Gaussian as S keeps the noise as well, but leaves half of every edge where it was.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpu_synth.kernels import _host, _launch
from gpu_synth.kernels._masks import chosen
from gpu_synth.kernels._resample import Along, along, gather, smooth_part, to_write, trilinear
from gpu_synth.kernels.shape import TILE_VOX

REACH = 1.3  # radii within which tissue moves
COMPRESSION = 0.6  # our choice: two lesions of the published strength may share a centre, and nothing is squeezed beyond 0.4 of its length
MOST_RADIUS_MM = 1e4
FARTHEST = 4 / 27  # the largest of u (1 − u)²: what one lesion moves, as a share of strength and reach


class Warped(NamedTuple):
    """Image and label after the mass effect."""

    image: Float[Tensor, "b i j k"]
    label: Int[Tensor, "b i j k"]


def warp(
    image: Float[Tensor, "b i j k"],
    label: Int[Tensor, "b i j k"],
    centre_vox: Float[Tensor, "b slots 3"],
    radius_mm: Float[Tensor, "b slots"],
    strength: Float[Tensor, "b slots"],
    active: Bool[Tensor, "b slots"],
    organ_label: int,
    spacing_mm: Sequence[float],
    origin_vox: Sequence[int] = (0, 0, 0),
    backend: str = "torch",
    donated: bool = False,
) -> Warped:
    """Push tissue away from lesions, in image and organ label.

    What no lesion reaches keeps its bits. A voxel stays as it is where it, or what its new value would be made of, is not finite: where it
    samples within 5 voxels of a NaN or an infinity. Fat beyond the organ's surface moves like the organ: that is what a bulge is. A
    structure that is thinner than 3 voxels along an axis counts as noise and stays.

    Args:
        image: HU, any floating type.
        label: Labels, any integer type; only organ and 0 take each other's place, and other numbers neither move nor are overwritten.
        centre_vox: Lesion centres in the whole; they may lie outside the array.
        radius_mm: Lesion radii; tissue moves within 1.3 of them.
        strength: Percent by which tissue at the centre is stretched, 30 as published; 0 or less is none. Cut where lesions overlap.
        active: Slots in use; so is no slot whose numbers are not finite.
        organ_label: Number of the organ.
        spacing_mm: Of the voxels, along i, j, k.
        origin_vox: First voxel of the array in the whole.
        backend: "torch" or "cupy".
        donated: Whether image and label are the caller's to give away: kernels then write into them.

    Returns:
        New tensors, or those that were donated, of the types given.

    Source: Hu et al. 2023 and facts on mass effect: output at x samples c + k (x − c), k = 1 − (I/100)(1 − d/R)², R = 1.3 r. The sum over
        lesions, its limit, and noise that stays are ours.
    """
    lesions = (centre_vox, radius_mm, strength, active)
    if backend == "cupy":
        return _warp_cuda(image, label, *lesions, organ_label, spacing_mm, origin_vox, donated)
    return warp_torch(image, label, *lesions, organ_label, spacing_mm, origin_vox)


def _warp_cuda(
    image: Tensor,
    label: Tensor,
    centre_vox: Tensor,
    radius_mm: Tensor,
    strength: Tensor,
    active: Tensor,
    organ_label: int,
    spacing_mm: Sequence[float],
    origin_vox: Sequence[int],
    donated: bool,
) -> Warped:
    image, label, old_label = to_write(image, label, donated)
    out, (b, *shape), slots = Warped(image, label), image.shape, active.shape[1]
    if slots == 0:
        return out
    (radii, radius_step), (strengths, strength_step) = _column(radius_mm), _column(strength)
    lesions = (centre_vox.float().contiguous(), radii, strengths, active.contiguous(), radius_step, strength_step)
    table = torch.empty(b, slots, 6, dtype=torch.float32, device=image.device)
    of_table: list[object] = [table, *lesions, slots, *spacing_mm]
    _launch.launch("warp", "table_kernel", (b, 1, 1), (256, 1, 1), of_table)
    smooth = torch.empty(image.shape, dtype=torch.float32, device=image.device)  # written near lesions only, and read nowhere else
    tiles = [-(-n // tile) for n, tile in zip(shape, TILE_VOX, strict=True)]
    grid, kinds = (tiles[2], tiles[0] * tiles[1], b), [_launch.image_kind(image.dtype), _launch.label_kind(label.dtype)]
    sizes: list[object] = [slots, *shape, *origin_vox, *spacing_mm]
    _launch.launch("warp", "smooth_kernel", grid, (256, 1, 1), [smooth, table, image, kinds[0], *sizes])
    arguments: list[object] = [*out, smooth, table, old_label, *kinds, organ_label, *sizes]
    _launch.launch("warp", "warp_kernel", grid, (256, 1, 1), arguments)
    return out


def _column(values: Float[Tensor, "b slots"]) -> tuple[Float[Tensor, " n"], int]:
    """Values that may be a column of a table, from the first on, and how far apart they stand: to copy them would be a launch."""
    values = values.float()
    if values.stride(0) != values.shape[1] * values.stride(1):
        values = values.contiguous()
    step = values.stride(1)
    return values.as_strided((1 + (values.numel() - 1) * step,), (1,)), step


def warp_torch(
    image: Tensor,
    label: Tensor,
    centre_vox: Tensor,
    radius_mm: Tensor,
    strength: Tensor,
    active: Tensor,
    organ_label: int,
    spacing_mm: Sequence[float],
    origin_vox: Sequence[int],
) -> Warped:
    """Twin of the kernels."""
    out, shape = Warped(image.clone(), label.clone()), image.shape[1:]
    table = lesion_table(centre_vox, radius_mm, strength, active, spacing_mm)
    spacing = [float(np.float32(mm)) for mm in spacing_mm]
    if not _host.on_host(image.device):
        everything = _Region([(0, n) for n in shape], [(0, n) for n in shape], list(range(table.shape[1])))
        _warp_region(out, image, label, table, everything, organ_label, spacing, origin_vox)
        return out
    for sample, rows in enumerate(table.tolist()):
        one = slice(sample, sample + 1)
        for region in _regions(rows, shape, spacing, origin_vox):
            _warp_region(Warped(*(x[one] for x in out)), image[one], label[one], table[one], region, organ_label, spacing, origin_vox)
    return out


def lesion_table(
    centre_vox: Float[Tensor, "b slots 3"],
    radius_mm: Float[Tensor, "b slots"],
    strength: Float[Tensor, "b slots"],
    active: Bool[Tensor, "b slots"],
    spacing_mm: Sequence[float],
) -> Float[Tensor, "b slots 6"]:
    """Centre in voxels, 1 / reach, push, and reach in mm of each slot; the push is 0 where it is not in use.

    The push is strength / 100, cut so that all of them together squeeze no tissue by more than `COMPRESSION`. Where lesions n and m both
    reach a point, (1 − d_m / R_m) is at most q = min(1, (R_n + R_m − |c_n − c_m|) / R_m), so Σ_m s_m q² bounds the sum over all that
    reach a point of n. Each push is divided by its bound over `COMPRESSION`, if that is more than one: the sum of what is left holds.
    """
    usable = active & centre_vox.isfinite().all(-1) & (radius_mm > 0) & (radius_mm <= MOST_RADIUS_MM) & strength.isfinite() & (strength > 0)
    reach_mm = torch.where(usable, radius_mm.double() * REACH, 1.0)
    push = torch.where(usable, strength.double() / 100.0, 0.0)
    centre = torch.where(usable[..., None], centre_vox.float(), 0.0)
    i, j, k = (centre[..., axis].double() * mm for axis, mm in enumerate(spacing_mm))
    i, j, k = (x[:, :, None] - x[:, None] for x in (i, j, k))
    overlap = (reach_mm[:, :, None] + reach_mm[:, None] - (i * i + j * j + k * k).sqrt()) / reach_mm[:, None]
    load = (push[:, None] * overlap.clamp(0.0, 1.0) ** 2).sum(-1)
    push = push * (COMPRESSION / load.clamp_min(COMPRESSION))
    return torch.cat([centre, torch.stack([1.0 / reach_mm, push, reach_mm], -1).float()], -1)


class _Region(NamedTuple):
    """Voxels to be worked on, those that they may sample, both in the array as start and end, and the slots that reach the former."""

    voxels: list[tuple[int, int]]
    sampled: list[tuple[int, int]]
    slots: list[int]


def _regions(rows: list[list[float]], shape: Sequence[int], spacing: list[float], origin_vox: Sequence[int]) -> Iterator[_Region]:
    """The box of each lesion, where it lies over the array and in no other: where boxes overlap, both yield the same voxels and result.

    A lesion moves what it reaches towards its own centre, hence within its box; only others can move it out, by what they move at most.
    """
    boxes: dict[int, list[tuple[int, int]]] = {}
    for slot, (*centre, _, push, reach_mm) in enumerate(rows):
        far = [(c - first, reach_mm / mm) for c, first, mm in zip(centre, origin_vox, spacing, strict=True)]
        box = [(max(0, math.ceil(c - r)), min(n, math.floor(c + r) + 1)) for (c, r), n in zip(far, shape, strict=True)]
        if push > 0.0 and all(start < end for start, end in box):
            boxes[slot] = box
    for own, box in boxes.items():
        if any(_within(box, other) and (slot < own or box != other) for slot, other in boxes.items()):
            continue
        slots = [slot for slot, other in boxes.items() if all(a < d and c < b for (a, b), (c, d) in zip(box, other, strict=True))]
        farthest_mm = FARTHEST * sum(rows[slot][4] * rows[slot][5] for slot in slots if slot != own)
        more = [math.ceil(farthest_mm / mm) + 1 for mm in spacing]
        sampled = [(max(0, start - m), min(n, end + m)) for (start, end), m, n in zip(box, more, shape, strict=True)]
        yield _Region(box, sampled, slots)


def _within(box: list[tuple[int, int]], other: list[tuple[int, int]]) -> bool:
    return all(c <= a and b <= d for (a, b), (c, d) in zip(box, other, strict=True))


def _warp_region(
    out: Warped,
    image: Tensor,
    label: Tensor,
    table: Tensor,
    region: _Region,
    organ_label: int,
    spacing: list[float],
    origin_vox: Sequence[int],
) -> None:
    """Warp a region of a batch, into `out`."""
    inside = (slice(None), *(slice(start, end) for start, end in region.voxels))
    sampled = (slice(None), *(slice(start, end) for start, end in region.sampled))
    ways = _ways(_displacement(table, region, spacing, origin_vox), region)
    smooth, old, labels = smooth_part(image, region.sampled), image[inside], label[inside]
    here = smooth[(slice(None), *(slice(a - c, b - c) for (a, b), (c, _) in zip(region.voxels, region.sampled, strict=True)))]
    change = trilinear(smooth, ways).sub_(here)
    new = old.to(torch.promote_types(old.dtype, torch.float32)).add(change).to(old.dtype)
    amount = change.abs()
    out.image[inside] = torch.where((amount > 0) & (amount < torch.inf), new, old)
    i, j, k = (torch.where(way.part < 0.5, way.low, way.high) for way in ways)
    there = gather(label[sampled], (i + j).add_(k))
    movable = ((labels == 0) | (labels == organ_label)) & ((there == 0) | (there == organ_label))
    out.label[inside] = chosen(movable, there, labels)


def _ways(shifts: list[Tensor], region: _Region) -> list[Along]:
    """Where the voxels of a region sample, in what they may sample."""
    shape, ways = [last - first for first, last in region.sampled], []
    for axis, ((start, end), (first, _), shift) in enumerate(zip(region.voxels, region.sampled, shifts, strict=True)):
        at = torch.arange(start - first, end - first, device=shift.device).view([-1 if dim == axis else 1 for dim in range(3)])
        ways.append(along(at, shift, shape, axis))
    return ways


def _displacement(table: Tensor, region: _Region, spacing: list[float], origin_vox: Sequence[int]) -> list[Tensor]:
    """What is added to a voxel's position along i, j, k, in voxels: each `(b, i, j, k)`; additions in the order of slots."""
    b = len(table)
    views = ((b, -1, 1, 1), (b, 1, -1, 1), (b, 1, 1, -1))
    axes = [torch.arange(start, end, device=table.device) + first for (start, end), first in zip(region.voxels, origin_vox, strict=True)]
    moved = [torch.zeros(b, *(end - start for start, end in region.voxels), device=table.device) for _ in axes]
    for slot in region.slots:
        row = table[:, slot]
        away = [(axis.float() - row[:, a, None]).view(view) for a, (axis, view) in enumerate(zip(axes, views, strict=True))]
        i, j, k = ((x * mm) ** 2 for x, mm in zip(away, spacing, strict=True))
        per_mm, push = row[:, 3].view(b, 1, 1, 1), row[:, 4].view(b, 1, 1, 1)
        distance_mm = (i + j).add(k).double().sqrt_().float()  # in float32, MKL's root is not rounded as IEEE and the kernel have it
        left = distance_mm.mul_(per_mm).neg_().add_(1.0).clamp_min_(0.0)
        share = (push * left).mul_(left)
        for shift, x in zip(moved, away, strict=True):
            shift.sub_(share * x)
    return moved

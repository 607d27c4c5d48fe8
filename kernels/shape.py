"""Lesion shapes: ellipsoids bent by three elastic displacement fields, each evaluated in its lesion's own box.

A field moves two axes and is the same along the third, so pulling back through it moves whole lines of voxels. The first bends a
disc, which costs a plane; the second gathers the disc's columns, 4 bytes a voxel, and compares them with the height left; the third
moves lines of a byte a voxel. All are exact on the voxel lattice, as the published method rounds displaced coordinates.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gpu_synth.kernels import _host, _launch
from gpu_synth.kernels._cached import cached, on_device

AXIS_PAIRS = ((0, 1), (1, 2), (0, 2))
TILE_VOX = (8, 8, 32)  # tiles.cuh
INSIDE = 1.0 - 1e-5  # integer radii tie often: (6/10)² + (8/10)² = 1 is outside


def box_vox(base_radius_mm: float, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """Shape of a lesion's box: four base radii a side, at least three voxels. Its voxel n // 2 is the lesion's centre."""
    i, j, k = (max(3, round(4.0 * base_radius_mm / spacing)) for spacing in spacing_mm)
    return i, j, k


@lru_cache(maxsize=64)
def boxes_vox(slot_radius_mm: tuple[float, ...], spacing_mm: tuple[float, float, float]) -> tuple[tuple[int, int, int], ...]:
    """Boxes of slots, by their base radii."""
    return tuple(box_vox(radius, spacing_mm) for radius in slot_radius_mm)


def lesion_masks(
    radii_vox: Float[Tensor, "l 3"], elastic_vox: Float[Tensor, "l 3 2 3 3"], box: tuple[int, int, int]
) -> Bool[Tensor, "l n0 n1 n2"]:
    """Evaluate deformed ellipsoids on their boxes.

    Args:
        radii_vox: Semi-axes in voxels.
        elastic_vox: Displacements at the 3 × 3 control points, in voxels: for each pair of `AXIS_PAIRS` and each of its two axes.
        box: Shape of the boxes.

    Returns:
        True inside the lesion; what is displaced from outside the box is not. Memory runs along j, then k, then i.

    Source: Hu et al. 2022; facts on shape: cubic B-spline with prefilter and mirror boundary on a 3 × 3 grid whose control points lie on
        the box's first, middle and last voxel; the displacement is added to the output coordinate, which is rounded.
    """
    n0, n1, n2 = box
    lesions, device = len(radii_vox), radii_vox.device
    q0, q1, q2 = (((torch.arange(n, device=device) - n // 2) / radii_vox[:, axis, None].clamp_min(1e-3)) ** 2 for axis, n in enumerate(box))
    (a, b, disc_out), (c, d, line_out), (e, f, out) = (
        _pulled_from(elastic_vox[:, pair], box[first], box[second]) for pair, (first, second) in enumerate(AXIS_PAIRS)
    )
    disc = torch.where(disc_out, torch.inf, q0.gather(1, a.flatten(1)).view_as(a) + q1.gather(1, b.flatten(1)).view_as(b))
    lines = disc.gather(2, c.transpose(1, 2).reshape(lesions, 1, n2 * n1).expand(-1, n0, -1))
    height = torch.where(line_out, -torch.inf, INSIDE - q2.gather(1, d.flatten(1)).view_as(d)).transpose(1, 2)
    mask = (lines < height.reshape(lesions, 1, n2 * n1)).view(lesions * n0 * n2, n1)
    source = (e * n2 + f).flatten(1) + n0 * n2 * torch.arange(lesions, device=device)[:, None]
    mask = mask.index_select(0, source.flatten()).view(lesions, n0, n2, n1)
    return mask.logical_and_(~out[..., None]).transpose(2, 3)


def _pulled_from(control: Float[Tensor, "l 2 3 3"], na: int, nb: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each lattice point of a plane, `(l, na, nb)`: the point it is pulled from, on either axis, and whether that is outside."""
    wa, wb = _spline_weights(na, str(control.device)), _spline_weights(nb, str(control.device))
    shift = torch.matmul(wa, torch.matmul(control, wb.T)).round().to(torch.int64)
    a = torch.arange(na, device=control.device)[:, None] + shift[:, 0]
    b = torch.arange(nb, device=control.device) + shift[:, 1]
    outside = (a < 0) | (a >= na) | (b < 0) | (b >= nb)
    return a.clamp_(0, na - 1), b.clamp_(0, nb - 1), outside


@lru_cache(maxsize=64)
def _spline_weights(n: int, device: str) -> Float[Tensor, "n 3"]:
    """Weights of three control values at n voxels: cubic B-spline, prefiltered, mirrored at the first and last control point."""
    position = np.arange(n)[:, None] * (2.0 / (n - 1)) - np.arange(-1, 4)[None]
    distance = np.abs(position)
    basis = np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6)
    mirrored = np.stack([basis[:, 1], basis[:, 0] + basis[:, 2] + basis[:, 4], basis[:, 3]], 1)
    prefilter = np.linalg.inv(np.array([[4, 2, 0], [1, 4, 1], [0, 2, 4]]) / 6)
    return torch.tensor(mirrored @ prefilter, dtype=torch.float32).to(device, non_blocking=True)


class Instances(NamedTuple):
    """Which lesion holds a voxel, and which tiles of 8 × 8 × 32 voxels hold any (for the kernels; the twins do without)."""

    number: Int[Tensor, "b i j k"]  # int16; 0 none, n the lesion in slot n − 1
    touched: UInt8[Tensor, "b ti tj tk"] | None


def instance_map(
    centre_vox: Int[Tensor, "b slots 3"],
    radii_mm: Float[Tensor, "b slots 3"],
    elastic_mm: Float[Tensor, "b slots 3 2 3 3"],
    boxes: Sequence[tuple[int, int, int]],
    active: Bool[Tensor, "b slots"],
    label: Int[Tensor, "b i j k"],
    organ_label: int,
    origin_vox: Sequence[int] = (0, 0, 0),
    backend: str = "torch",
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> Instances:
    """Number the voxels of every lesion; of several that hold a voxel, the lowest.

    Args:
        centre_vox: Lesion centres in the whole; they may lie outside the array.
        radii_mm: Semi-axes; in voxels, as the next, where no spacing is given.
        elastic_mm: Displacements at control points, see `lesion_masks`.
        boxes: Box of each slot in voxels; slots of equal box stand together.
        active: Slots in use.
        label: Labels of the array.
        organ_label: Number of the organ: only its voxels may be lesion.
        origin_vox: First voxel of the array in the whole.
        backend: "torch" or "cupy".
        spacing_mm: Along i, j, k.
    """
    run = _instance_map_cuda if backend == "cupy" else instance_map_torch
    return run(centre_vox, radii_mm, elastic_mm, boxes, active, label, organ_label, origin_vox, spacing_mm)


def _instance_map_cuda(
    centre_vox: Tensor,
    radii_mm: Tensor,
    elastic_mm: Tensor,
    boxes: Sequence[tuple[int, int, int]],
    active: Tensor,
    label: Tensor,
    organ_label: int,
    origin_vox: Sequence[int],
    spacing_mm: Sequence[float],
) -> Instances:
    label, (b, *shape) = label.contiguous(), label.shape
    table, spline, gain = _box_table(tuple(boxes), label.device)
    tiles = [-(-n // tile) for n, tile in zip(shape, TILE_VOX, strict=True)]
    number = torch.empty(label.shape, dtype=torch.int16, device=label.device)
    touched = torch.empty(b, *tiles, dtype=torch.uint8, device=label.device)
    lesions = [tensor.contiguous() for tensor in (centre_vox, radii_mm, elastic_mm, active)]
    sizes: list[object] = [gain, len(boxes), *shape, *origin_vox, *spacing_mm]
    arguments: list[object] = [number, touched, *lesions, table, spline, label, _launch.label_kind(label.dtype), organ_label, *sizes]
    _launch.launch("shape", "instance_map_kernel", (tiles[2], tiles[0] * tiles[1], b), (256, 1, 1), arguments)
    return Instances(number, touched)


@cached(maxsize=64)
def _box_table(boxes: tuple[tuple[int, int, int], ...], device: torch.device) -> tuple[Tensor, Tensor, float]:
    """Boxes as the kernel reads them, the spline weights of all their sides, and how far a displacement can exceed its control values."""
    sides = sorted({n for box in boxes for n in box})
    starts = dict(zip(sides, np.cumsum([0, *sides[:-1]]).tolist(), strict=True))
    weights = torch.cat([_spline_weights(n, "cpu") for n in sides])
    spline = torch.nn.functional.pad(weights, (0, 1))  # 16 bytes a point
    gain = 1.001 * float(weights.abs().sum(1).max()) ** 2
    table = torch.tensor([[*box, *(starts[n] for n in box)] for box in boxes], dtype=torch.int32)
    return table.to(device), spline.to(device), gain


def instance_map_torch(
    centre_vox: Tensor,
    radii_mm: Tensor,
    elastic_mm: Tensor,
    boxes: Sequence[tuple[int, int, int]],
    active: Tensor,
    label: Tensor,
    organ_label: int,
    origin_vox: Sequence[int],
    spacing_mm: Sequence[float],
) -> Instances:
    """Twin of the kernel."""
    moved_mm = tuple((spacing_mm[a], spacing_mm[b]) for a, b in AXIS_PAIRS)
    radii_vox = radii_mm / on_device(tuple(spacing_mm), label.device)
    elastic_vox = elastic_mm / on_device(moved_mm, label.device)[..., None, None]
    shape = label.shape[1:]
    canvas = torch.zeros(len(label), shape[0], shape[2], shape[1], dtype=torch.int16, device=label.device).transpose(2, 3)
    for box, alike in reversed([(box, list(slots)) for box, slots in groupby(range(len(boxes)), key=boxes.__getitem__)]):
        first, slots = alike[0], slice(alike[0], alike[-1] + 1)  # a list as index would be copied to the device, and waited for
        ahead = torch.tensor([origin + n // 2 for origin, n in zip(origin_vox, box, strict=True)])
        corner = centre_vox - ahead.to(label.device, non_blocking=True)
        if _host.on_host(label.device):  # here one may look which slots are in use, and where
            for sample, slot in reversed([(n, first + m) for n, m in active[:, slots].nonzero().tolist()]):
                mask = lesion_masks(radii_vox[sample, slot, None], elastic_vox[sample, slot, None], box)[0]
                _paste_at(canvas[sample], mask, corner[sample, slot].tolist(), slot + 1)
        else:
            masks = lesion_masks(radii_vox[:, slots].flatten(0, 1), elastic_vox[:, slots].flatten(0, 1), box)
            masks = masks.transpose(2, 3).view(len(label), len(alike), box[0], box[2], box[1]).transpose(3, 4)
            for n, slot in reversed(list(enumerate(alike))):
                _paste(canvas, masks[:, n], corner[:, slot], active[:, slot], slot + 1)
    return Instances(canvas.mul_(label == organ_label), None)


def _paste_at(canvas: Tensor, mask: Tensor, corner: Sequence[int], number: int) -> None:
    """Number a lesion's voxels in one sample's canvas, where the box lies over it."""
    over = [(max(0, c), min(size, c + n)) for c, n, size in zip(corner, mask.shape, canvas.shape, strict=True)]
    if all(start < end for start, end in over):
        inside = mask[tuple(slice(start - c, end - c) for (start, end), c in zip(over, corner, strict=True))]
        canvas[tuple(slice(start, end) for start, end in over)].masked_fill_(inside, number)


def _paste(canvas: Tensor, masks: Tensor, corner: Tensor, active: Tensor, number: int) -> None:
    """Do the same for a batch, where the host does not know the corners."""
    sample = torch.arange(len(canvas), device=canvas.device).view(-1, 1, 1, 1)
    index, inside = [], active.view(-1, 1, 1, 1)
    for axis, view in enumerate(((-1, 1, 1), (1, -1, 1), (1, 1, -1))):
        position = torch.arange(canvas.shape[1 + axis], device=canvas.device) - corner[:, axis, None]
        n = masks.shape[1 + axis]
        inside = inside & ((position >= 0) & (position < n)).view(len(canvas), *view)
        index.append(position.clamp(0, n - 1).view(len(canvas), *view))
    canvas.masked_fill_(masks[sample, index[0], index[1], index[2]] & inside, number)

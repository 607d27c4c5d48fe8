"""Grids of voxels: another spacing, another grid, and back onto the grid that a scan came from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from scipy.ndimage import affine_transform
from torch import Tensor

from gpu_synth.formats import scan_grid
from gpu_synth.volumes import Volume


def resample(volume: Volume, spacing_mm: Sequence[float], dtype: DTypeLike = np.float32) -> Volume:
    """Resample along the volume's own axes by linear interpolation, with anti-aliasing where the new grid is coarser.

    The field of view stays: both grids begin at the same outer face, and the last new voxel covers what is left. Where an axis becomes
    coarser, the interpolated line is averaged over a box of width √(new² − old²), so that thin structures and noise are averaged rather
    than skipped, and slopes stay where they are. Each axis is one small matrix, applied a slice at a time: that needs one intermediate
    copy of the volume, where sampling on a full grid of coordinates, as MONAI's Spacing does, needs several and does not average.

    Args:
        volume: (i, j, k), finite values.
        spacing_mm: wanted spacing, following i, j, k.
        dtype: of the result; integers are rounded. A 0/1 mask rounded is the mask of the voxels of which at least half is inside.

    Returns:
        The volume on the new grid, in Fortran order.
    """
    old = volume.spacing_mm
    steps = [new / was if abs(new / was - 1) > 1e-5 else 1.0 for new, was in zip(spacing_mm, old, strict=True)]
    ni, nj, nk = (max(1, int(np.ceil(n / step - 1e-3))) for n, step in zip(volume.data.shape, steps, strict=True))
    wi, wj, wk = (_weights(n, new, step) for n, new, step in zip(volume.data.shape, (ni, nj, nk), steps, strict=True))
    planes = torch.empty((volume.data.shape[2], nj, ni))
    for k, plane in enumerate(planes):
        plane.copy_(wj @ torch.from_numpy(volume.data[..., k].T.astype(np.float32)) @ wi.T)
    columns = planes.view(len(planes), -1)
    out = np.empty((nk, nj * ni), dtype)
    for at in range(0, columns.shape[1], 1 << 16):
        part = wk @ columns[:, at : at + (1 << 16)]
        out[:, at : at + (1 << 16)] = (part + 0.5).floor() if np.issubdtype(out.dtype, np.integer) else part
    affine = volume.affine.copy()
    affine[:3, :3] *= steps
    affine[:3, 3] += volume.affine[:3, :3] @ ((np.array(steps) - 1) / 2)
    return Volume(out.reshape(nk, nj, ni).transpose(2, 1, 0), affine, volume.placed)


def _weights(n: int, n_new: int, step: float) -> Tensor:
    """Weights (n_new, n) that turn n samples into n_new samples standing `step` old voxels apart; the rows add up to one."""
    centre = (torch.arange(n_new, dtype=torch.float64) + 0.5) * step - 0.5
    away = centre[:, None] - torch.arange(n)[None]
    width = max(step**2 - 1, 0.0) ** 0.5
    weights = _hat_integral(away + width / 2) - _hat_integral(away - width / 2) if width else (1 - away.abs()).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()


def _hat_integral(x: Tensor) -> Tensor:
    """Integral from −∞ to x of the hat 1 − |x|, which is the weight of a sample in linear interpolation."""
    x = x.clamp(-1, 1)
    return 0.5 + x - x * x.abs() / 2


def perpendicular(volume: Volume, outside: float) -> tuple[Volume, list[str]]:
    """Resample a volume whose axes are sheared, as a tilted gantry leaves them, onto perpendicular ones, by linear interpolation.

    The first axis keeps its direction, the second its plane; of axial slices each is therefore only moved within itself, as far as the
    tilt moved it. The grid grows until all voxels have room.

    Args:
        volume: (i, j, k), any number type; bool becomes float32, the share of a voxel that is inside.
        outside: value of what no voxel of the volume covers.

    Returns:
        The volume itself where it is sheared by less than half a voxel from end to end; and what was done, in words.
    """
    turn, upper = np.linalg.qr(volume.affine[:3, :3])
    signs = np.sign(np.diag(upper))
    turn, upper = turn * signs, upper * signs[:, None]
    spacing = np.diag(upper).copy()
    shear = upper / spacing[:, None]  # voxels of the volume to voxels of the new grid
    last = np.array(volume.data.shape) - 1
    moved = (shear - np.eye(3)) * last
    if np.abs(moved).max() < 0.5:
        return volume, []
    low, high = np.floor(np.minimum(moved, 0).sum(1) + 1e-6), np.ceil(last + np.maximum(moved, 0).sum(1) - 1e-6)
    back = np.linalg.inv(shear)
    source = volume.data.astype(np.float32) if volume.data.dtype == bool else volume.data
    data = np.empty((high - low + 1).astype(int), source.dtype, order="F")
    affine_transform(source, back, back @ low, output=data, order=1, mode="constant", cval=outside)
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = volume.affine[:3, 3] + affine[:3, :3] @ low
    degrees = np.rad2deg(np.arccos(np.clip(spacing / volume.spacing_mm, -1, 1))).max()
    told = f"the axes are not perpendicular (a gantry tilted by {degrees:.1f}°): resampled onto perpendicular ones"
    return Volume(data, affine, volume.placed), [told]


def placed_as(mask: Volume, shape: Sequence[int], affine: NDArray[np.float64], placed: bool) -> tuple[Volume, list[str]]:
    """Give a mask its image's grid, where the shapes agree and a header, its own or the image's, says nothing of its place.

    Args:
        mask: as it lies in its file.
        shape: (i, j, k) of the image.
        affine: (4, 4) of the image.
        placed: whether the image's header says where it lies.

    Returns:
        The mask, and what was taken for granted, in words.
    """
    if (mask.placed and placed) or tuple(shape) != mask.data.shape:
        return mask, []
    whose, taken = ("image", "the mask is taken voxel by voxel") if mask.placed else ("mask", "the image's is taken")
    return Volume(mask.data, affine), [f"the {whose}'s header gives no position (sform and qform codes are 0): {taken}"]


def same_grid(a: Volume, b: Volume) -> bool:
    """Whether two volumes share shape and place, corner by corner, to a tenth of a voxel."""
    return a.data.shape == b.data.shape and apart_mm(a, b) <= 0.1 * min(a.spacing_mm)


def apart_mm(a: Volume, b: Volume) -> float:
    """How far apart two volumes of one shape lie: the largest distance between their corners."""
    corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*a.data.shape, 1]
    return float(np.linalg.norm(corners @ (a.affine - b.affine).T, axis=1).max())


def onto_grid(mask: Volume, shape: Sequence[int], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Bring a share-of-voxel mask onto any other grid: linear interpolation, inside where at least half; outside its grid is 0.

    Args:
        mask: float32 occupancy, 0 to 1.
        shape: (i, j, k) of the wanted grid.
        affine: (4, 4), its voxels to RAS millimetres.

    Returns:
        0/1 mask of the wanted shape.
    """
    return (_interpolated(mask, shape, affine) >= 0.5).astype(np.uint8)


def _interpolated(volume: Volume, shape: Sequence[int], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values on another grid, linearly interpolated; 0 outside its own."""
    step = np.linalg.inv(volume.affine) @ affine
    values: NDArray[np.float32] = affine_transform(
        volume.data, step[:3, :3], step[:3, 3], output_shape=tuple(shape), output=np.float32, order=1, mode="grid-constant"
    )
    return values


def values_to_native(values: NDArray[np.float32], affine: NDArray[np.float64], source: str | Path) -> Volume:
    """Bring a map of values, such as probabilities, back onto the grid of the file that it was made from, as `to_native` does labels.

    Args:
        values: (i, j, k).
        affine: (4, 4), voxel to RAS millimetres.
        source: the CT file whose grid is wanted; only its header is read.

    Raises:
        VolumeError: the source cannot be read.
    """
    shape, native = scan_grid(source)
    return Volume(_interpolated(Volume(values, affine), shape, native), native)


def to_native(label: NDArray[Any], affine: NDArray[np.float64], source: str | Path) -> Volume:
    """Bring a label map back onto the grid of the file that it was made from, for instance a prediction on a prepared scan.

    Args:
        label: (i, j, k) integers, 0 background, 1 organ, 2 tumour (any numbers whose higher ones lie inside the lower).
        affine: (4, 4) of the label, voxel to RAS millimetres.
        source: the CT file whose grid is wanted; only its header is read.

    Returns:
        uint8 label with the source's shape, orientation and affine.

    Raises:
        VolumeError: the source cannot be read.
    """
    shape, native = scan_grid(source)
    out = np.zeros(shape, np.uint8)
    below = 0
    for value in np.unique(label[label > 0]).tolist():
        inside = onto_grid(Volume((label >= value).astype(np.float32), affine), shape, native)
        out += inside * np.uint8(value - below)
        below = value
    return Volume(out, native)

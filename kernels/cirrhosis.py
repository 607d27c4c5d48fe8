"""Cirrhosis: regenerative nodules all over an organ, and a surface that they make uneven.

**Nodules** are rounded cells with septa between them (`gpu_synth.kernels._nodules`). Their profile, of mean 0 and SD 1, is added to the
organ's HU, times an amplitude; the scan's own noise remains.

**Surface.** A voxel x takes what lies at x + u(x): the surface moves outward where a nodule lies under it, inward over septa. u points
along the normal, within a window of some 2 sigma about the surface (`gpu_synth.kernels._surface`; sigma is 2.4 mm at 1 mm). The profile is
taken at the surface's point next to x, so that along a normal u is the window times a constant. The window's slope is at most 0.68 / sigma;
a shift is at most 0.6 sigma, which takes a constant of 0.74 sigma: a flat surface's map has a Jacobian of at least 0.5, and nothing folds.
Edges and clefts squeeze more, and strengths count up to 0.35 sigma: in the phantom's livers, the least Jacobian found is 0.1.

Of the image, only what medians keep is moved (`gpu_synth.kernels._resample`): edges, not grain, which stays as it is. Noise keeps its
power that way, and a contour its smoothness; the voxel nearest to x + u would do neither.

Cost on a CPU, a 96³ patch: 384 operations a voxel for nodules; where there is a surface, three products of matrices for the mask, 42 minima
and maxima a voxel of the box around it, and some 30 gathers for each voxel near it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.kernels import _host, _launch
from gpu_synth.kernels._groups import groups
from gpu_synth.kernels._masks import chosen, finite, planes_with_some
from gpu_synth.kernels._nodules import FIELDS, WAVES, nodules, waves
from gpu_synth.kernels._resample import Along, along, smooth_part, to_write, trilinear
from gpu_synth.kernels._surface import MOST_VOX, Band, band, displacement, nearest_point, sigma_vox, slope_scale, weights
from gpu_synth.kernels.shape import TILE_VOX

MARGIN_VOX = 16  # around an organ is all that its change looks at
_WORK_BYTES = 8  # a voxel: profile and smooth part


class Cirrhotic(NamedTuple):
    """Image and label with cirrhosis."""

    image: Float[Tensor, "b i j k"]
    label: Int[Tensor, "b i j k"]


def cirrhosis(
    image: Float[Tensor, "b i j k"],
    label: Int[Tensor, "b i j k"],
    strength: Float[Tensor, " b"],
    nodule_hu: Float[Tensor, " b"],
    organ_label: int,
    spacing_mm: Sequence[float],
    seed: int,
    uid: Int[Tensor, " b"],
    origin_vox: Sequence[int] = (0, 0, 0),
    backend: str = "torch",
    donated: bool = False,
) -> Cirrhotic:
    """Make organs cirrhotic.

    Outside the organ, what lies farther than 8 voxels from its surface keeps its bits, and so does a voxel that is not finite. Near the
    surface, one whose new value would be made of what is not finite, within 5 voxels of where it samples, gets nodules alone.

    Args:
        image: HU, any floating type.
        label: Labels, any integer type; only organ and 0 take each other's place. Other numbers neither move nor are overwritten, and hold
            back the surface next to them.
        strength: Standard deviation of the surface's shift, mm: 0.3 is fine, 0.8 is coarse. It counts up to 0.35 sigma, 0.83 mm at 1 mm;
            no shift exceeds 0.6 sigma, 1.4 mm there, which takes a fifth of what is coarse: of 0.8 mm, some 0.6 come out at 1 mm. A
            sample of 0 or less, or of numbers that are not finite, stays as it is.
        nodule_hu: Standard deviation of the nodules' HU, negative for dark nodules. Typically 2 to 5.
        organ_label: Number of the organ.
        spacing_mm: Of the voxels, along i, j, k.
        seed: The run's seed: with uid, it draws the nodules.
        uid: The samples' ordinals in the run.
        origin_vox: First voxel of the array in the whole. A crop of a result is the result of the crop but within 8 voxels of its border.
        backend: "torch" or "cupy".
        donated: Whether image and label are the caller's to give away: kernels then write into them.

    Returns:
        New tensors, or those that were donated, of the types given.

    Source: facts on cirrhosis: regenerative nodules of 3 to 15 mm over the parenchyma, and a nodular surface (Hu et al. 2022, who give no
        formula). All else is our choice.
    """
    given = (image, label, strength, nodule_hu, organ_label, spacing_mm, seed, uid, origin_vox)
    return _cirrhosis_cuda(*given, donated) if backend == "cupy" else cirrhosis_torch(*given)


def _cirrhosis_cuda(
    image: Tensor,
    label: Tensor,
    strength: Tensor,
    nodule_hu: Tensor,
    organ_label: int,
    spacing_mm: Sequence[float],
    seed: int,
    uid: Tensor,
    origin_vox: Sequence[int],
    donated: bool,
) -> Cirrhotic:
    image, label, old_label = to_write(image, label, donated)
    every = (image, label, old_label, strength, nodule_hu, uid)
    for rows in groups(len(image), _WORK_BYTES):
        _alter_cuda([x[rows] for x in every], organ_label, spacing_mm, seed, origin_vox)
    return Cirrhotic(image, label)


def _alter_cuda(samples: Sequence[Tensor], organ_label: int, spacing_mm: Sequence[float], seed: int, origin_vox: Sequence[int]) -> None:
    """Make the organs of some samples cirrhotic, in place. A function of its own: what it needs is free before the next."""
    image, label, old_label, strength, nodule_hu, uid = samples
    (b, *shape), device = image.shape, image.device
    asked = [x.float().contiguous() for x in (strength, nodule_hu)]
    tiles = [-(-n // tile) for n, tile in zip(shape, TILE_VOX, strict=True)]
    grid, block = (tiles[2], tiles[0] * tiles[1], b), (256, 1, 1)
    kinds = [_launch.image_kind(image.dtype), _launch.label_kind(label.dtype)]
    wave = torch.empty(b, FIELDS, WAVES, 4, dtype=torch.float64, device=device)
    _launch.launch("cirrhosis", "waves_kernel", (b, 1, 1), (FIELDS * WAVES, 1, 1), [wave, uid.contiguous(), _launch.key(seed)])
    marks = torch.empty(b, *tiles, dtype=torch.uint8, device=device)
    _launch.launch("cirrhosis", "mark_kernel", grid, block, [marks, old_label, kinds[1], organ_label, *shape])
    profile = torch.empty(image.shape, dtype=torch.float32, device=device)  # near the organ only, and read nowhere else
    _launch.launch("cirrhosis", "nodules_kernel", grid, block, [profile, wave, marks, *asked, *shape, *origin_vox, *spacing_mm])
    smooth = torch.empty_like(profile)  # near the surface only
    _launch.launch("cirrhosis", "smooth_kernel", grid, block, [smooth, image, marks, *asked, kinds[0], *shape])
    read: list[object] = [smooth, profile, marks, old_label, *asked, *kinds, organ_label, *shape]
    _launch.launch("cirrhosis", "cirrhosis_kernel", grid, block, [image, label, *read, *_of_surface(tuple(spacing_mm))])


@lru_cache(maxsize=64)
def _of_surface(spacing_mm: tuple[float, ...]) -> tuple[float, ...]:
    """What the kernel is told of a surface: each axis' weights, a byte each, then each one's scale of slopes, sigma and spacing in mm."""
    bits = [sum(weight << 8 * distance for distance, weight in enumerate(weights(mm))) for mm in spacing_mm]
    return (*bits, *(x for mm in spacing_mm for x in (slope_scale(mm), sigma_vox(mm) * mm, mm)))


def cirrhosis_torch(
    image: Tensor,
    label: Tensor,
    strength: Tensor,
    nodule_hu: Tensor,
    organ_label: int,
    spacing_mm: Sequence[float],
    seed: int,
    uid: Tensor,
    origin_vox: Sequence[int],
) -> Cirrhotic:
    """Twin of the kernels."""
    out, wave = Cirrhotic(image.clone(), label.clone()), waves(seed, uid)
    usable = strength.isfinite() & (strength > 0) & nodule_hu.isfinite()
    strength, nodule_hu = (torch.where(usable, x.float(), 0.0) for x in (strength, nodule_hu))
    for sample in range(len(image)):
        box = _box(label[sample] == organ_label, usable[sample])
        if all(start < end for start, end in box):
            i, j, k = (slice(start, end) for start, end in box)
            profile, inside = nodules(wave[sample], box, spacing_mm, origin_vox), Cirrhotic(*(x[sample, i, j, k] for x in out))
            _alter(inside, profile, strength[sample], nodule_hu[sample], organ_label, spacing_mm)
    return out


def _box(organ: Tensor, usable: Tensor) -> list[tuple[int, int]]:
    """The organ, and what its change looks at around it; everything where nothing is looked at."""
    if not _host.on_host(organ.device):
        return [(0, n) for n in organ.shape]
    found = [some_of_it.nonzero()[:, 0].tolist() for some_of_it in planes_with_some(organ)]
    if not usable or not found[0]:
        return [(0, 0)] * 3
    return [(max(0, at[0] - MARGIN_VOX), min(n, at[-1] + 1 + MARGIN_VOX)) for at, n in zip(found, organ.shape, strict=True)]


def _alter(out: Cirrhotic, profile: Tensor, strength: Tensor, nodule_hu: Tensor, organ_label: int, spacing_mm: Sequence[float]) -> None:
    """Make the organ of one sample cirrhotic, in place: first its surface, then nodules in what is then organ."""
    organ = out.label == organ_label
    change, other = torch.zeros_like(profile), (out.label != 0) & ~organ
    near = band(organ, other, spacing_mm)
    if near is not None:
        away, sigma_mm = nearest_point(near, spacing_mm)
        wanted = trilinear(profile[None], _ways(near, away, organ.shape))
        ways = _ways(near, displacement(near, wanted, strength, sigma_mm, spacing_mm), organ.shape)
        organ = _move(out, change, near, ways, organ, other)
        out.label.copy_(chosen(organ, organ_label, chosen(~other, 0, out.label)))
    change.addcmul_(profile.mul_(nodule_hu), organ)
    changed = out.image.to(torch.promote_types(out.image.dtype, torch.float32)).add(change).to(out.image.dtype)
    out.image.copy_(torch.where((change != 0) & finite(out.image), changed, out.image))


def _ways(near: Band, moved: list[Tensor], shape: Sequence[int]) -> list[Along]:
    return [along(at, by, shape, axis) for axis, (at, by) in enumerate(zip(near.voxel, moved, strict=True))]


def _move(out: Cirrhotic, change: Tensor, near: Band, ways: list[Along], organ: Tensor, other: Tensor) -> Tensor:
    """Write down by how much HU change near the surface, and return where the organ then is."""
    sampled = [(0, n) for n in organ.shape]
    if _host.on_host(organ.device):
        far = int(MOST_VOX) + 1
        ends = [(int(at.min()) - far, int(at.max()) + far + 1) for at in near.voxel]
        sampled = [(max(0, start), min(n, end)) for (start, end), n in zip(ends, organ.shape, strict=True)]
    smooth = torch.empty_like(change)
    i, j, k = (slice(start, end) for start, end in sampled)
    smooth[i, j, k] = smooth_part(out.image[None], sampled)[0]
    difference = trilinear(smooth[None], ways).sub_(smooth.view(-1)[near.offset])
    inside = trilinear(organ[None].float(), ways) >= 0.5
    movable = difference.isfinite()
    free = torch.ones_like(inside) if near.free is None else (trilinear(other[None].float(), ways) == 0) & ~other.reshape(-1)[near.offset]
    change.view(-1)[near.offset] = torch.where(movable & free, difference, 0.0)
    moved = organ.flatten().clone()
    moved[near.offset] = torch.where(free, inside, moved[near.offset])
    return moved.view(organ.shape)

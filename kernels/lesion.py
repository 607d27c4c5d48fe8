"""Lesions as radiologists know them, painted voxel by voxel: outline, soft edge, body, core, rim, texture, specks, capsule and halo.

A voxel sees a lesion through three numbers: how far along its ray from the centre it lies, as a share of the outline (1 at the surface);
how far from the surface, in mm; and where in the lesion's texture. What is added to it depends on these and on nothing else, so that a
crop is painted as the whole would be, and the scan's own noise and grain remain. The capsule is a bright rim on the surface, Gaussian
across; the halo fades outward from there, as (1 − s / width)².

Cost: 24 waves for the outline and 12 for the texture a voxel in reach of a lesion; image and label are read and written once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpu_synth.kernels import _host, _launch
from gpu_synth.kernels._columns import Trait
from gpu_synth.kernels._masks import chosen, finite
from gpu_synth.kernels._organ_field import QUARTERS
from gpu_synth.kernels._outline import radius_at, rotation, texture_at, waves
from gpu_synth.kernels.growth import Grown

RIM_AT, RIM_WIDTH = 0.88, 0.10  # of the way from centre to surface
CORE_WIDTH = 0.12
SPECK_SCALE, SPECK_WIDTH = 0.8, 0.4  # of the texture's wavelength; of its standard deviation
SPECK_AT, SPECK_FADE = 0.6, 0.25  # of the way to the surface: specks lie in the inner part
FAR_SIGMAS = 4.0
_CHUNK = 1 << 14  # voxels


class Painted(NamedTuple):
    """What came of it."""

    number: Int[Tensor, "b i j k"]  # int16; 0 none, n the lesion in slot n − 1
    occupancy: Float[Tensor, "b i j k"]  # share of each voxel that is lesion


def paint_(
    image: Float[Tensor, "b i j k"],
    label: Int[Tensor, "b i j k"],
    centre_vox: Float[Tensor, "b slots 3"],
    lesion: Float[Tensor, "b slots traits"],
    active: Bool[Tensor, "b slots"],
    seed: int,
    uid: Int[Tensor, " b"],
    spacing_mm: Sequence[float],
    origin_vox: Sequence[int],
    organ_label: int,
    tumor_label: int,
    backend: str = "torch",
    grown: Grown | None = None,
    foreign: Int[Tensor, "b i j k"] | None = None,
    maps: bool = True,
) -> Painted | None:
    """Paint lesions into image and label, in place, inside the organ.

    Args:
        image: HU, any floating type.
        label: Labels, any integer type.
        centre_vox: Centres in the whole.
        lesion: What each is like, see `Trait`.
        active: Slots in use.
        seed: The run's seed: with uid and slot, it draws the waves of outlines and textures.
        uid: The samples' ordinals in the run.
        spacing_mm: Along i, j, k.
        origin_vox: First voxel of the array in the whole.
        organ_label: Number of the organ.
        tumor_label: Number of tumours.
        backend: "torch" or "cupy".
        grown: Lesions that have grown, in this array: their shape is what they invaded, not their outline.
        foreign: By how much vessels are brighter than the organ, and fat in its mask darker, in quarters of an HU, see `tissue.excess`:
            lesions take their place. None: they shine through.
        maps: Whether the result is wanted; None is returned otherwise.

    Returns:
        Which lesion holds a voxel, and how much of the voxel is lesion. Of lesions over each other, the one in which a voxel lies deepest,
        by its own edge's width, colours it, the lower slot where they are even; the lowest slot that reaches it gives it its number.

    Source: facts on effects: the capsule is a rim of 25 to 120 HU blurred by 0.8 voxels of 1 mm (Hu et al. 2023). All else is our choice.
    """
    given = (image, label, centre_vox, lesion, active, seed, uid, spacing_mm, origin_vox, organ_label, tumor_label, grown, foreign)
    if backend == "cupy":
        return _paint_cuda_(*given, maps)
    painted = paint_torch_(*given)
    return painted if maps else None


def _paint_cuda_(
    image: Tensor,
    label: Tensor,
    centre_vox: Tensor,
    lesion: Tensor,
    active: Tensor,
    seed: int,
    uid: Tensor,
    spacing_mm: Sequence[float],
    origin_vox: Sequence[int],
    organ_label: int,
    tumor_label: int,
    grown: Grown | None,
    foreign: Tensor | None,
    maps: bool,
) -> Painted | None:
    b, ni, nj, nk = label.shape
    made = Painted(*(torch.empty(label.shape, dtype=kind, device=label.device) for kind in (torch.int16, torch.float32))) if maps else None
    kinds = (_launch.image_kind(image.dtype), _launch.label_kind(label.dtype), organ_label, tumor_label)
    given = [_launch.NULL if x is None else x.contiguous() for x in (*(grown[:3] if grown else (None, None, None)), foreign)]
    fields = (image, label, *(made or [_launch.NULL] * 2), centre_vox, lesion, active, *given)
    arguments = (*fields, uid, _launch.key(seed), *kinds, active.shape[1], ni, nj, nk, *spacing_mm, *origin_vox)
    grid = (ni * -(-nj // 8), -(-nk // 32), b)  # of a plane of 1024² there are more than 65535, which only x takes
    _launch.launch("lesion", "paint_kernel", grid, (256, 1, 1), arguments)
    return made


def paint_torch_(
    image: Tensor,
    label: Tensor,
    centre_vox: Tensor,
    lesion: Tensor,
    active: Tensor,
    seed: int,
    uid: Tensor,
    spacing_mm: Sequence[float],
    origin_vox: Sequence[int],
    organ_label: int,
    tumor_label: int,
    grown: Grown | None,
    foreign: Tensor | None,
) -> Painted:
    """Twin of the kernel."""
    organ = label == organ_label
    number, occupancy = torch.zeros_like(label, dtype=torch.int16), torch.zeros_like(label, dtype=torch.float32)
    change, depth = torch.zeros_like(occupancy), torch.full_like(occupancy, -torch.inf)
    centre = centre_vox - torch.tensor(origin_vox, dtype=torch.float32).to(label.device, non_blocking=True)
    lesions = _Known.of(lesion, waves(seed, uid, active.shape[1]))
    for sample in range(len(label)):
        for slot in range(active.shape[1]):
            if _host.on_host(label.device) and not active[sample, slot]:
                continue
            one, at = lesions[sample, slot], centre[sample, slot]
            box = _box(one.reach_mm, at, spacing_mm, label)
            of_sample = (sample, slice(*box[0]), slice(*box[1]), slice(*box[2]))
            offset_mm = _offsets(box, at, spacing_mm)
            if grown is None:
                seen = _seen(one, offset_mm)
            else:
                invaded = grown.number[of_sample] == slot + 1
                seen = _seen_grown(one, offset_mm, invaded, grown.time[of_sample], grown.stop[sample, slot])
            more = (seen.depth > depth[of_sample]) & active[sample, slot]
            for field, value in ((depth, seen.depth), (occupancy, seen.held), (change, seen.change)):
                field[of_sample] = torch.where(more, value, field[of_sample])
            first = (seen.depth > 0) & active[sample, slot] & (number[of_sample] == 0)
            number[of_sample] = torch.where(first, slot + 1, number[of_sample])
    if foreign is not None:
        change -= occupancy * (foreign / QUARTERS)
    occupancy.mul_(organ)
    number.mul_(organ)
    changed = image.to(torch.promote_types(image.dtype, torch.float32)).add(change).to(image.dtype)
    image.copy_(torch.where(organ & (change != 0) & finite(image), changed, image))
    label.copy_(chosen(number > 0, tumor_label, label))
    return Painted(number, occupancy)


@dataclass(frozen=True)
class _Known:
    """What voxels are told of lesions, by sample and slot, or of one: on a host numbers, which spare hundreds of operations on tensors."""

    trait: Any  # by `Trait`
    reach_mm: Any
    beyond_mm: Any
    to_axes: Float[Tensor, "... 3 3"]  # from mm to semi-axes
    outline: Float[Tensor, "... 3"]
    most: Float[Tensor, "..."]
    wave: Float[Tensor, "... waves 4"]

    @classmethod
    def of(cls, lesion: Float[Tensor, "b slots traits"], wave: Float[Tensor, "b slots waves 4"]) -> "_Known":
        trait, reach, beyond = (x.tolist() if _host.on_host(x.device) else x for x in (lesion, reach_mm(lesion), _beyond_mm(lesion)))
        axes_mm, outline = lesion[..., Trait.AXES : Trait.AXES + 3], lesion[..., Trait.IRREGULARITY : Trait.IRREGULARITY + 3]
        to_axes = rotation(lesion[..., Trait.ROTATION : Trait.ROTATION + 4]).mT / axes_mm[..., None]
        return cls(trait, reach, beyond, to_axes, outline, lesion[..., Trait.REACH], wave)

    def __getitem__(self, at: tuple[int, int]) -> "_Known":
        sample, slot = at
        return _Known(*(getattr(self, field.name)[sample][slot] for field in fields(self)))


class _Seen(NamedTuple):
    """What voxels see of a lesion."""

    depth: Tensor  # below the surface, in edge widths; −∞ where nothing of it is seen
    held: Tensor  # share of the voxel that is lesion
    change: Tensor  # HU


def _box(far: float, centre_vox: Tensor, spacing_mm: Sequence[float], label: Tensor) -> list[tuple[int, int]]:
    """Voxels that a lesion can reach; everything where nothing is looked at."""
    if not _host.on_host(label.device):
        return [(0, n) for n in label.shape[1:]]
    ends = []
    for at, spacing, n in zip(centre_vox.tolist(), spacing_mm, label.shape[1:], strict=True):
        start = min(n, max(0, math.floor(at - far / spacing)))
        ends.append((start, max(start, min(n, math.ceil(at + far / spacing) + 1))))
    return ends


def _offsets(box: list[tuple[int, int]], centre_vox: Tensor, spacing_mm: Sequence[float]) -> Float[Tensor, "3 i j k"]:
    """Positions of a box's voxels relative to a centre, in mm."""
    axes = [
        (torch.arange(start, end, device=centre_vox.device, dtype=torch.float32) - centre_vox[axis]) * spacing
        for axis, ((start, end), spacing) in enumerate(zip(box, spacing_mm, strict=True))
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def reach_mm(lesion: Float[Tensor, "... traits"]) -> Float[Tensor, "..."]:
    """How far from its centre a lesion changes anything: its longest axis, as far as its outline goes, and what is beyond."""
    return lesion[..., Trait.AXES : Trait.AXES + 3].amax(-1) * lesion[..., Trait.REACH] + _beyond_mm(lesion)


def _beyond_mm(lesion: Tensor) -> Tensor:
    """How far beyond the surface a lesion changes anything: its edge, its capsule, its halo."""
    capsule_mm = torch.where(lesion[..., Trait.CAPSULE] != 0, FAR_SIGMAS * lesion[..., Trait.CAPSULE_MM], 0.0)
    halo_mm = torch.where(lesion[..., Trait.HALO] != 0, lesion[..., Trait.HALO_MM], 0.0)
    return torch.maximum(FAR_SIGMAS * lesion[..., Trait.EDGE], torch.maximum(capsule_mm, halo_mm))


def _seen(one: _Known, offset_mm: Tensor) -> _Seen:
    """What a box of voxels sees of a lesion."""
    offset = offset_mm.flatten(1)
    in_axes = torch.matmul(one.to_axes, offset)
    rho, distance = in_axes.square().sum(0).sqrt().clamp_min(1e-6), offset.square().sum(0).sqrt()
    length = torch.where(rho > 1e-5, distance / rho, one.trait[Trait.RADIUS])
    everywhere = _unseen(rho)
    for near in _near((rho - one.trait[Trait.REACH]) * length < one.beyond_mm):
        reach = radius_at(one.wave, (in_axes[:, near] / rho[near]).mT, one.outline, one.most)
        surface_mm = (rho[near] - reach) * length[near]
        seen = _coloured(one, rho[near] / reach, surface_mm, offset[:, near].mT)
        for whole, part in zip(everywhere, seen, strict=True):
            whole[near] = part
    return _Seen(*(whole.view(offset_mm.shape[1:]) for whole in everywhere))


def _seen_grown(one: _Known, offset_mm: Tensor, invaded: Tensor, time: Tensor, stop: Tensor) -> _Seen:
    """What a box of voxels sees of a lesion that has grown: what it invaded last is its surface, what it invaded first its middle."""
    offset, everywhere = offset_mm.flatten(1), _unseen(invaded.flatten())
    for near in _near(invaded.flatten()):
        way = time.flatten()[near] / (stop + 1).to(torch.float32)
        seen = _coloured(one, way, one.trait[Trait.RADIUS] * (way - 1.0), offset[:, near].mT)
        for whole, part, unseen in zip(everywhere, seen, (-torch.inf, 0.0, 0.0), strict=True):
            whole[near] = torch.where(invaded.flatten()[near], part, unseen)
    return _Seen(*(whole.view(invaded.shape) for whole in everywhere))


def _unseen(like: Tensor) -> _Seen:
    nothing = torch.zeros(like.shape, device=like.device)
    return _Seen(torch.full_like(nothing, -torch.inf), nothing, nothing.clone())


def _near(there: Tensor) -> Sequence[Tensor | slice]:
    """Voxels that are looked at: on a host, those in reach, as many at a time as stay in cache."""
    return torch.split(there.nonzero()[:, 0], _CHUNK) if _host.on_host(there.device) else [slice(None)]


def _coloured(one: _Known, way: Tensor, surface_mm: Tensor, offset_mm: Tensor) -> _Seen:
    """What voxels see of a lesion, given how far along the way to its surface and from it they lie."""
    trait, there = one.trait, surface_mm < one.beyond_mm
    edge = trait[Trait.EDGE]
    held = torch.where(surface_mm < FAR_SIGMAS * edge, 0.5 * torch.erfc(surface_mm / (edge * 2.0**0.5)), 0.0)
    added = trait[Trait.TEXTURE] * texture_at(one.wave, offset_mm / trait[Trait.TEXTURE_MM]) + trait[Trait.BODY]
    if _used(trait[Trait.CORE]):
        added += trait[Trait.CORE] * (1.0 - _step((way - trait[Trait.CORE_SHARE]) / CORE_WIDTH))
    if _used(trait[Trait.RIM]):
        added += trait[Trait.RIM] * torch.exp(-(((way - RIM_AT) / RIM_WIDTH) ** 2))
    if _used(trait[Trait.SPECK]):
        speck = texture_at(one.wave, offset_mm / (SPECK_SCALE * trait[Trait.TEXTURE_MM])) - trait[Trait.SPECK_SHARE]
        added += trait[Trait.SPECK] * (_step(speck / SPECK_WIDTH) * (1.0 - _step((way - SPECK_AT) / SPECK_FADE)))
    change = added.mul_(held)
    if _used(trait[Trait.CAPSULE]):
        across = surface_mm / trait[Trait.CAPSULE_MM]
        change += trait[Trait.CAPSULE] * torch.exp(-0.5 * across * across)
    if _used(trait[Trait.HALO]):
        change += trait[Trait.HALO] * (1.0 - surface_mm.clamp_min(0.0) / trait[Trait.HALO_MM]).clamp_min(0.0) ** 2 * (1.0 - held)
    depth = torch.where(there, -surface_mm / edge, -torch.inf)
    return _Seen(depth, torch.where(there, held, 0.0), torch.where(there, change, 0.0))


def _used(amount: Any) -> bool:
    """Whether something may be seen; where values are not looked at, anything may."""
    return isinstance(amount, Tensor) or amount != 0


def _step(x: Tensor) -> Tensor:
    """From 0 to 1 as x goes from −1 to 1, smoothly."""
    x = (0.5 * x + 0.5).clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)

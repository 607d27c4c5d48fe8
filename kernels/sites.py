"""Where lesions of known size go: a voxel of the organ, drawn again where the lesion would reach a vessel or another lesion.

Every slot draws the same number of candidates, each uniform over the organ's voxels by rank, or as likely as a map has it, and takes the
first that fits; so nothing is read back, the choice is uniform over all places that fit, and a lesion for which none of them does is left
out. Satellites and lesions of a cluster draw their candidates around the lesion that they belong to, once that one has its place.

Cost: 1 byte read a voxel; for each lesion 64 candidates, with 256 looks at the vessel map each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gpu_synth.kernels import _host, _launch
from gpu_synth.kernels._cached import cached
from gpu_synth.kernels._columns import Trait
from gpu_synth.kernels._masks import some
from gpu_synth.kernels._outline import radius_at, rotation, waves
from gpu_synth.kernels.rng import Purpose, to_integer, to_uniform, words

CANDIDATES, LOOKS, SLOTS = 64, 256, 64
_AT_A_TIME = 8  # candidates that a host looks at: most lesions take one of the first
_FREE, _OUTSIDE, _VESSEL = 0, 1, 2  # what a voxel is to a lesion
WIDE_MM = 2.0
DENT = 0.15  # of the surface's distance: what stands out of an outline beside a direction
MOST_TOTAL = 2**31 - 1  # of the map's integers over a sample


class Wanted(NamedTuple):
    """Lesions that want a place.

    Attributes:
        lesion: What each is like: axes, orientation and reach; `PARENT`, the slot of the lesion near which it lies, an earlier one, −1
            where it lies anywhere; and `WITHIN_MM`, how far off that one's surface its centre lies at most.
        active: Slots in use.
        given_vox: Centres that are set, whatever is there, and which others keep away from: NaN where they are to be chosen; None where
            all are.
    """

    lesion: Float[Tensor, "b slots traits"]
    active: Bool[Tensor, "b slots"]
    given_vox: Float[Tensor, "b slots 3"] | None = None

    @property
    def reach_mm(self) -> Float[Tensor, "b slots"]:
        """How far each reaches from its centre."""
        return self.lesion[..., Trait.AXES : Trait.AXES + 3].amax(-1) * self.lesion[..., Trait.REACH]


class Rule(NamedTuple):
    """What keeps a lesion from a place.

    Attributes:
        apart_mm: Distance that lesions keep from each other; below −1000 they need not.
        avoid_to_mm: Radius up to which lesions keep away from vessels; larger ones need not.
        inside_share: Least share of the ball that a lesion reaches that lies in the organ; what lies beyond the array counts as if it did.
    """

    apart_mm: float
    avoid_to_mm: float
    inside_share: float


class Maps(NamedTuple):
    """What voxels say of themselves.

    Attributes:
        label: Labels of any integer type.
        vessel: Voxels that no lesion may reach; None where lesions may reach any.
        where: How likely a voxel of the organ is a centre, as integers that add up to `MOST_TOTAL` at most; None where all are alike.
    """

    label: Int[Tensor, "b i j k"]
    vessel: UInt8[Tensor, "b i j k"] | None = None
    where: UInt8[Tensor, "b i j k"] | None = None


class Sites(NamedTuple):
    """Where lesions are."""

    centre_vox: Float[Tensor, "b slots 3"]
    placed: Bool[Tensor, "b slots"]
    at_surface: Bool[Tensor, "b slots"]  # whether a lesion's ball reaches beyond the organ
    possible: Bool[Tensor, " b"]  # an organ, and no tumour yet


def sites(
    maps: Maps,
    wanted: Wanted,
    rule: Rule,
    spacing_mm: Sequence[float],
    organ_label: int,
    tumor_label: int,
    seed: int,
    uid: Int[Tensor, " b"],
    backend: str = "torch",
) -> Sites:
    """Choose a centre for every active lesion.

    Args:
        maps: Labels, vessels, and where lesions are likely.
        wanted: What is to be placed.
        rule: What keeps lesions from a place.
        spacing_mm: Along i, j, k.
        organ_label: Number of the organ; a lesion's centre lies in it, unless it is given.
        tumor_label: Number of tumours: a sample that has one gets no other.
        seed: The run's seed.
        uid: The samples' ordinals in the run.
        backend: "torch" or "cupy".

    Source: Hu et al. 2023: a lesion whose radius reaches a vessel is drawn again.
    """
    run = _sites_cuda if backend == "cupy" else sites_torch
    if maps.vessel is not None:
        maps = maps._replace(vessel=widened(maps.vessel, spacing_mm, backend))
    return run(maps, wanted, rule, spacing_mm, organ_label, tumor_label, seed, uid)


def _sites_cuda(
    maps: Maps,
    wanted: Wanted,
    rule: Rule,
    spacing_mm: Sequence[float],
    organ_label: int,
    tumor_label: int,
    seed: int,
    uid: Tensor,
) -> Sites:
    label, vessel, where = (_launch.NULL if x is None else x.contiguous() for x in maps)
    lesion, active, given = (_launch.NULL if x is None else x.contiguous() for x in wanted)
    b, ni, nj, nk = maps.label.shape
    slots, lines, device = wanted.active.shape[1], ni * nj, maps.label.device
    if slots > SLOTS:
        raise ValueError(f"lesions must be at most {SLOTS} for backend 'cupy', got {slots}; lower the preset's count")
    kind = (_launch.label_kind(maps.label.dtype), organ_label)
    in_line, ends = (torch.empty(b, ni * nj, dtype=torch.int64, device=device) for _ in range(2))
    seen = torch.zeros(b, dtype=torch.int32, device=device)
    arguments: list[object] = [in_line, seen, label, where, *kind, tumor_label, lines, nk]
    _launch.launch("sites", "lines_kernel", (-(-ni * nj // 128), b, 1), (128, 1, 1), arguments)
    _launch.launch("sites", "ends_kernel", (b, 1, 1), (128, 1, 1), (ends, in_line, lines))
    centre = torch.empty(b, slots, CANDIDATES, 3, dtype=torch.float32, device=device)
    clear = torch.empty(b, slots, CANDIDATES, dtype=torch.bool, device=device)
    looks, extents = look_offsets(str(device)), [ni, nj, nk, *spacing_mm]
    scene: list[object] = [
        label,
        vessel,
        looks,
        lesion,
        uid,
        _launch.key(seed),
        rule.avoid_to_mm,
        int((1.0 - rule.inside_share) * LOOKS),
        *kind,
        *extents,
    ]
    _launch.launch("sites", "candidates_kernel", (slots, b, 1), (128, 1, 1), [centre, clear, ends, where, *scene])
    chosen, placed, at_surface, possible = (
        torch.empty(b, *size, dtype=dtype, device=device)
        for size, dtype in (((slots, 3), torch.float32), ((slots,), torch.bool), ((slots,), torch.bool), ((), torch.bool))
    )
    rest = (seen, rule.apart_mm, slots)
    arguments = [chosen, placed, at_surface, possible, centre, clear, active, given, *rest, *scene]
    _launch.launch("sites", "choose_kernel", (b, 1, 1), (128, 1, 1), arguments)
    return Sites(chosen, placed, at_surface, possible)


def sites_torch(
    maps: Maps,
    wanted: Wanted,
    rule: Rule,
    spacing_mm: Sequence[float],
    organ_label: int,
    tumor_label: int,
    seed: int,
    uid: Tensor,
) -> Sites:
    """Twin of the kernels."""
    label, (b, slots), device = maps.label, wanted.active.shape, maps.label.device
    spacing = torch.tensor(spacing_mm, dtype=torch.float32).to(device, non_blocking=True)
    organ = label == organ_label
    ground = torch.where(organ, _FREE, _OUTSIDE).to(torch.uint8)
    if maps.vessel is not None:
        ground.masked_fill_(organ & (maps.vessel > 0), _VESSEL)
    word = words(seed, uid, Purpose.SITE, slots, 4 * CANDIDATES).view(b, slots, CANDIDATES, 4)
    centre, anywhere = _anywhere(organ, maps.where, word)
    possible = some(organ, 1, 2, 3) & ~some(label == tumor_label, 1, 2, 3)
    given_vox = torch.full_like(centre[:, :, 0], torch.nan) if wanted.given_vox is None else wanted.given_vox
    given, reach_mm, slot_of = given_vox.isfinite().all(-1), wanted.reach_mm, torch.arange(slots, device=device)
    parents, wave = wanted.lesion[..., Trait.PARENT].to(torch.int64), waves(seed, uid, slots)
    avoids, most_outside = wanted.lesion[..., Trait.RADIUS] <= rule.avoid_to_mm, int((1.0 - rule.inside_share) * LOOKS)
    chosen, placed = torch.where(given[..., None], given_vox, 0.0), wanted.active & possible[:, None] & given
    used = [slot for slot in range(slots) if not _host.on_host(device) or wanted.active[:, slot].any()]
    for slot in used:
        at, fits, near = centre[:, slot], anywhere[:, None].expand(-1, CANDIDATES), parents[:, slot, None] >= 0
        if not _host.on_host(device) or near.any():
            around, inside = _near(chosen, placed, wanted, slot, rule.apart_mm, word[:, slot], wave, spacing, organ)
            at, fits = torch.where(near[..., None], around, at), ~near | inside
        others = placed & (slot_of != slot) & (slot_of != parents[:, slot, None])
        gap = ((at[:, :, None] - chosen[:, None]) * spacing).square().sum(-1)  # (b, candidates, slots)
        least = (reach_mm[:, slot, None, None] + reach_mm[:, None] + rule.apart_mm).clamp_min(0.0).square()
        fits = fits & ((gap >= least) | ~others[:, None]).all(-1)
        first = torch.full((b,), CANDIDATES, device=device)
        for few in torch.split(torch.arange(CANDIDATES, device=device), _AT_A_TIME if _host.on_host(device) else CANDIDATES):
            vessel, outside = _looked_at(ground, at[:, few], reach_mm[:, slot], spacing)
            suit = fits[:, few] & ~(vessel & avoids[:, slot, None]) & (outside <= most_outside)
            first = torch.minimum(first, torch.where(suit, few, CANDIDATES).amin(-1))
            if _host.on_host(device) and ((first < CANDIDATES) | ~fits.any(-1)).all():
                break
        placed[:, slot] |= wanted.active[:, slot] & possible & ~given[:, slot] & (first < CANDIDATES)
        index = first.clamp_max(CANDIDATES - 1)[:, None, None].expand(-1, 1, 3)
        chosen[:, slot] = torch.where(given[:, slot, None], chosen[:, slot], at.gather(1, index)[:, 0])
    beyond = torch.zeros_like(placed)
    for slot in used:
        beyond[:, slot] = _looked_at(ground, chosen[:, slot, None], reach_mm[:, slot], spacing)[1][:, 0] > 0
    return Sites(chosen, placed, beyond, possible)


def widened(vessel: UInt8[Tensor, "b i j k"], spacing_mm: Sequence[float], backend: str = "torch") -> UInt8[Tensor, "b i j k"]:
    """Vessels and the voxels beside them: looks lie up to 2.5 mm apart and would miss thin ones. Not along axes of thick slices."""
    reach_vox = [int(mm <= WIDE_MM) for mm in spacing_mm]
    return (_widened_cuda if backend == "cupy" else widened_torch)(vessel, reach_vox)


def _widened_cuda(vessel: Tensor, reach_vox: Sequence[int]) -> Tensor:
    wide, grid = torch.empty_like(vessel), (-(-vessel[0].numel() // 128), len(vessel), 1)
    _launch.launch("sites", "widen_kernel", grid, (128, 1, 1), (wide, vessel.contiguous(), *reach_vox, *vessel.shape[1:]))
    return wide


def widened_torch(vessel: Tensor, reach_vox: Sequence[int]) -> Tensor:
    """Twin of the kernel."""
    for axis, (n, reach) in enumerate(zip(vessel.shape[1:], reach_vox, strict=True), start=1):
        if reach:
            wide = vessel.clone()
            wide.narrow(axis, 0, n - 1).bitwise_or_(vessel.narrow(axis, 1, n - 1))
            wide.narrow(axis, 1, n - 1).bitwise_or_(vessel.narrow(axis, 0, n - 1))
            vessel = wide
    return vessel


def _anywhere(organ: Tensor, where: Tensor | None, word: Tensor) -> tuple[Float[Tensor, "b slots candidates 3"], Bool[Tensor, " b"]]:
    """Candidates in the whole organ, by rank; and whether there is one."""
    nj, nk = organ.shape[2:]
    ends = organ.flatten(1).cumsum(1, dtype=torch.int32) if where is None else (organ * where).flatten(1).cumsum(1, dtype=torch.int64)
    total = ends[:, -1].to(torch.int64)
    rank = to_integer(word[..., 0], 0, total[:, None, None] - 1)
    at = torch.searchsorted(ends, rank.view(len(organ), -1).to(ends.dtype), right=True).view(rank.shape).clamp_max(ends.shape[1] - 1)
    voxel = torch.stack((at // (nj * nk), at // nk % nj, at % nk), -1)
    return voxel.to(torch.float32) + (to_uniform(word[..., 1:]) - 0.5), total > 0


def _near(
    chosen: Tensor, placed: Tensor, wanted: Wanted, slot: int, apart_mm: float, word: Tensor, wave: Tensor, spacing: Tensor, organ: Tensor
) -> tuple[Float[Tensor, "b candidates 3"], Bool[Tensor, "b candidates"]]:
    """Candidates around a lesion's parent, in any direction, their distance uniform from where they would touch; which lie in the organ."""
    parent = wanted.lesion[:, slot, Trait.PARENT, None].clamp_min(0).to(torch.int64)
    row, there = wanted.lesion.gather(1, parent[..., None].expand(-1, 1, wanted.lesion.shape[2]))[:, 0], placed.gather(1, parent)
    z, turn = 2.0 * to_uniform(word[..., 1]).double() - 1.0, 2.0 * torch.pi * to_uniform(word[..., 2]).double()
    across = (1.0 - z * z).sqrt()
    way = torch.stack((across * turn.cos(), across * turn.sin(), z), -1)
    in_axes = torch.matmul(way.float(), rotation(row[:, Trait.ROTATION : Trait.ROTATION + 4])) / row[:, None, Trait.AXES : Trait.AXES + 3]
    rho, outline = in_axes.square().sum(-1).sqrt(), row[:, Trait.IRREGULARITY : Trait.IRREGULARITY + 3]
    of_parent = wave.gather(1, parent[..., None, None].expand(-1, 1, *wave.shape[2:]))[:, 0]
    surface = radius_at(of_parent, in_axes / rho[..., None], outline, row[:, Trait.REACH]) / rho
    least = ((1.0 + DENT) * surface + wanted.reach_mm[:, slot, None] + apart_mm).clamp_min(0.0)
    most = torch.maximum(surface + wanted.lesion[:, slot, Trait.WITHIN_MM, None], least + 1.0)
    distance = (least + to_uniform(word[..., 0]) * (most - least)).double()
    at = (chosen.gather(1, parent[..., None].expand(-1, 1, 3)) + distance[..., None] * way / spacing).to(torch.float32)
    voxel, shape = at.round().to(torch.int64), torch.tensor(organ.shape[1:]).to(at.device, non_blocking=True)
    inside = ((voxel >= 0) & (voxel < shape)).all(-1)
    i, j, k = voxel.clamp_min(0).minimum(shape - 1).unbind(-1)
    return at, inside & organ[torch.arange(len(at), device=at.device)[:, None], i, j, k] & there


def _looked_at(
    ground: Tensor, centre_vox: Tensor, reach_mm: Tensor, spacing_mm: Tensor
) -> tuple[Bool[Tensor, "b candidates"], Int[Tensor, "b candidates"]]:
    """Whether one of the points spread over a lesion's ball is vessel, and how many lie outside the organ; beyond the array none does."""
    looks = look_offsets(str(ground.device))
    shape = torch.tensor(ground.shape[1:]).to(ground.device, non_blocking=True)
    point = (centre_vox[:, :, None] + looks * (reach_mm[:, None, None, None] / spacing_mm)).round().to(torch.int64)
    there = ((point >= 0) & (point < shape)).all(-1)
    i, j, k = point.clamp_min(0).minimum(shape - 1).unbind(-1)
    sample = torch.arange(len(ground), device=ground.device)[:, None, None]
    seen = torch.where(there, ground[sample, i, j, k], _FREE)
    return (seen == _VESSEL).any(-1), (seen == _OUTSIDE).sum(-1)


@cached(maxsize=8)
def look_offsets(device: str) -> Float[Tensor, "256 3"]:
    """Points spread evenly through the unit ball (Fibonacci directions, equal volumes)."""
    n = torch.arange(LOOKS, dtype=torch.float64) + 0.5
    z, turn = 1.0 - 2.0 * n / LOOKS, torch.pi * (1.0 + 5.0**0.5) * n
    radius = ((n * 0.6180339887498949) % 1.0) ** (1.0 / 3.0)
    across = (1.0 - z**2).sqrt()
    return (torch.stack((across * turn.cos(), across * turn.sin(), z), -1) * radius[:, None]).to(torch.float32).to(device)

"""What a lesion is like: size, axes, orientation, outline, kind and HU, drawn lesion by lesion from a flat table of floats.

The table has a row for the scan and one for each kind; `Scan` and `Kind` name their columns. What was drawn is a table again, a row a
lesion, whose columns `Trait` names: it is what the plan holds and what `kernels.lesion` paints. After the slots of lesions that lie
anywhere come those of satellites, of which the largest lesion of a sample may have some.

Cost: 6 blocks of random words a lesion, and 256 directions in which its outline is measured.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpu_synth.kernels import _launch
from gpu_synth.kernels._columns import Kind, Scan, ScanWord, Trait, Word
from gpu_synth.kernels._outline import DIRECTIONS, directions, radius_at, waves
from gpu_synth.kernels.rng import Purpose, to_integer, to_uniform, words


class Traits(NamedTuple):
    """What was drawn."""

    altered: Bool[Tensor, " b"]
    active: Bool[Tensor, "b slots"]
    lesion: Float[Tensor, "b slots traits"]
    cirrhosis: Float[Tensor, "b 2"]  # standard deviation of the surface's shift in mm, HU of nodules; zeros where the organ has none


RIM_PART = 0.39  # of a rim, in the mean over a ball: the integral of 3 w² exp(−((w − 0.88) / 0.1)²) from 0 to 1
EDGE_PART = 1.2  # of an edge, over the radius, that a lesion's mean lacks: 3 / √(2 π)
LEAST_HELD, FLOOR_MARGIN = 0.5, 1.15  # textures do not average out
ENHANCED_HU = 80.0  # from which on laws with an offset, made for enhanced organs, hold as they are
CAPSULE_FROM_MM = 10.0  # radius from which a capsule is as bright as drawn: small nodules have hardly any, and were a ring around a hole
CAPSULE_PART = 3.76  # of a thin capsule, times its half width over the radius: 3 √(π / 2)
BULGE_REACH = 1.6  # our choice: as far as tissue moves in the published mass effect, the surface over a lesion moves by 0.03 radii at most
REACH_MARGIN = 1.1  # on the farthest of the directions in which an outline is measured


def traits(
    scan_row: Float[Tensor, " columns"],
    kind_rows: Float[Tensor, "kinds columns"],
    slots: int,
    satellites: int,
    seed: int,
    uid: Int[Tensor, " b"],
    organ_hu: Float[Tensor, " b"],
    noise_hu: Float[Tensor, " b"],
    backend: str = "torch",
) -> Traits:
    """Draw every lesion, used or not.

    Args:
        scan_row: The scan's part of the table, see `Scan`.
        kind_rows: The kinds' part, see `Kind`.
        slots: Lesion slots; at least the most lesions that the table allows.
        satellites: Slots of satellites, which come after them; at least the most that the table allows.
        seed: The run's seed.
        uid: The samples' ordinals in the run.
        organ_hu: HU of the organ in each scan.
        noise_hu: Its noise.
        backend: "torch" or "cupy".
    """
    run = _traits_cuda if backend == "cupy" else traits_torch
    return run(scan_row, kind_rows, slots, satellites, seed, uid, organ_hu, noise_hu)


def _traits_cuda(
    scan_row: Tensor, kind_rows: Tensor, slots: int, satellites: int, seed: int, uid: Tensor, organ_hu: Tensor, noise_hu: Tensor
) -> Traits:
    b, both, device = len(uid), slots + satellites, uid.device
    altered, active = torch.empty(b, dtype=torch.bool, device=device), torch.empty(b, both, dtype=torch.bool, device=device)
    lesion = torch.empty(b, both, Trait.COLUMNS, dtype=torch.float32, device=device)
    cirrhosis = torch.empty(b, 2, dtype=torch.float32, device=device)
    drawn, tables = Traits(altered, active, lesion, cirrhosis), (scan_row, kind_rows, directions(str(device)))
    arguments = (*drawn, *tables, uid, organ_hu, noise_hu, _launch.key(seed), len(kind_rows), slots)
    _launch.launch("traits", "traits_kernel", (both, b, 1), (DIRECTIONS, 1, 1), arguments)
    return drawn


def traits_torch(
    scan_row: Tensor,
    kind_rows: Tensor,
    slots: int,
    satellites: int,
    seed: int,
    uid: Tensor,
    organ_hu: Tensor,
    noise_hu: Tensor,
    asked: Mapping[Trait, Float[Tensor, "b both"]] | None = None,
) -> Traits:
    """Twin of the kernel; what has a rounding of its own in every library is in float64, so that a lesion is the same in any batch.

    `asked` holds kinds, radii and outlines that are not drawn, NaN where they are: all else follows from them.
    """
    word = words(seed, uid, Purpose.TRAIT, slots + satellites, Word.WORDS)
    scan = words(seed, uid, Purpose.SCAN, 1, ScanWord.WORDS)[:, 0]
    altered, active = _counted(scan, scan_row, slots, seed, uid)
    radius = _radius(word, scan_row, _size_ends(scan_row, uid))
    parent, within_mm, satellite = _families(scan, scan_row, radius[:, :slots], active, satellites)
    of_parent = torch.where(satellite, parent, torch.arange(slots + satellites, device=uid.device))
    small = to_uniform(word[..., Word.SIZE], scan_row[Scan.SATELLITE_RADIUS_MM], scan_row[Scan.SATELLITE_RADIUS_MM + 1])
    radius = torch.where(satellite, torch.minimum(small, 0.5 * radius.gather(1, of_parent)), radius)
    kind = (to_uniform(word[..., Word.KIND, None]) >= kind_rows[:-1, Kind.END]).sum(-1).gather(1, of_parent)
    known = {} if asked is None else {trait: (value.isfinite(), value.nan_to_num(0.0)) for trait, value in asked.items()}
    if Trait.RADIUS in known:
        radius = torch.where(*known[Trait.RADIUS], radius)
    if Trait.KIND in known:
        kind = torch.where(known[Trait.KIND][0], known[Trait.KIND][1].to(torch.int64), kind)
    lesion = torch.zeros(*word.shape[:2], Trait.COLUMNS, dtype=torch.float32, device=uid.device)
    lesion[..., Trait.RADIUS], lesion[..., Trait.PUSH_MM] = radius, radius
    lesion[..., Trait.PARENT], lesion[..., Trait.WITHIN_MM] = parent, within_mm
    lesion[..., Trait.KIND] = kind.to(torch.float32)
    for trait, which, column in _OF_SCAN:
        lesion[..., trait] = to_uniform(word[..., which], scan_row[column], scan_row[column + 1])
    lesion[..., Trait.IRREGULARITY : Trait.IRREGULARITY + 3] *= kind_rows[kind][..., Kind.OUTLINE, None]
    for trait in known.keys() & {Trait.IRREGULARITY, Trait.LOBULATION, Trait.SPICULATION}:
        lesion[..., trait] = torch.where(*known[trait], lesion[..., trait])
    lesion[..., Trait.ROTATION : Trait.ROTATION + 4] = _rotation(word[..., Word.ROTATION : Word.ROTATION + 3])
    wave = waves(seed, uid, slots + satellites).double()
    lesion[..., Trait.AXES : Trait.AXES + 3], lesion[..., Trait.REACH] = _axes(word, scan_row, lesion, wave)
    _colour(lesion, word, scan_row, kind_rows[kind], organ_hu[:, None], noise_hu[:, None])
    return Traits(altered, satellite | torch.nn.functional.pad(active, (0, satellites)), lesion, _cirrhosis(scan, scan_row))


class Settled(NamedTuple):
    """What comes of samples once their lesions have places."""

    skipped: Bool[Tensor, " b"]  # to be altered, and without a lesion
    cirrhosis: Float[Tensor, "b 2"]  # zeros in these too


def settle_(drawn: Traits, placed: Bool[Tensor, "b slots"], at_surface: Bool[Tensor, "b slots"], backend: str = "torch") -> Settled:
    """Let lesions at the organ's surface push harder, and farther, in place; and say which samples stay as they are.

    Args:
        drawn: What was drawn.
        placed: Lesions that have a place.
        at_surface: Lesions that reach beyond the organ.
        backend: "torch" or "cupy".
    """
    return (_settle_cuda_ if backend == "cupy" else settle_torch_)(drawn, placed, at_surface)


def _settle_cuda_(drawn: Traits, placed: Tensor, at_surface: Tensor) -> Settled:
    (b, slots), device = placed.shape, placed.device
    skipped = torch.empty(b, dtype=torch.bool, device=device)
    cirrhosis = torch.empty(2, b, dtype=torch.float32, device=device)  # each a row of its own, as a render takes it
    arguments = (drawn.lesion, skipped, cirrhosis, drawn.altered, placed, at_surface, drawn.cirrhosis, slots, BULGE_REACH)
    _launch.launch("traits", "settle_kernel", (b, 1, 1), (DIRECTIONS, 1, 1), arguments)
    return Settled(skipped, cirrhosis.T)


def settle_torch_(drawn: Traits, placed: Tensor, at_surface: Tensor) -> Settled:
    """Twin of the kernel."""
    lesion, any_placed = drawn.lesion, placed.any(1)
    bulges = at_surface & (lesion[..., Trait.BULGE] > 0)
    push, push_mm = lesion[..., Trait.PUSH], lesion[..., Trait.PUSH_MM]
    lesion[..., Trait.PUSH] = torch.where(bulges, torch.maximum(push, lesion[..., Trait.BULGE]), push)
    lesion[..., Trait.PUSH_MM] = torch.where(bulges, BULGE_REACH * push_mm, push_mm)
    return Settled(drawn.altered & ~any_placed, drawn.cirrhosis * any_placed[:, None])


_OF_SCAN = (
    (Trait.IRREGULARITY, Word.IRREGULARITY, Scan.IRREGULARITY),
    (Trait.LOBULATION, Word.LOBULATION, Scan.LOBULATION),
    (Trait.SPICULATION, Word.SPICULATION, Scan.SPICULATION),
    (Trait.TEXTURE_MM, Word.TEXTURE_MM, Scan.TEXTURE_MM),
    (Trait.PUSH, Word.PUSH, Scan.MASS_EFFECT),
    (Trait.BULGE, Word.BULGE, Scan.BULGE),
    (Trait.HALO, Word.HALO, Scan.HALO),
    (Trait.HALO_MM, Word.HALO_MM, Scan.HALO_MM),
)


def _counted(scan: Tensor, scan_row: Tensor, slots: int, seed: int, uid: Tensor) -> tuple[Bool[Tensor, " b"], Bool[Tensor, "b slots"]]:
    """Whether a scan is altered, and which of its slots are in use."""
    altered = to_uniform(scan[:, ScanWord.ALTER]) < scan_row[Scan.ALTER_PROB]
    low, high = scan_row[Scan.COUNT].to(torch.int64), scan_row[Scan.COUNT + 1].to(torch.int64)
    count = to_integer(words(seed, uid, Purpose.COUNT, 1, 1)[:, 0, 0], low, high)
    return altered, (torch.arange(slots, device=uid.device) < count[:, None]) & altered[:, None]


def _families(
    scan: Tensor, scan_row: Tensor, radius: Float[Tensor, "b slots"], active: Bool[Tensor, "b slots"], satellites: int
) -> tuple[Int[Tensor, "b both"], Float[Tensor, "b both"], Bool[Tensor, "b both"]]:
    """Who lies near whom: in a cluster, all lesions near the first; satellites near the largest, where that is large enough."""
    b, slots = radius.shape
    at = torch.arange(slots + satellites, device=scan.device).expand(b, -1)
    clustered = (to_uniform(scan[:, ScanWord.CLUSTER, None]) < scan_row[Scan.CLUSTER_PROB]) & (at > 0)
    most, largest = torch.where(active, radius, -1.0).max(1, keepdim=True)
    low, high = scan_row[Scan.SATELLITES].to(torch.int64), scan_row[Scan.SATELLITES + 1].to(torch.int64)
    count = to_integer(scan[:, ScanWord.SATELLITES], low, high)[:, None]
    has = (to_uniform(scan[:, ScanWord.SATELLITE, None]) < scan_row[Scan.SATELLITE_PROB]) & (most >= scan_row[Scan.SATELLITE_FROM_MM])
    satellite = (at >= slots) & has & (at - slots < count)
    parent = torch.where(satellite, largest, torch.where(clustered & (at < slots), 0, -1))
    within_mm = torch.where(at >= slots, scan_row[Scan.SATELLITE_MM], scan_row[Scan.CLUSTER_MM])
    return parent, within_mm, satellite


def _colour(lesion: Tensor, word: Tensor, scan_row: Tensor, row: Tensor, organ_hu: Tensor, noise_hu: Tensor) -> None:
    """HU of a lesion's parts, and the width of its edge, by its kind's row."""

    def of_kind(which: Word, column: Kind) -> Tensor:
        return to_uniform(word[..., which], row[..., column], row[..., column + 1])

    organ, radius = organ_hu.clamp_min(scan_row[Scan.ORGAN_HU]), lesion[..., Trait.RADIUS]
    edge = (scan_row[Scan.EDGE_SHARE] * radius).clamp(scan_row[Scan.EDGE_MM], scan_row[Scan.EDGE_MM + 1]) * row[..., Kind.EDGE]
    core, share = of_kind(Word.CORE, Kind.CORE) * organ, of_kind(Word.CORE_SHARE, Kind.CORE_SHARE)
    rim, speck = of_kind(Word.RIM, Kind.RIM) * organ, of_kind(Word.SPECK, Kind.SPECK_HU)
    capsule, capsule_mm = of_kind(Word.CAPSULE, Kind.CAPSULE_HU) * (radius / CAPSULE_FROM_MM).clamp_max(1.0), row[..., Kind.CAPSULE_MM]
    within = (CAPSULE_PART * capsule_mm / radius).clamp_max(1.0)
    others = core * (share * share * share) + rim * RIM_PART + capsule * within + speck * row[..., Kind.SPECK_PART]  # in the lesion's mean
    held = (1.0 - EDGE_PART * edge / radius).clamp_min(LEAST_HELD)
    floor = FLOOR_MARGIN * scan_row[Scan.CNR_FLOOR] * noise_hu
    drawn, offset = of_kind(Word.BODY, Kind.BODY), row[..., Kind.OFFSET_HU] * (organ / ENHANCED_HU).clamp_max(1.0)
    body = torch.where(row[..., Kind.TARGET] > 0, drawn - organ_hu, drawn * organ) + offset
    body = torch.where(body < 0, torch.minimum(body, -(floor + others) / held), torch.maximum(body, (floor - others) / held))
    lesion[..., Trait.BODY], lesion[..., Trait.CORE], lesion[..., Trait.CORE_SHARE], lesion[..., Trait.RIM] = body, core, share, rim
    lesion[..., Trait.CAPSULE], lesion[..., Trait.CAPSULE_MM], lesion[..., Trait.EDGE] = capsule, capsule_mm, edge
    lesion[..., Trait.SPECK], lesion[..., Trait.SPECK_SHARE] = speck, row[..., Kind.SPECK_SHARE]
    lesion[..., Trait.HALO] *= organ
    texture_mm = lesion[..., Trait.TEXTURE_MM]
    mild = (radius / texture_mm).clamp_max(1.0)  # in a small lesion a texture is no texture, but another contrast
    lesion[..., Trait.TEXTURE] = of_kind(Word.TEXTURE, Kind.TEXTURE) * body.abs() * mild
    lesion[..., Trait.TEXTURE_MM] = torch.where(speck != 0, torch.minimum(texture_mm, radius), texture_mm)  # small ones have specks too


def _cirrhosis(scan: Tensor, scan_row: Tensor) -> Float[Tensor, "b 2"]:
    """What the organ has of it, whether or not lesions find a place there."""
    has = to_uniform(scan[:, ScanWord.CIRRHOSIS]) < scan_row[Scan.CIRRHOSIS_PROB]
    surface = to_uniform(scan[:, ScanWord.SURFACE_MM], scan_row[Scan.SURFACE_MM], scan_row[Scan.SURFACE_MM + 1])
    nodule = to_uniform(scan[:, ScanWord.NODULE_HU], scan_row[Scan.NODULE_HU], scan_row[Scan.NODULE_HU + 1])
    return torch.stack((surface, nodule), 1) * has[:, None]


def _size_ends(scan_row: Tensor, uid: Tensor) -> Float[Tensor, "b 1 3"]:
    """Running sum of the size bins' probabilities: they move from the start's to the end's as the run goes on."""
    first, last = scan_row[Scan.SIZE_START : Scan.SIZE_START + 3], scan_row[Scan.SIZE_END : Scan.SIZE_END + 3]
    samples = scan_row[Scan.CURRICULUM]
    way = torch.where(samples > 0, (uid.to(torch.float32) / samples.clamp_min(1.0)).clamp(0.0, 1.0), 1.0)
    return (first + way[:, None] * (last - first))[:, None]


def _radius(word: Tensor, scan_row: Tensor, size_ends: Float[Tensor, "b 1 3"]) -> Float[Tensor, "b slots"]:
    """A size bin, then log-uniform within it."""
    size = (to_uniform(word[..., Word.SIZE_BIN, None]) >= size_ends).sum(-1)
    low, high = scan_row[Scan.SIZE_MM + size], scan_row[Scan.SIZE_MM + 1 + size]
    return (low.double() * (high.double() / low).pow(to_uniform(word[..., Word.SIZE]).double())).to(torch.float32)


def _axes(word: Tensor, scan_row: Tensor, lesion: Tensor, wave: Tensor) -> tuple[Float[Tensor, "b slots 3"], Float[Tensor, "b slots"]]:
    """Semi-axes of the ellipsoid whose bent outline encloses the volume of the ball of the lesion's radius, and how far it reaches."""
    ratio = [to_uniform(word[..., Word.AXES + n], scan_row[Scan.AXIS_RATIO], scan_row[Scan.AXIS_RATIO + 1]) for n in range(2)]
    axes = torch.stack((torch.ones_like(ratio[0]), *ratio), -1)
    outline = lesion[..., Trait.IRREGULARITY : Trait.IRREGULARITY + 3].double()
    unbounded = torch.full_like(outline[..., 0], torch.inf)
    reach = radius_at(wave, directions(str(word.device)).double(), outline, unbounded)
    scale = lesion[..., Trait.RADIUS] / ((reach**3).mean(-1) * axes.prod(-1)) ** (1.0 / 3.0)
    return (axes * scale[..., None]).to(torch.float32), (REACH_MARGIN * reach.amax(-1)).to(torch.float32)


def _rotation(word: Tensor) -> Float[Tensor, "b slots 4"]:
    """Turn three words into a uniform rotation (Shoemake), as a quaternion."""
    u, angle = to_uniform(word[..., 0]).double(), 2.0 * torch.pi * to_uniform(word[..., 1:]).double()
    near, far = (1.0 - u).sqrt(), u.sqrt()
    first, second = angle.unbind(-1)
    return torch.stack((far * second.cos(), near * first.sin(), near * first.cos(), far * second.sin()), -1).to(torch.float32)

"""What a lesion is like: size, axes, orientation, outline, kind and HU, drawn lesion by lesion from a flat table of floats.

The table has a row for the scan and one for each kind; `Scan` and `Kind` name their columns. What was drawn is a table again, a row a
lesion, whose columns `Trait` names: it is what the plan holds and what `kernels.lesion` paints.

Cost: 6 blocks of random words a lesion, and 64 directions in which its outline is measured.
"""

from enum import IntEnum, unique
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpu_synth.kernels import _launch
from gpu_synth.kernels._outline import directions, radius_at, waves
from gpu_synth.kernels.rng import Purpose, to_integer, to_uniform, words


@unique
class Scan(IntEnum):
    """Columns of the scan's row; a range takes two, its low and its high."""

    ALTER_PROB = 0
    COUNT = 1
    AXIS_RATIO = 3
    IRREGULARITY = 5
    LOBULATION = 7
    SPICULATION = 9
    TEXTURE_MM = 11
    EDGE_SHARE = 13  # of the radius
    EDGE_MM = 14  # within these
    CNR_FLOOR = 16
    ORGAN_HU = 17  # organs of fewer HU have contrast as if of these
    SIZE_END = 18  # running sum of the size bins' probabilities, four
    SIZE_MM = 22  # their five ends
    MASS_EFFECT = 27
    COLUMNS = 29


@unique
class Kind(IntEnum):
    """Columns of a kind's row. Contrasts are shares of the organ's HU; those of a target are HU."""

    END = 0  # running sum of probabilities
    TARGET = 1  # whether the body has HU of its own, rather than a contrast
    BODY = 2
    CORE = 4
    CORE_SHARE = 6  # of the radius
    RIM = 8
    TEXTURE = 10  # share of the body's contrast
    SPECK_HU = 12
    SPECK_SHARE = 14  # of the volume
    EDGE = 15  # factor on the edge
    COLUMNS = 16


@unique
class Trait(IntEnum):
    """Columns of a lesion's row: lengths in mm, HU relative to the organ around."""

    RADIUS = 0  # of the ball of as much volume
    AXES = 1  # semi-axes of the ellipsoid that the outline bends
    ROTATION = 4  # unit quaternion, real part first
    IRREGULARITY = 8
    LOBULATION = 9
    SPICULATION = 10
    KIND = 11
    BODY = 12
    CORE = 13
    CORE_SHARE = 14
    RIM = 15
    TEXTURE = 16
    TEXTURE_MM = 17
    SPECK = 18
    SPECK_SHARE = 19
    EDGE = 20
    REACH = 21  # of the outline, in semi-axes
    PUSH = 22  # strength of the mass effect, percent
    COLUMNS = 23


class Traits(NamedTuple):
    """What was drawn."""

    altered: Bool[Tensor, " b"]
    active: Bool[Tensor, "b slots"]
    lesion: Float[Tensor, "b slots traits"]


REACH_MARGIN = 1.1  # on the farthest of the directions in which an outline is measured


@unique
class Word(IntEnum):
    """Which of a lesion's words draws what."""

    SIZE_BIN = 0
    SIZE = 1
    AXES = 2
    ROTATION = 4
    IRREGULARITY = 7
    LOBULATION = 8
    SPICULATION = 9
    KIND = 10
    BODY = 11
    CORE = 12
    CORE_SHARE = 13
    RIM = 14
    TEXTURE = 15
    TEXTURE_MM = 16
    SPECK = 17
    PUSH = 18
    WORDS = 19


def traits(
    scan_row: Float[Tensor, " columns"],
    kind_rows: Float[Tensor, "kinds columns"],
    slots: int,
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
        seed: The run's seed.
        uid: The samples' ordinals in the run.
        organ_hu: HU of the organ in each scan.
        noise_hu: Its noise.
        backend: "torch" or "cupy".
    """
    run = _traits_cuda if backend == "cupy" else traits_torch
    return run(scan_row, kind_rows, slots, seed, uid, organ_hu, noise_hu)


def _traits_cuda(scan_row: Tensor, kind_rows: Tensor, slots: int, seed: int, uid: Tensor, organ_hu: Tensor, noise_hu: Tensor) -> Traits:
    b, device = len(uid), uid.device
    altered, active = torch.empty(b, dtype=torch.bool, device=device), torch.empty(b, slots, dtype=torch.bool, device=device)
    lesion = torch.empty(b, slots, Trait.COLUMNS, dtype=torch.float32, device=device)
    tables = (scan_row, kind_rows, directions(str(device)))
    arguments = (altered, active, lesion, *tables, uid, organ_hu, noise_hu, _launch.key(seed), np.int32(len(kind_rows)))
    _launch.launch("traits", "traits_kernel", (slots, b, 1), (64, 1, 1), arguments)
    return Traits(altered, active, lesion)


def traits_torch(scan_row: Tensor, kind_rows: Tensor, slots: int, seed: int, uid: Tensor, organ_hu: Tensor, noise_hu: Tensor) -> Traits:
    """Twin of the kernel; what has a rounding of its own in every library is in float64, so that a lesion is the same in any batch."""
    word = words(seed, uid, Purpose.TRAIT, slots, Word.WORDS)
    row = kind_rows[(to_uniform(word[..., Word.KIND, None]) >= kind_rows[:-1, Kind.END]).sum(-1)]  # (b, slots, columns)
    lesion = torch.zeros(len(uid), slots, Trait.COLUMNS, dtype=torch.float32, device=uid.device)

    def of_scan(which: Word, column: Scan) -> Tensor:
        return to_uniform(word[..., which], scan_row[column], scan_row[column + 1])

    def of_kind(which: Word, column: Kind) -> Tensor:
        return to_uniform(word[..., which], row[..., column], row[..., column + 1])

    lesion[..., Trait.RADIUS] = radius = _radius(word, scan_row)
    for trait, which, column in _OF_SCAN:
        lesion[..., trait] = of_scan(which, column)
    lesion[..., Trait.ROTATION : Trait.ROTATION + 4] = _rotation(word[..., Word.ROTATION : Word.ROTATION + 3])
    lesion[..., Trait.AXES : Trait.AXES + 3], lesion[..., Trait.REACH] = _axes(word, scan_row, lesion, waves(seed, uid, slots).double())
    lesion[..., Trait.KIND] = (to_uniform(word[..., Word.KIND, None]) >= kind_rows[:-1, Kind.END]).sum(-1).to(torch.float32)

    organ = organ_hu.clamp_min(scan_row[Scan.ORGAN_HU])[:, None]
    drawn = of_kind(Word.BODY, Kind.BODY)
    body = torch.where(row[..., Kind.TARGET] > 0, drawn - organ_hu[:, None], drawn * organ)
    floor = scan_row[Scan.CNR_FLOOR] * noise_hu[:, None]
    lesion[..., Trait.BODY] = body = torch.where(body < 0, torch.minimum(body, -floor), torch.maximum(body, floor))
    lesion[..., Trait.CORE] = of_kind(Word.CORE, Kind.CORE) * organ
    lesion[..., Trait.CORE_SHARE] = of_kind(Word.CORE_SHARE, Kind.CORE_SHARE)
    lesion[..., Trait.RIM] = of_kind(Word.RIM, Kind.RIM) * organ
    lesion[..., Trait.TEXTURE] = of_kind(Word.TEXTURE, Kind.TEXTURE) * body.abs()
    lesion[..., Trait.SPECK] = of_kind(Word.SPECK, Kind.SPECK_HU)
    lesion[..., Trait.SPECK_SHARE] = row[..., Kind.SPECK_SHARE]
    edge = (scan_row[Scan.EDGE_SHARE] * radius).clamp(scan_row[Scan.EDGE_MM], scan_row[Scan.EDGE_MM + 1])
    lesion[..., Trait.EDGE] = edge * row[..., Kind.EDGE]

    altered = to_uniform(words(seed, uid, Purpose.SCAN, 1, 1)[:, 0, 0]) < scan_row[Scan.ALTER_PROB]
    low, high = scan_row[Scan.COUNT].to(torch.int64), scan_row[Scan.COUNT + 1].to(torch.int64)
    count = to_integer(words(seed, uid, Purpose.COUNT, 1, 1)[:, 0, 0], low, high)
    return Traits(altered, (torch.arange(slots, device=uid.device) < count[:, None]) & altered[:, None], lesion)


_OF_SCAN = (
    (Trait.IRREGULARITY, Word.IRREGULARITY, Scan.IRREGULARITY),
    (Trait.LOBULATION, Word.LOBULATION, Scan.LOBULATION),
    (Trait.SPICULATION, Word.SPICULATION, Scan.SPICULATION),
    (Trait.TEXTURE_MM, Word.TEXTURE_MM, Scan.TEXTURE_MM),
    (Trait.PUSH, Word.PUSH, Scan.MASS_EFFECT),
)


def _radius(word: Tensor, scan_row: Tensor) -> Float[Tensor, "b slots"]:
    """A size bin, then log-uniform within it."""
    size = (to_uniform(word[..., Word.SIZE_BIN, None]) >= scan_row[Scan.SIZE_END : Scan.SIZE_END + 3]).sum(-1)
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

"""Where lesions may grow: their seeds and balls, the cells that are theirs, and what tissue is there."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpu_synth.kernels._automaton import Law
from gpu_synth.kernels._cells import Box

BALL = 1.6  # radii within which a lesion may grow
GAP_CELLS = 1.5  # that a lesion keeps from the balls of lower slots, along each axis: cells of two lesions are never neighbours
MOST_RADIUS_MM, MOST_VOXELS, MOST_HU = 1e4, 2e9, 2000.0
LEVEL_HU, LEVEL_NOISES = (10.0, 20.0), (1.0, 2.0)  # above the organ's, the larger of the two: where the second and third level begin
QUARTERS, HU_FIRST, HU_LAST = 4, -1024, 3071
AROUND, FIELD_MOST, LEVEL_MOST = 27, 1000, 32000  # quarter HU less the organ's: sums of 27 are 16-bit


class Ground(NamedTuple):
    """What lesions grow in, as `growth` is given it."""

    image: Tensor
    label: Tensor
    vessel: Tensor | None
    organ_hu: Tensor
    noise_hu: Tensor
    organ_label: int

    def part(self, samples: slice) -> "Ground":
        """That of some of the samples."""
        vessel = None if self.vessel is None else self.vessel[samples]
        image, label, organ_hu, noise_hu = (x[samples] for x in (self.image, self.label, self.organ_hu, self.noise_hu))
        return Ground(image, label, vessel, organ_hu, noise_hu, self.organ_label)


class Lesions(NamedTuple):
    """Lesions in cells.

    Attributes:
        seed: Where they start, in the array.
        extent: How far their balls reach from there, at most.
        target: Voxels that they shall have; 0 in a slot that is not in use, or whose seed lies beyond the array.
        centre: In the whole.
        reach_mm2: Of the ball, squared.
    """

    seed: Int[Tensor, "b slots 3"]
    extent: Int[Tensor, "b slots 3"]
    target: Int[Tensor, "b slots"]
    centre: Float[Tensor, "b slots 3"]
    reach_mm2: Float[Tensor, "b slots"]


def lesions_of(
    centre_vox: Tensor,
    radius_mm: Tensor,
    active: Tensor,
    law: Law,
    spacing_mm: Sequence[float],
    origin_vox: Sequence[int],
    shape: Sequence[int],
) -> Lesions:
    """Turn lesions into cells."""
    usable = active & centre_vox.isfinite().all(-1) & (radius_mm > 0) & (radius_mm <= MOST_RADIUS_MM)
    at_vox, radius = torch.where(usable[..., None], centre_vox.float(), 0.0), torch.where(usable, radius_mm.float(), 1.0).double()
    seed, extent, centre = [], [], []
    for axis, (n, mm, origin, size) in enumerate(zip(law.split, law.cell_mm, origin_vox, shape, strict=True)):
        centre.append((at_vox[..., axis] + 0.5) * n - 0.5)
        at = centre[-1].double().round() - origin * n
        usable = usable & (at >= 0) & (at < size * n)
        seed.append(at.clamp(0, size * n - 1).to(torch.int32))
        extent.append(((radius * (BALL / mm)).floor() + 1.0).to(torch.int32))
    voxels = (radius * radius * radius * voxels_a_mm3(spacing_mm)).round().clamp(1.0, MOST_VOXELS)
    reach_mm = (radius * BALL).float()
    target = torch.where(usable, voxels, 0.0).to(torch.int32)
    return Lesions(torch.stack(seed, -1), torch.stack(extent, -1), target, torch.stack(centre, -1), reach_mm * reach_mm)


def voxels_a_mm3(spacing_mm: Sequence[float]) -> float:
    """Voxels of a ball of 1 mm."""
    return 4.0 / 3.0 * math.pi / math.prod(spacing_mm)


def levels_of(organ_hu: Float[Tensor, " b"], noise_hu: Float[Tensor, " b"]) -> Int[Tensor, "b 3"]:
    """HU of each organ in quarters, and above which sums of 27 voxels, less that, the second and third level begin; int16."""
    organ, noise = (hu.double().nan_to_num(0.0, 0.0, 0.0).clamp(-MOST_HU, MOST_HU) for hu in (organ_hu, noise_hu))
    second, third = ((noise * n).clamp_min(hu) for hu, n in zip(LEVEL_HU, LEVEL_NOISES, strict=True))
    organ, second, third = ((hu * QUARTERS).round() for hu in (organ, second, third))
    return torch.stack((organ, second * AROUND, third * AROUND), -1).clamp(-LEVEL_MOST, LEVEL_MOST).to(torch.int16)


def owners(lesions: Lesions, slots: Sequence[int], cells: Box, law: Law) -> Int[Tensor, "b i j k"]:
    """Which slot's ball, plus one, holds a cell, int16; `cells` are positions in the whole."""
    b, device = len(lesions.target), lesions.target.device
    number = torch.zeros(b, *(end - start for start, end in cells), dtype=torch.int16, device=device)
    free = torch.ones_like(number, dtype=torch.bool)
    for slot in slots:
        reach = torch.where(lesions.target[:, slot] > 0, lesions.reach_mm2[:, slot], -1.0)[:, None, None, None]
        away = [
            (torch.arange(start, end, device=device).float() - lesions.centre[:, slot, axis, None]).abs()
            for axis, (start, end) in enumerate(cells)
        ]
        number.masked_fill_((_square_mm(away, law) <= reach) & free, slot + 1)
        free &= _square_mm([(x - GAP_CELLS).clamp_min(0.0) for x in away], law) > reach
    return number


def _square_mm(away: list[Tensor], law: Law) -> Tensor:
    b = len(away[0])
    i, j, k = ((x * float(np.float32(mm))).square() for x, mm in zip(away, law.cell_mm, strict=True))
    return i.view(b, -1, 1, 1) + j.view(b, 1, -1, 1) + k.view(b, 1, 1, -1)


def seeded(seed: Int[Tensor, "b 3"], cells: Box) -> Bool[Tensor, "b i j k"]:
    """Whether a cell of the array is the seed."""
    i, j, k = (torch.arange(start, end, device=seed.device) == seed[:, axis, None] for axis, (start, end) in enumerate(cells))
    return i[:, :, None, None] & j[:, None, :, None] & k[:, None, None, :]


def levels_in(ground: Ground, box: Box) -> tuple[Int[Tensor, "b i j k"], Bool[Tensor, "b i j k"]]:
    """Level of the voxels of a box, and whether lesions may grow there. What is not such, or beyond the array, has the organ's HU."""
    wide = [(max(0, start - 1), min(n, end + 1)) for (start, end), n in zip(box, ground.label.shape[1:], strict=True)]
    cut = (slice(None), *(slice(*ends) for ends in wide))
    value, levels = ground.image[cut].to(torch.float32), levels_of(ground.organ_hu, ground.noise_hu)[:, :, None, None, None]
    allowed = (ground.label[cut] == ground.organ_label) & (value > -math.inf) & (value < math.inf)
    if ground.vessel is not None:
        allowed &= ground.vessel[cut] == 0
    quarters = value.clamp(HU_FIRST, HU_LAST).mul_(QUARTERS).round_().nan_to_num_(0.0).to(torch.int16)
    around = quarters.sub_(levels[:, 0]).clamp_(-FIELD_MOST, FIELD_MOST).mul_(allowed)
    parts = list(zip(box, wide, strict=True))
    around = torch.nn.functional.pad(around, [n for (a, b), (c, d) in parts[::-1] for n in (1 - (a - c), 1 - (d - b))])
    for axis in (1, 2, 3):
        n = around.shape[axis] - 2
        around = around.narrow(axis, 0, n) + around.narrow(axis, 1, n) + around.narrow(axis, 2, n)
    here = (slice(None), *(slice(a - c, b - c) for (a, b), (c, _) in parts))
    return (around > levels[:, 1]).to(torch.int64) + (around > levels[:, 2]), allowed[here]

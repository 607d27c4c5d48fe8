"""Every scalar that is drawn for a scan, from a flat table of floats.

The table has one row for the scan and one for each size group; `Scan` and `Group` name their columns. Lesions live in a fixed number
of slots, the groups one after another, so nothing about a plan's shapes depends on what was drawn.

Cost: 10 words a scan, 4 + 54 a slot; some 1700 words a scan at 28 slots.
"""

from collections.abc import Sequence
from enum import IntEnum, unique
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpu_synth.kernels import _launch
from gpu_synth.kernels.rng import Purpose, to_integer, to_normal, to_uniform, words


@unique
class Scan(IntEnum):
    """Columns of the scan's row; a range takes two, its low and its high; the size classes' running sum of probabilities five."""

    ALTER_PROB = 0
    CLASS_END = 1
    DENSITY_SIGMA_MM = 6
    DENSITY_SCALE = 8
    DENSITY_OFFSET = 10
    GRAIN_FINE_PROB = 12
    GRAIN_FINE_SIGMA_MM = 13
    GRAIN_COARSE_SIGMA_MM = 15
    TEXTURE_GAIN = 17
    EDGE_SIGMA_MM = 19
    CONTRAST_HU = 21
    COLUMNS = 23


@unique
class Group(IntEnum):
    """Columns of a size group's row: low and high of each range, then a flag and the group's slots."""

    RADIUS_MM = 0
    COUNT = 2
    MIX_COUNT = 4
    ELASTIC_SIGMA_MM = 6
    ELASTIC_SIGMA_INTEGER = 8
    SLOTS = 9
    COLUMNS = 10


@unique
class Word(IntEnum):
    """Which of a scan's words draws what."""

    ALTER = 0
    SIZE_CLASS = 1
    DENSITY_SIGMA = 2
    DENSITY_SCALE = 3
    DENSITY_OFFSET = 4
    GRAIN_FINE = 5
    GRAIN_SIGMA = 6
    TEXTURE_GAIN = 7
    EDGE_SIGMA = 8
    CONTRAST = 9
    WORDS = 10


ELASTIC_WORDS = 3 * 2 * 3 * 3  # axis pairs, axes of a pair, control points


class Draws(NamedTuple):
    """What was drawn."""

    skipped: Bool[Tensor, " b"]  # to be altered, and cannot be
    active: Bool[Tensor, "b slots"]
    radii_mm: Float[Tensor, "b slots 3"]
    elastic_mm: Float[Tensor, "b slots 3 2 3 3"]
    density_sigma_mm: Float[Tensor, " b"]
    density_scale: Float[Tensor, " b"]
    density_offset: Float[Tensor, " b"]
    grain_sigma_mm: Float[Tensor, " b"]
    texture_gain: Float[Tensor, " b"]
    edge_sigma_mm: Float[Tensor, " b"]
    contrast_hu: Float[Tensor, " b"]


def draw(
    scan_row: Float[Tensor, " columns"],
    group_rows: Float[Tensor, "groups columns"],
    slots: Sequence[int],
    seed: int,
    uid: Int[Tensor, " b"],
    possible: Bool[Tensor, " b"],
    backend: str = "torch",
) -> Draws:
    """Draw everything that a scan and its lesions need.

    Args:
        scan_row: The scan's part of the table, see `Scan`.
        group_rows: The size groups' part, see `Group`.
        slots: Lesion slots of each group; at least the most lesions that the table allows it.
        seed: The run's seed.
        uid: The samples' ordinals in the run.
        possible: Samples that can hold a lesion; the others get none.
        backend: "torch" or "cupy".

    Source: Hu et al. 2022; facts on the published method: class, counts, semi-axes, elastic, texture, edge and contrast draws.
    """
    return (_draw_cuda if backend == "cupy" else draw_torch)(scan_row, group_rows, slots, seed, uid, possible)


def _draw_cuda(scan_row: Tensor, group_rows: Tensor, slots: Sequence[int], seed: int, uid: Tensor, possible: Tensor) -> Draws:
    b, n, device = len(uid), sum(slots), uid.device
    skipped, active = torch.empty(b, dtype=torch.bool, device=device), torch.empty(b, n, dtype=torch.bool, device=device)
    radii_mm, elastic_mm = (torch.empty(b, n, *size, dtype=torch.float32, device=device) for size in ((3,), (3, 2, 3, 3)))
    scalars = torch.empty(7, b, dtype=torch.float32, device=device)
    out = [skipped, active, radii_mm, elastic_mm, scalars]
    arguments: list[object] = [*out, scan_row, group_rows, possible, uid.contiguous(), _launch.key(seed), n]
    _launch.launch("plan", "draw_kernel", (b, 1, 1), (256, 1, 1), arguments)
    return Draws(skipped, active, radii_mm, elastic_mm, *scalars.unbind())


def tally(active: Bool[Tensor, "b slots"], skipped: Bool[Tensor, " b"], backend: str = "torch") -> Int[Tensor, "2"]:
    """Count lesions and skipped samples of a plan, int64, on its device.

    Args:
        active: Slots in use.
        skipped: Samples that were to be altered and cannot be.
        backend: "torch" or "cupy".
    """
    return (_tally_cuda if backend == "cupy" else tally_torch)(active, skipped)


def _tally_cuda(active: Tensor, skipped: Tensor) -> Tensor:
    counts = torch.empty(2, dtype=torch.int64, device=active.device)
    of_plan = (active.contiguous(), skipped.contiguous(), active.numel(), skipped.numel())
    _launch.launch("plan", "tally_kernel", (1, 1, 1), (256, 1, 1), (counts, *of_plan))
    return counts


def tally_torch(active: Tensor, skipped: Tensor) -> Tensor:
    """Twin of the kernel."""
    return torch.stack((active.sum(), skipped.sum()))


def draw_torch(scan_row: Tensor, group_rows: Tensor, slots: Sequence[int], seed: int, uid: Tensor, possible: Tensor) -> Draws:
    """Twin of the kernel."""
    word = words(seed, uid, Purpose.SCAN, 1, Word.WORDS)[:, 0]

    def within(which: Word, column: Scan) -> Tensor:
        return to_uniform(word[:, which], scan_row[column], scan_row[column + 1])

    ends = scan_row[Scan.CLASS_END : Scan.CLASS_END + len(slots)]  # of all classes but the mix, which ends at 1
    size_class = (to_uniform(word[:, Word.SIZE_CLASS])[:, None] >= ends).sum(-1)
    fine = to_uniform(word[:, Word.GRAIN_FINE]) < scan_row[Scan.GRAIN_FINE_PROB]
    altered = to_uniform(word[:, Word.ALTER]) < scan_row[Scan.ALTER_PROB]
    radii_mm, elastic_mm = _draw_lesions(group_rows, slots, seed, uid)
    return Draws(
        skipped=altered & ~possible,
        active=_draw_counts(group_rows, slots, seed, uid, size_class) & (altered & possible)[:, None],
        radii_mm=radii_mm,
        elastic_mm=elastic_mm,
        density_sigma_mm=within(Word.DENSITY_SIGMA, Scan.DENSITY_SIGMA_MM),
        density_scale=within(Word.DENSITY_SCALE, Scan.DENSITY_SCALE),
        density_offset=within(Word.DENSITY_OFFSET, Scan.DENSITY_OFFSET),
        grain_sigma_mm=torch.where(
            fine, within(Word.GRAIN_SIGMA, Scan.GRAIN_FINE_SIGMA_MM), within(Word.GRAIN_SIGMA, Scan.GRAIN_COARSE_SIGMA_MM)
        ),
        texture_gain=within(Word.TEXTURE_GAIN, Scan.TEXTURE_GAIN),
        edge_sigma_mm=within(Word.EDGE_SIGMA, Scan.EDGE_SIGMA_MM),
        contrast_hu=within(Word.CONTRAST, Scan.CONTRAST_HU),
    )


def _draw_counts(group_rows: Tensor, slots: Sequence[int], seed: int, uid: Tensor, size_class: Tensor) -> Bool[Tensor, "b slots"]:
    """Switch on as many slots of each group as the scan's class wants of it; the class after the last group is the mix of all."""
    groups = len(slots)
    word = words(seed, uid, Purpose.COUNT, groups, 1)[..., 0]
    count_range = group_rows.to(torch.int64)
    mixed = size_class[:, None] == groups
    alone = size_class[:, None] == torch.arange(groups, device=uid.device)
    count, mix_count = (to_integer(word, count_range[:, c], count_range[:, c + 1]) for c in (Group.COUNT, Group.MIX_COUNT))
    wanted = torch.where(mixed, mix_count, torch.where(alone, count, 0))
    return torch.cat([torch.arange(n, device=uid.device) < wanted[:, group, None] for group, n in enumerate(slots)], 1)


def _draw_lesions(group_rows: Tensor, slots: Sequence[int], seed: int, uid: Tensor) -> tuple[Tensor, Tensor]:
    """Draw semi-axes and elastic control points for every slot, used or not."""
    row = torch.cat([group_rows[group].expand(n, -1) for group, n in enumerate(slots)])
    whole = row.to(torch.int64)
    word = words(seed, uid, Purpose.LESION, len(row), 4)
    radii_mm = to_integer(word[..., :3], whole[:, None, Group.RADIUS_MM], whole[:, None, Group.RADIUS_MM + 1]).to(torch.float32)
    low, high = Group.ELASTIC_SIGMA_MM, Group.ELASTIC_SIGMA_MM + 1
    sigma_mm = torch.where(
        row[:, Group.ELASTIC_SIGMA_INTEGER] > 0,
        to_integer(word[..., 3], whole[:, low], whole[:, high]).to(torch.float32),
        to_uniform(word[..., 3], row[:, low], row[:, high]),
    )
    normal = to_normal(words(seed, uid, Purpose.ELASTIC, len(row), ELASTIC_WORDS))
    elastic_mm = (normal * sigma_mm[..., None]).view(*sigma_mm.shape, 3, 2, 3, 3)
    return radii_mm, elastic_mm

"""Every scalar that is drawn for a scan, from a flat table of floats.

The table has one row for the scan and one for each size group; `Scan` and `Group` name their columns. Lesions live in a fixed number
of slots, the groups one after another, so nothing about a plan's shapes depends on what was drawn.

Cost: 10 words a scan, 6 + 54 a slot; some 1800 words a scan at 28 slots.
"""

from collections.abc import Sequence
from enum import IntEnum, unique
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpu_synth.kernels.rng import Purpose, to_integer, to_normal, to_uniform, words


@unique
class Scan(IntEnum):
    """Columns of the scan's row; a range takes two, its low and its high, and the size classes' probabilities five."""

    ALTER_PROB = 0
    CLASS_PROB = 1
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
    """Columns of a size group's row: low and high of each range, then a flag."""

    RADIUS_MM = 0
    COUNT = 2
    MIX_COUNT = 4
    ELASTIC_SIGMA_MM = 6
    ELASTIC_SIGMA_INTEGER = 8
    COLUMNS = 9


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
    """What was drawn, before anything is known of the organ."""

    altered: Bool[Tensor, " b"]
    active: Bool[Tensor, "b slots"]
    radii_mm: Float[Tensor, "b slots 3"]
    elastic_mm: Float[Tensor, "b slots 3 2 3 3"]
    place_words: Int[Tensor, "b slots 2"]
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
) -> Draws:
    """Draw everything that a scan and its lesions need.

    Args:
        scan_row: The scan's part of the table, see `Scan`.
        group_rows: The size groups' part, see `Group`.
        slots: Lesion slots of each group; at least the most lesions that the table allows it.
        seed: The run's seed.
        uid: The samples' ordinals in the run.

    Source: Hu et al. 2022; facts on the published method: class, counts, semi-axes, elastic, texture, edge and contrast draws.
    """
    word = words(seed, uid, Purpose.SCAN, 1, Word.WORDS)[:, 0]

    def within(which: Word, column: Scan) -> Tensor:
        return to_uniform(word[:, which], scan_row[column], scan_row[column + 1])

    prob_end = scan_row[Scan.CLASS_PROB : Scan.CLASS_PROB + len(slots)].cumsum(0)  # of all classes but the mix, which ends at 1
    size_class = (to_uniform(word[:, Word.SIZE_CLASS])[:, None] >= prob_end).sum(-1)
    fine = to_uniform(word[:, Word.GRAIN_FINE]) < scan_row[Scan.GRAIN_FINE_PROB]
    radii_mm, elastic_mm, place_words = _draw_lesions(group_rows, slots, seed, uid)
    return Draws(
        altered=to_uniform(word[:, Word.ALTER]) < scan_row[Scan.ALTER_PROB],
        active=_draw_counts(group_rows, slots, seed, uid, size_class),
        radii_mm=radii_mm,
        elastic_mm=elastic_mm,
        place_words=place_words,
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


def _draw_lesions(group_rows: Tensor, slots: Sequence[int], seed: int, uid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw semi-axes, elastic control points and placement words for every slot, used or not."""
    row = torch.cat([group_rows[group].expand(n, -1) for group, n in enumerate(slots)])
    whole = row.to(torch.int64)
    word = words(seed, uid, Purpose.LESION, len(row), 6)
    radii_mm = to_integer(word[..., :3], whole[:, None, Group.RADIUS_MM], whole[:, None, Group.RADIUS_MM + 1]).to(torch.float32)
    low, high = Group.ELASTIC_SIGMA_MM, Group.ELASTIC_SIGMA_MM + 1
    sigma_mm = torch.where(
        row[:, Group.ELASTIC_SIGMA_INTEGER] > 0,
        to_integer(word[..., 3], whole[:, low], whole[:, high]).to(torch.float32),
        to_uniform(word[..., 3], row[:, low], row[:, high]),
    )
    normal = to_normal(words(seed, uid, Purpose.ELASTIC, len(row), ELASTIC_WORDS))
    elastic_mm = (normal * sigma_mm[..., None]).view(*sigma_mm.shape, 3, 2, 3, 3)
    return radii_mm, elastic_mm, word[..., 4:6]

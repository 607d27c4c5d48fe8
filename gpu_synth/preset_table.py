"""A preset as the kernels see it: a flat table of floats, a number of slots, and bounds that the host knows."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from gpu_synth.kernels._cached import cached
from gpu_synth.kernels.plan import Group, Scan
from gpu_synth.presets import SIZE_GROUPS, Preset


class Bounds(NamedTuple):
    """What a plan's tensors stay within, known without reading the device: it sets the sizes of boxes, cells and kernels."""

    slot_radius_mm: tuple[float, ...]  # base radius of each slot: its box is four a side, so semi-axes reach to two
    density_sigma_mm: float
    grain_sigma_mm: tuple[float, float]
    edge_sigma_mm: float

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, preset: Preset) -> "Bounds":
        """Bounds of all that a preset can draw."""
        radii = [base for base, n in zip(preset.base_radius_mm, slots_of(preset), strict=True) for _ in range(n)]
        fine, coarse = preset.grain_fine_sigma_mm, preset.grain_coarse_sigma_mm
        grain = (min(fine[0], coarse[0]), max(fine[1], coarse[1]))
        return cls(tuple(radii), preset.density_sigma_mm[1], grain, preset.edge_sigma_mm[1])


def slots_of(preset: Preset) -> tuple[int, ...]:
    """Lesion slots of each size group: as many as a scan can have of it."""
    return tuple(max(alone[1], mixed[1]) for alone, mixed in zip(preset.count, preset.mix_count, strict=True))


@cached(maxsize=16)
def parameter_table(preset: Preset, prob: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pack a preset into the flat table that `kernels.plan.draw` reads: the scan's row, and a row for each size group."""
    scan = torch.zeros(Scan.COLUMNS, dtype=torch.float32)
    scan[Scan.ALTER_PROB] = prob
    scan[Scan.CLASS_END : Scan.CLASS_END + len(preset.class_prob)] = torch.tensor(preset.class_prob, dtype=torch.float64).cumsum(0)
    scan[Scan.GRAIN_FINE_PROB] = preset.grain_fine_prob
    for column in (c for c in Scan if c.name.endswith(("_MM", "_SCALE", "_OFFSET", "_GAIN", "_HU"))):
        scan[column : column + 2] = torch.tensor(getattr(preset, column.name.lower()), dtype=torch.float32)
    groups = torch.zeros(len(SIZE_GROUPS), Group.COLUMNS, dtype=torch.float32)
    for ranges in (Group.RADIUS_MM, Group.COUNT, Group.MIX_COUNT, Group.ELASTIC_SIGMA_MM):
        groups[:, ranges : ranges + 2] = torch.tensor(getattr(preset, ranges.name.lower()), dtype=torch.float32)
    groups[:, Group.ELASTIC_SIGMA_INTEGER] = torch.tensor(preset.elastic_sigma_integer)
    groups[:, Group.SLOTS] = torch.tensor(slots_of(preset))
    return scan.to(device, non_blocking=True), groups.to(device, non_blocking=True)

"""A preset of the lesion model as the flat table of floats that the kernels read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gpu_synth.kernels._cached import cached
from gpu_synth.kernels._columns import Kind, Scan
from gpu_synth.lesion_preset import LesionPreset

_SINGLE = (
    *(Scan.EDGE_SHARE, Scan.CNR_FLOOR, Scan.CLUSTER_PROB, Scan.CLUSTER_MM, Scan.SATELLITE_PROB, Scan.SATELLITE_FROM_MM, Scan.SATELLITE_MM),
    Scan.CIRRHOSIS_PROB,
)
_SEVERAL = (
    *(Scan.COUNT, Scan.AXIS_RATIO, Scan.IRREGULARITY, Scan.LOBULATION, Scan.SPICULATION, Scan.TEXTURE_MM, Scan.EDGE_MM, Scan.SIZE_MM),
    *(Scan.MASS_EFFECT, Scan.BULGE, Scan.HALO, Scan.HALO_MM, Scan.SATELLITES, Scan.SATELLITE_RADIUS_MM, Scan.SURFACE_MM, Scan.NODULE_HU),
)


@cached(maxsize=16)
def lesion_table(preset: LesionPreset, prob: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pack a preset into the flat table that `kernels.traits` reads: the scan's row, and a row for each kind."""
    columns: dict[Scan, Sequence[float]] = {
        Scan.ALTER_PROB: (prob,),
        Scan.ORGAN_HU: (preset.least_organ_hu,),
        Scan.SIZE_END: torch.tensor(preset.size_prob, dtype=torch.float64).cumsum(0).tolist(),
        Scan.SIZE_START: torch.tensor(preset.size_prob_start, dtype=torch.float64).cumsum(0).tolist(),
        Scan.CURRICULUM: (preset.curriculum_samples,),
        **{column: (getattr(preset, column.name.lower()),) for column in _SINGLE},
        **{column: getattr(preset, column.name.lower()) for column in _SEVERAL},
    }
    scan = torch.zeros(Scan.COLUMNS, dtype=torch.float32)
    for column, values in columns.items():
        scan[column : column + len(values)] = torch.tensor(values, dtype=torch.float32)
    kinds = torch.zeros(len(preset.kinds), Kind.COLUMNS, dtype=torch.float32)
    kinds[:, Kind.END] = torch.tensor([kind.prob for kind in preset.kinds], dtype=torch.float64).cumsum(0)
    for row, kind in zip(kinds, preset.kinds, strict=True):
        for column_, values in kind.row().items():
            row[column_ : column_ + len(values)] = torch.tensor(values, dtype=torch.float32)
    return scan.to(device, non_blocking=True), kinds.to(device, non_blocking=True)

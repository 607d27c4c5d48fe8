"""Tables that kernels of the lesion model are tested with: every kind, every trait in use."""

from dataclasses import replace

import torch

from gpu_synth.lesion_table import lesion_table
from gpu_synth.organs import LIVER

BUSY = replace(
    LIVER,
    count=(3, 9),
    spiculation=(0.0, 0.3),
    cnr_floor=1.5,
    halo=(-0.2, 0.2),
    cluster_prob=0.3,
    satellite_prob=0.8,
    satellites=(1, 3),
    cirrhosis_prob=0.5,
    size_prob_start=(0.1, 0.2, 0.3, 0.4),
    curriculum_samples=5,
)


def busy_tables(device: torch.device, prob: float = 0.9) -> tuple[torch.Tensor, torch.Tensor]:
    return lesion_table(BUSY, prob, device)

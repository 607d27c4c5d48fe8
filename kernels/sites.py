"""Where lesions of known size go: a uniform voxel of the organ, drawn again where the lesion would reach a vessel or another lesion.

Every slot draws the same number of candidates, each uniform over the organ's voxels by rank, and takes the first that fits; so nothing
is read back, the choice is uniform over all places that fit, and a lesion for which none of them does is left out.

Cost: 1 byte read a voxel; for each lesion 32 candidates, with 256 looks at the vessel map each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gpu_synth.kernels import _launch
from gpu_synth.kernels._cached import cached
from gpu_synth.kernels.rng import Purpose, to_integer, to_uniform, words

CANDIDATES, LOOKS, SLOTS = 32, 256, 64


class Sites(NamedTuple):
    """Where lesions are."""

    centre_vox: Float[Tensor, "b slots 3"]
    placed: Bool[Tensor, "b slots"]
    possible: Bool[Tensor, " b"]  # an organ, and no tumour yet


def sites(
    label: Int[Tensor, "b i j k"],
    vessel: UInt8[Tensor, "b i j k"] | None,
    reach_mm: Float[Tensor, "b slots"],
    active: Bool[Tensor, "b slots"],
    apart_mm: float,
    spacing_mm: Sequence[float],
    organ_label: int,
    tumor_label: int,
    seed: int,
    uid: Int[Tensor, " b"],
    backend: str = "torch",
) -> Sites:
    """Choose a centre for every active lesion.

    Args:
        label: Labels.
        vessel: Voxels that no lesion may reach; None where lesions may reach any.
        reach_mm: How far each lesion reaches from its centre.
        active: Slots in use.
        apart_mm: Distance that lesions keep from each other; below −1000 they need not.
        spacing_mm: Along i, j, k.
        organ_label: Number of the organ; a lesion's centre lies in it.
        tumor_label: Number of tumours: a sample that has one gets no other.
        seed: The run's seed.
        uid: The samples' ordinals in the run.
        backend: "torch" or "cupy".

    Source: Hu et al. 2023: a lesion whose radius reaches a vessel is drawn again.
    """
    run = _sites_cuda if backend == "cupy" else sites_torch
    return run(label, vessel, reach_mm, active, apart_mm, spacing_mm, organ_label, tumor_label, seed, uid)


def _sites_cuda(
    label: Tensor,
    vessel: Tensor | None,
    reach_mm: Tensor,
    active: Tensor,
    apart_mm: float,
    spacing_mm: Sequence[float],
    organ_label: int,
    tumor_label: int,
    seed: int,
    uid: Tensor,
) -> Sites:
    label, reach_mm, device = label.contiguous(), reach_mm.contiguous(), label.device
    b, ni, nj, nk = label.shape
    slots, lines = reach_mm.shape[1], np.int64(ni * nj)
    if slots > SLOTS:
        raise ValueError(f"lesions must be at most {SLOTS} for backend 'cupy', got {slots}; lower the preset's count")
    kind, mm = (_launch.label_kind(label.dtype), np.int64(organ_label)), [np.float32(spacing) for spacing in spacing_mm]
    in_line, ends = (torch.empty(b, ni * nj, dtype=torch.int32, device=device) for _ in range(2))
    tumor_seen = torch.zeros(b, dtype=torch.int32, device=device)
    arguments: list[object] = [in_line, tumor_seen, label, *kind, np.int64(tumor_label), lines, np.int32(nk)]
    _launch.launch("sites", "lines_kernel", (-(-ni * nj // 128), b, 1), (128, 1, 1), arguments)
    _launch.launch("sites", "ends_kernel", (b, 1, 1), (128, 1, 1), (ends, in_line, lines))
    centre = torch.empty(b, slots, CANDIDATES, 3, dtype=torch.float32, device=device)
    clear = torch.empty(b, slots, CANDIDATES, dtype=torch.bool, device=device)
    looks = (_launch.NULL if vessel is None else vessel, look_offsets(str(device)), reach_mm, uid, _launch.key(seed))
    arguments = [centre, clear, ends, label, *looks, *kind, np.int32(ni), np.int32(nj), np.int32(nk), *mm]
    _launch.launch("sites", "candidates_kernel", (slots, b, 1), (128, 1, 1), arguments)
    chosen, placed = torch.empty(b, slots, 3, dtype=torch.float32, device=device), torch.empty(b, slots, dtype=torch.bool, device=device)
    possible = torch.empty(b, dtype=torch.bool, device=device)
    rest = (ends, tumor_seen, np.float32(apart_mm), np.int32(slots), lines, *mm)
    _launch.launch("sites", "choose_kernel", (b, 1, 1), (32, 1, 1), (chosen, placed, possible, centre, clear, reach_mm, active, *rest))
    return Sites(chosen, placed, possible)


def sites_torch(
    label: Tensor,
    vessel: Tensor | None,
    reach_mm: Tensor,
    active: Tensor,
    apart_mm: float,
    spacing_mm: Sequence[float],
    organ_label: int,
    tumor_label: int,
    seed: int,
    uid: Tensor,
) -> Sites:
    """Twin of the kernels."""
    b, slots = reach_mm.shape
    nj, nk = label.shape[2:]
    spacing = torch.tensor(spacing_mm, dtype=torch.float32).to(label.device, non_blocking=True)
    ends = (label == organ_label).flatten(1).cumsum(1, dtype=torch.int32)
    word = words(seed, uid, Purpose.SITE, slots, 4 * CANDIDATES).view(b, slots, CANDIDATES, 4)
    total = ends[:, -1].to(torch.int64)
    rank = to_integer(word[..., 0], 0, total[:, None, None] - 1)
    at = torch.searchsorted(ends, rank.view(b, -1).to(torch.int32), right=True).view(rank.shape).clamp_max(ends.shape[1] - 1)
    voxel = torch.stack((at // (nj * nk), at // nk % nj, at % nk), -1)
    centre = voxel.to(torch.float32) + (to_uniform(word[..., 1:]) - 0.5)
    free = _clear_of(vessel, centre, reach_mm, spacing) if vessel is not None else torch.ones_like(rank, dtype=torch.bool)
    possible = (total > 0) & ~(label == tumor_label).flatten(1).any(1)

    chosen, placed = torch.zeros(b, slots, 3, device=label.device), torch.zeros_like(active)
    for slot in range(slots):
        gap = ((centre[:, slot, :, None] - chosen[:, None, :slot]) * spacing).square().sum(-1)  # (b, candidates, earlier slots)
        least = (reach_mm[:, slot, None, None] + reach_mm[:, None, :slot] + apart_mm).clamp_min(0.0).square()
        fits = free[:, slot] & ((gap >= least) | ~placed[:, None, :slot]).all(-1)
        first = torch.where(fits, torch.arange(CANDIDATES, device=label.device), CANDIDATES).amin(-1)
        placed[:, slot] = active[:, slot] & possible & (first < CANDIDATES)
        index = first.clamp_max(CANDIDATES - 1)[:, None, None].expand(-1, 1, 3)
        chosen[:, slot] = centre[:, slot].gather(1, index)[:, 0]
    return Sites(chosen, placed, possible)


def _clear_of(vessel: Tensor, centre_vox: Tensor, reach_mm: Tensor, spacing_mm: Tensor) -> Bool[Tensor, "b slots candidates"]:
    """Whether none of the points spread over a lesion's ball lies in a vessel; beyond the array there is none."""
    looks = look_offsets(str(vessel.device))
    shape = torch.tensor(vessel.shape[1:], device=vessel.device)
    clear = torch.ones(centre_vox.shape[:-1], dtype=torch.bool, device=vessel.device)
    sample = torch.arange(len(vessel), device=vessel.device)[:, None, None]
    for slot in range(reach_mm.shape[1]):
        point = (centre_vox[:, slot, :, None] + looks * (reach_mm[:, slot, None, None, None] / spacing_mm)).round().to(torch.int64)
        there = ((point >= 0) & (point < shape)).all(-1)
        i, j, k = point.clamp_min(0).minimum(shape - 1).unbind(-1)
        clear[:, slot] = ~((vessel[sample, i, j, k] > 0) & there).any(-1)
    return clear


@cached(maxsize=8)
def look_offsets(device: str) -> Float[Tensor, "256 3"]:
    """Points spread evenly through the unit ball (Fibonacci directions, equal volumes)."""
    n = torch.arange(LOOKS, dtype=torch.float64) + 0.5
    z, turn = 1.0 - 2.0 * n / LOOKS, torch.pi * (1.0 + 5.0**0.5) * n
    radius = ((n * 0.6180339887498949) % 1.0) ** (1.0 / 3.0)
    across = (1.0 - z**2).sqrt()
    return (torch.stack((across * turn.cos(), across * turn.sin(), z), -1) * radius[:, None]).to(torch.float32).to(device)

"""Regenerative nodules: space parted into rounded cells by twelve random fields that compete for each point.

A nodule is where one field is the largest. How far it is ahead of the second, its lead, is 0 on the septa between nodules and grows
towards their middle: a nodule is a mound of that, the higher the wider it is, times its field's own contrast. Each field is a sum of eight
plane waves in random directions, a function of key and position, the same in every crop.

Of nodules that are all as bright, with septa of a millimetre, an organ looks paved: a CT resolves neither such septa nor finds all nodules.

One field and its zero set would not do: in three dimensions a region that fills half of space hangs together, so a liver would be made of
two nodules, sheets and worms in a slice. Each of twelve regions fills 8 %; up to some 16 %, regions of smooth random fields fall apart.

Cost on a CPU: along an axis, a wave is a table of cosines and sines; the sum over a field's waves is one product of matrices, (i · j × 16)
by (16 × k): 384 operations a voxel for all fields, and 55 comparisons and marks.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from gpu_synth.kernels import _host
from gpu_synth.kernels.rng import Purpose, to_uniform, words

FIELDS, WAVES = 12, 8
LONGEST_MM, SHORTEST_MM = 25.0, 11.5  # our choice: nodules then take the 3 to 15 mm that are known of them, see the tests
HALF_LEAD = 1.0  # where a mound is half as high as it can be
LEAST_CONTRAST, CONTRAST_STEP = 0.45, 0.1  # of the first field, and from one to the next: of mean 1, so that no sample is brighter
MEAN, SD = 0.2051, 0.2338  # of contrast · lead² / (lead² + HALF_LEAD²), all phases being equally likely
_MARKS = 16  # as many numbers fit into four bits
_PLANES = 16  # worked on at a time on a host: what stays in cache


def waves(seed: int, uid: Int[Tensor, " b"]) -> Float[Tensor, "b fields waves 4"]:
    """Draw wave vectors, in turns per mm along i, j, k, and phases in turns; float64. Directions are isotropic, frequencies uniform."""
    drawn = to_uniform(words(seed, uid, Purpose.NODULE, FIELDS, 4 * WAVES)).double().view(len(uid), FIELDS, WAVES, 4)
    cosine, around, frequency, phase = drawn.unbind(-1)
    per_mm = 1.0 / LONGEST_MM + (1.0 / SHORTEST_MM - 1.0 / LONGEST_MM) * frequency
    cosine, angle = 2.0 * cosine - 1.0, 2.0 * math.pi * around
    across = (1.0 - cosine * cosine).sqrt() * per_mm
    return torch.stack((across * angle.cos(), across * angle.sin(), cosine * per_mm, phase), -1)


def nodules(
    wave: Float[Tensor, "fields waves 4"], box: Sequence[tuple[int, int]], spacing_mm: Sequence[float], origin_vox: Sequence[int]
) -> Float[Tensor, "i j k"]:
    """Profile of one sample's nodules, of mean 0 and standard deviation 1: least on septa, −0.88, and up to 6 amid the largest.

    Args:
        wave: From `waves`.
        box: Which voxels, as start and end along i, j, k.
        spacing_mm: Along i, j, k.
        origin_vox: First voxel of the array in the whole.
    """
    of_i, of_j, of_k = (_table(wave, axis, box[axis], spacing_mm[axis], origin_vox[axis]) for axis in range(3))
    of_k = torch.view_as_real(of_k.conj().resolve_conj()).flatten(2).transpose(1, 2)  # the real part of a product: re · re − im · im
    out = torch.empty(of_i.shape[1], of_j.shape[1], of_k.shape[2], device=wave.device)
    step = _PLANES if _host.on_host(wave.device) else max(len(out), 1)
    for planes in (slice(start, start + step) for start in range(0, len(out), step)):
        of_ij = torch.view_as_real(of_i[:, planes, None] * of_j[:, None]).flatten(3).flatten(1, 2)
        lead, contrast = _lead(of_ij, of_k)
        square = lead.square_().mul_(2.0 / WAVES)
        out[planes] = square.div_(square + HALF_LEAD**2).mul_(contrast).sub_(MEAN).div_(SD).view(-1, *out.shape[1:])
    return out


def _table(wave: Tensor, axis: int, ends: tuple[int, int], spacing_mm: float, origin: int) -> Complex[Tensor, "fields n waves"]:
    """exp(i · angle) of each wave along an axis; the first axis takes the phase."""
    at_mm = (torch.arange(*ends, device=wave.device) + origin).double() * spacing_mm
    turns = at_mm[:, None] * wave[:, None, :, axis]
    if axis == 0:
        turns = turns + wave[:, None, :, 3]
    angle = (turns - turns.floor()).mul_(2.0 * math.pi)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def _lead(of_ij: Float[Tensor, "fields n waves"], of_k: Float[Tensor, "fields waves k"]) -> tuple[Tensor, Tensor]:
    """How far the largest product is ahead of the second, and its field's contrast, `(n, k)`."""
    first = torch.mm(of_ij[0], of_k[0])
    second, value, lesser = torch.full_like(first, -math.inf), torch.empty_like(first), torch.empty_like(first)
    winner, number = first.view(torch.int32), value.view(torch.int32)
    winner.bitwise_and_(-_MARKS)  # the last four bits, 2e-6 of a value, say which field it is: a maximum then finds both
    for field in range(1, FIELDS):
        torch.mm(of_ij[field], of_k[field], out=value)
        number.bitwise_and_(-_MARKS).bitwise_or_(field)
        torch.minimum(first, value, out=lesser)
        torch.maximum(first, value, out=first)
        torch.maximum(second, lesser, out=second)
    contrast = winner.bitwise_and(_MARKS - 1).float().mul_(CONTRAST_STEP).add_(LEAST_CONTRAST)
    return first.sub_(second), contrast

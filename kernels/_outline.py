"""Outlines and textures as sums of random waves: smooth, of any size, a function of key, slot and position alone.

An outline is how far a lesion reaches in each direction of its own ellipsoid, 1 on average: eight waves on the sphere for each of three
octaves. A texture is twelve waves in space. Waves are drawn a block of four words each: three components and a phase.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.kernels._cached import cached
from gpu_synth.kernels.rng import Purpose, to_uniform, words

OCTAVES, OF_OCTAVE = 3, 8
OUTLINE_WAVES, TEXTURE_WAVES = OCTAVES * OF_OCTAVE, 12
WAVES = OUTLINE_WAVES + TEXTURE_WAVES
HALF_TURNS = (1.0, 2.0, 4.0)  # a radius, along each component of an octave's wave vectors, at the most
WEIGHT = (0.8, 0.5, 0.33)  # of the octaves in an irregular outline: their squares add up to 1
MEAN_ABS = 0.8  # of a standard normal number: lobes are |wave|, which is this on average
SPIKE_SD = 2.5  # standard deviations of its waves at which a spike has its full height
LEAST = 0.35  # an outline reaches at least this far
DIRECTIONS = 256


def waves(seed: int, uid: Int[Tensor, " b"], slots: int) -> Float[Tensor, "b slots waves 4"]:
    """Draw wave vectors and phases of every lesion: components in [−1, 1), phases in [0, 2) half turns."""
    u = to_uniform(words(seed, uid, Purpose.OUTLINE, slots, 4 * WAVES)).view(len(uid), slots, WAVES, 4)
    return torch.cat((u[..., :3] * 2.0 - 1.0, u[..., 3:] * 2.0), -1)


def radius_at(
    waves: Float[Tensor, "... waves 4"], direction: Float[Tensor, "... n 3"], outline: Float[Tensor, "... 3"], most: Float[Tensor, "..."]
) -> Float[Tensor, "... n"]:
    """How far the outline reaches in the given directions, in radii.

    Args:
        waves: Those of the lesion.
        direction: Unit vectors in the ellipsoid's own axes.
        outline: Irregularity, the standard deviation of bumps of all octaves; lobulation, the height of lobes, which are rounded outwards
            and have notches between them; spiculation, the height of spikes.
        most: It reaches no farther.
    """
    octaves = _of_waves(waves[..., :OUTLINE_WAVES, :], direction, *_octaves(waves.device, waves.dtype))
    first, second, third = octaves.unbind(-1)
    irregularity, lobulation, spiculation = outline[..., None].unbind(-2)
    bumps = WEIGHT[0] * first + WEIGHT[1] * second + WEIGHT[2] * third
    lobes, spike = second.abs() - MEAN_ABS, third.clamp(0.0, SPIKE_SD) / SPIKE_SD
    reach = 1.0 + irregularity * bumps + lobulation * lobes + spiculation * (spike * spike * spike)
    return reach.clamp_min(LEAST).minimum(most[..., None])


def rotation(quaternion: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3 3"]:
    """Rotation matrices of unit quaternions; an offset times one of them is told in the lesion's own axes."""
    w, x, y, z = quaternion.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _of_waves(some: Tensor, point: Tensor, half_turns: Tensor, sums: Tensor) -> Float[Tensor, "... n groups"]:
    """Waves at points, added up by the columns of a matrix."""
    angle = torch.matmul(point, (some[..., :3] * (math.pi * half_turns)).mT).add_(math.pi * some[..., None, :, 3])
    return torch.matmul(angle.cos_(), sums)


@cached(maxsize=8)
def _octaves(device: torch.device, dtype: torch.dtype) -> tuple[Float[Tensor, "waves 1"], Float[Tensor, "waves octaves"]]:
    """What an octave's wave vectors are multiplied by; and which waves an octave adds up, to a variance of 1."""
    half_turns = torch.tensor(HALF_TURNS, dtype=dtype).repeat_interleave(OF_OCTAVE)[:, None]
    sums = torch.eye(OCTAVES, dtype=dtype).repeat_interleave(OF_OCTAVE, 0) * math.sqrt(2.0 / OF_OCTAVE)
    return half_turns.to(device), sums.to(device)


@cached(maxsize=8)
def _texture(device: torch.device, dtype: torch.dtype) -> tuple[Float[Tensor, "waves 1"], Float[Tensor, "waves 1"]]:
    """The same of the texture's waves: one sum."""
    ones = torch.ones(TEXTURE_WAVES, 1, dtype=dtype)
    return (2.0 * ones).to(device), (math.sqrt(2.0 / TEXTURE_WAVES) * ones).to(device)


def texture_at(waves: Float[Tensor, "... waves 4"], offset: Float[Tensor, "... n 3"]) -> Float[Tensor, "... n"]:
    """Twelve waves in space, of variance 1.

    Args:
        waves: Those of the lesion.
        offset: Positions relative to its centre, in wavelengths of its texture times √3 (components are at most 1).
    """
    return _of_waves(waves[..., OUTLINE_WAVES:, :], offset, *_texture(waves.device, waves.dtype))[..., 0]


@cached(maxsize=8)
def directions(device: str) -> Float[Tensor, "256 3"]:
    """Directions spread evenly over the sphere (Fibonacci)."""
    n = torch.arange(DIRECTIONS, dtype=torch.float64) + 0.5
    z = 1.0 - 2.0 * n / DIRECTIONS
    across, turn = (1.0 - z**2).sqrt(), math.pi * (1.0 + 5.0**0.5) * n
    return torch.stack((across * turn.cos(), across * turn.sin(), z), -1).to(torch.float32).to(device)

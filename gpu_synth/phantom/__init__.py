"""A procedural abdominal CT with a liver, so that everything runs with no data at hand.

The anatomy lies in millimetres (`gpu_synth.phantom.anatomy`), each tissue has the HU that CT shows in that phase, and the noise has the
spectrum of filtered back-projection. Nothing is read from a scan.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gpu_synth.checks import check_choice, check_seed, check_spacing
from gpu_synth.kernels import rng
from gpu_synth.phantom.anatomy import Person, anatomy
from gpu_synth.phantom.implicit import Grid, Lattice, Random
from gpu_synth.phantom.tissues import TISSUE_HU, Canvas, paint
from gpu_synth.precision import full_precision

PHASES = ("venous", "none")
FINEST_MM = 3.0  # thicker voxels are averaged from thinner ones
LIVER_MM = (70.0, 15.0, 0.0)  # the liver's middle in the trunk's frame
LIVER_EXTENT_MM = (230.0, 190.0, math.inf)  # room that it takes; in k the field stays where the liver is
EDGE_MM = 1.2  # the scanner's own blur
HU_SLOT = 100
NOISE_HU = 12.0  # at 2 mm, in the middle of the trunk


class Phantom(NamedTuple):
    """CT and the organ in it.

    Attributes:
        image: HU.
        label: 1 in the liver, its inner vessels included; 0 elsewhere.
    """

    image: Float[Tensor, "b 1 i j k"]
    label: UInt8[Tensor, "b 1 i j k"]


def phantom(
    uid: int | Sequence[int],
    shape: Sequence[int] = (192, 192, 128),
    spacing_mm: Sequence[float] = (2.0, 2.0, 2.0),
    phase: str = "venous",
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Phantom:
    """Draw abdominal CTs of healthy people who never were.

    Axes are RAS: i grows to the patient's right, j to anterior, k to superior. The anatomy lies in millimetres: the same uid shows
    the same person at every spacing. The field's middle is the liver's, and moves towards that of the trunk in i and j as far as
    the liver stays within the field: a field wider than the trunk shows all of it, a small one the liver.

    Args:
        uid: Which person, or several; another number, another anatomy.
        shape: Voxels along i, j, k.
        spacing_mm: Voxel spacing along i, j, k.
        phase: "venous" for portal-venous contrast, "none" for none.
        seed: Key of all randomness.
        device: Where to draw.

    Returns:
        Image, float32 HU, and label, uint8: `(b, 1, i, j, k)`, b the number of uids.

    Raises:
        ValueError: An argument is out of range.
    """
    uids, size, spacing = _check(uid, shape, spacing_mm)
    check_choice("phase", phase, PHASES)
    check_seed(seed)
    with torch.no_grad(), full_precision(torch.device(device), "torch"):
        drawn = [_person(Random(seed, one), size, spacing, PHASES.index(phase), torch.device(device)) for one in uids]
    image, label = (torch.stack(part)[:, None] for part in zip(*drawn, strict=True))
    return Phantom(image, label)


def _check(uid: Any, shape: Any, spacing_mm: Any) -> tuple[list[int], tuple[int, ...], tuple[float, float, float]]:
    uids = list(uid) if isinstance(uid, Sequence) and not isinstance(uid, str) else [uid]
    if not uids or any(isinstance(one, bool) or not isinstance(one, int) or not -(2**63) <= one < 2**63 for one in uids):
        raise ValueError(f"uid must be an integer of 64 bits or a sequence of them, got {uid!r}; phantom(uid=range(4)) draws four")
    size = tuple(shape) if isinstance(shape, Sequence) else ()
    if len(size) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(f"shape must be three integers above 0, got {shape!r}; voxels along i, j, k such as (192, 192, 128)")
    return uids, size, check_spacing(spacing_mm, 1)[0]


def _person(random: Random, shape: Sequence[int], spacing_mm: Sequence[float], phase: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """One person's image and label."""
    person = Person.draw(random)
    split = [math.ceil(spacing / FINEST_MM) for spacing in spacing_mm]
    fine_mm = [spacing / parts for spacing, parts in zip(spacing_mm, split, strict=True)]
    fine_vox = [n * parts for n, parts in zip(shape, split, strict=True)]
    first = [_middle(axis, n * step) - 0.5 * (n - 1) * step for axis, (n, step) in enumerate(zip(fine_vox, fine_mm, strict=True))]
    last = [low + (n - 1) * step for low, n, step in zip(first, fine_vox, fine_mm, strict=True)]
    lattice = Lattice(first, last, random, device)
    axes = [torch.arange(n, device=device, dtype=torch.float32) * step + low for low, n, step in zip(first, fine_vox, fine_mm, strict=True)]
    spread = random.uniform(HU_SLOT, len(TISSUE_HU))
    hu = {name: row[phase] + row[2] * (2.0 * float(u) - 1.0) for (name, row), u in zip(TISSUE_HU.items(), spread, strict=True)}
    canvas = Canvas(Grid(axes, lattice), hu, math.sqrt(sum(step**2 for step in fine_mm) / 3 + EDGE_MM**2))
    liver, skin = paint(canvas, person, anatomy(person, lattice))
    image, liver, skin = (_pool(field, split) for field in (canvas.image, liver, skin))
    noise = _noise(random, shape, spacing_mm, device) * (0.6 - skin / 180.0).clamp_(0.4, 1.1)
    return image + noise, (liver < 0).to(torch.uint8)


def _middle(axis: int, field_mm: float) -> float:
    """Where the field's middle lies: at the liver's, or nearer the trunk's by the room there is."""
    room = max(0.0, (field_mm - LIVER_EXTENT_MM[axis]) / 2)
    return max(0.0, LIVER_MM[axis] - room)


def _pool(field: Tensor, split: Sequence[int]) -> Tensor:
    """Mean of the points in each voxel."""
    return torch.nn.functional.avg_pool3d(field[None, None], tuple(split))[0, 0] if max(split) > 1 else field


def _noise(random: Random, shape: Sequence[int], spacing_mm: Sequence[float], device: torch.device) -> Tensor:
    """CT noise as filtered back-projection with a soft kernel leaves it, HU.

    In the axial plane the power rises from zero with frequency (the ramp) and falls again as kernel and voxels smooth; neighbouring
    slices overlap. Its SD falls with the width of a voxel, and with the square root of its height, both with the scanner's own
    resolution in quadrature: fewer photons make a small voxel.

    Source: Kak and Slaney 1988, chapter 5, for the ramp; we take a Gaussian for the kernel.
    """
    n, index_count = math.prod(shape), -(-math.prod(shape) // 8)
    uid = torch.full((1,), random.uid, dtype=torch.int64, device=device)
    halves = rng.halfwords(random.seed, uid, rng.Purpose.PHANTOM, torch.arange(index_count, device=device)[None])
    white = math.sqrt(2.0) * torch.erfinv((halves.flatten()[:n].to(torch.float32) - 32767.5) / 32768.0)
    blur_mm = [math.hypot(0.4 * spacing, floor) for spacing, floor in zip(spacing_mm, (0.75, 0.75, 1.0), strict=True)]
    frequency = [
        torch.fft.fftfreq(m, spacing, dtype=torch.float32, device=device) for m, spacing in zip(shape[:2], spacing_mm[:2], strict=True)
    ]
    frequency.append(torch.fft.rfftfreq(shape[2], spacing_mm[2], dtype=torch.float32, device=device))
    i, j, k = (torch.exp(-2.0 * (math.pi * width * f) ** 2) for width, f in zip(blur_mm, frequency, strict=True))
    ramp = (frequency[0][:, None] ** 2 + frequency[1] ** 2) ** 0.25
    response = (ramp * i[:, None] * j)[:, :, None] * k
    both = torch.full_like(k, 2.0)  # a frequency and its negative, but for the first and, of an even length, the last
    both[:: max(shape[2] // 2, 1) if shape[2] % 2 == 0 else shape[2]] = 1.0
    power = (response**2 * both).sum() / n
    coloured = torch.fft.irfftn(torch.fft.rfftn(white.view(*shape)) * response, s=list(shape))
    wide, high = (math.hypot(step, 1.5) / 2.5 for step in (math.sqrt(spacing_mm[0] * spacing_mm[1]), spacing_mm[2]))
    noise: Tensor = coloured * (NOISE_HU / (wide * math.sqrt(high))) / power.clamp_min(1e-12).sqrt()
    return noise

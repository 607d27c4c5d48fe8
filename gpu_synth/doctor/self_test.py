"""Tumours in a phantom on every backend at hand, compared with those of torch on the CPU: what `gpu-synth doctor` ends with."""

import time
from typing import NamedTuple

import torch
from torch import Tensor

from gpu_synth import TumorSynthesizer
from gpu_synth.kernels._launch import lack
from gpu_synth.phantom import Phantom, phantom

PRESETS = ("liver-hu2022", "liver")
SHAPE_VOX, SPACING_MM = (72, 60, 48), (4.0, 4.0, 4.0)  # a whole liver, small enough for seconds on one core
UIDS = (0, 1)
# A displacement within rounding of half a voxel may go either way; shares of a voxel are stored in 16 bits; sums run in another order.
LABEL_SHARE, LEAST_VOXELS = 1e-3, 4  # of the tumour's voxels that may differ, or so many
NEAR_HU, NEAR_SHARE, MOST_HU = 0.1, 1e-3, 3.0  # further apart than the first in this share of voxels; nowhere further than the last
TOLERANCE = (
    f"labels but for {LEAST_VOXELS} voxels or {100 * LABEL_SHARE:g} % of the tumour's, HU within {NEAR_HU:g}, and in "
    f"{100 * NEAR_SHARE:g} % of the voxels within {MOST_HU:g}"
)


class Tried(NamedTuple):
    """A preset on a backend.

    Attributes:
        backend: "torch" or "cupy".
        device: "cpu" or "cuda".
        preset: What was drawn from.
        milliseconds: Both phantoms, planned and rendered, once all is warm.
        lesions: How many were painted.
        differing_vox: Voxels whose label is not the reference's; 0 for the reference.
        apart_hu: How far HU are from the reference's at most, where labels agree.
        error: Why it is not as it must be; empty where it is.
    """

    backend: str
    device: str
    preset: str
    milliseconds: float = 0.0
    lesions: int = 0
    differing_vox: int = 0
    apart_hu: float = 0.0
    error: str = ""


class _Made(NamedTuple):
    """What a backend made of the phantoms, on the CPU."""

    image: Tensor
    label: Tensor
    lesions: int
    milliseconds: float


def backends() -> list[tuple[str, str]]:
    """Backends and devices at hand; the first is the reference."""
    on_cuda = [("torch", "cuda")] if torch.cuda.is_available() else []
    return [("torch", "cpu"), *on_cuda, *([("cupy", "cuda")] if lack() is None else [])]


def self_test(where: list[tuple[str, str]]) -> list[Tried]:
    """Synthesise into two phantoms on each backend; whatever goes wrong there is told, not raised.

    Args:
        where: Backends and devices; the first is what the others are compared with.
    """
    healthy = phantom(UIDS, SHAPE_VOX, SPACING_MM)
    tried = []
    for preset in PRESETS:
        reference: _Made | None = None
        for backend, device in where:
            try:
                made = _synthesised(healthy, preset, backend, device)
                if reference is None:
                    tried.append(_alone(healthy, made, Tried(backend, device, preset, made.milliseconds, made.lesions)))
                    reference = made
                else:
                    tried.append(_compared(made, reference, Tried(backend, device, preset, made.milliseconds, made.lesions)))
            except Exception as error:  # of CUDA, CuPy, a BLAS library: each has its own
                why = (str(error).strip().splitlines() or [""])[0]
                tried.append(Tried(backend, device, preset, error=f"{type(error).__name__}: {why}"))
    return tried


def _synthesised(healthy: Phantom, preset: str, backend: str, device: str) -> _Made:
    synth = TumorSynthesizer(preset, prob=1.0, seed=0, backend=backend).eval()
    image, label, uid = healthy.image.to(device), healthy.label.to(device), torch.tensor(UIDS, device=device)
    synth(image, label, SPACING_MM, uid)
    before, begin = synth.lesions, time.perf_counter()
    new_image, new_label = (made.cpu() for made in synth(image, label, SPACING_MM, uid))
    return _Made(new_image, new_label, synth.lesions - before, 1000.0 * (time.perf_counter() - begin))


def _alone(healthy: Phantom, made: _Made, tried: Tried) -> Tried:
    """Check the reference by itself: lesions in the organ alone, and a sample the same to the bit alone and in company."""
    outside = healthy.label == 0
    synth = TumorSynthesizer(tried.preset, prob=1.0, seed=0, backend=tried.backend).eval()
    image, label = synth(healthy.image[1:], healthy.label[1:], SPACING_MM, torch.tensor(UIDS[1:]))
    wrong = {
        "no lesion was made": made.lesions == 0 or not (made.label == 2).any(),
        "voxels are not finite": not made.image.isfinite().all(),
        "labels outside the organ changed": bool((made.label[outside] != 0).any()),
        "a sample is not the same alone and in a batch": not (torch.equal(image, made.image[1:]) and torch.equal(label, made.label[1:])),
    }
    return tried._replace(error="; ".join(what for what, is_so in wrong.items() if is_so))


def _compared(made: _Made, reference: _Made, tried: Tried) -> Tried:
    """Compare with the reference."""
    differing = int((made.label != reference.label).sum())
    apart = (made.image.double() - reference.image.double()).abs()[made.label == reference.label]
    most, far = float(apart.max()), float((apart > NEAR_HU).double().mean())
    wrong = {
        f"labels differ in {differing} voxels": differing > max(LEAST_VOXELS, LABEL_SHARE * int((reference.label == 2).sum())),
        f"HU are {most:.2f} apart": not most <= MOST_HU,  # NaN is too far as well
        f"HU are more than {NEAR_HU:g} apart in {100 * far:.2f} % of the voxels": far > NEAR_SHARE,
    }
    error = "; ".join(what for what, is_so in wrong.items() if is_so)
    return tried._replace(differing_vox=differing, apart_hu=most, error=error)

"""The whole synthesis, plan and render, fresh at every call: by batch, patch and size class, against lesions and against volume."""

from typing import Any

import torch
from torch import Tensor

from gpu_synth import TumorSynthesizer, presets
from gpu_synth.bench.case import SEED, SPACING_MM, Case, Setting, patches
from gpu_synth.bench.settings import ALL, MIX_LESIONS
from gpu_synth.presets import SIZE_CLASSES


def synthesizer(setting: Setting, **overrides: Any) -> TumorSynthesizer:
    """A synthesizer for a row: every sample is altered, one size class or all."""
    if setting.size_class != ALL:
        overrides["class_prob"] = tuple(float(name == setting.size_class) for name in SIZE_CLASSES)
    if setting.graph:
        overrides["graph"] = True
    return TumorSynthesizer("liver-hu2022", prob=1.0, seed=SEED, backend=setting.backend or "auto", **overrides)


def whole(device: torch.device, setting: Setting, threads: int | None = None, **overrides: Any) -> Case:
    """Healthy patches in, image and label out."""
    image, label = patches(device, setting)
    synth = synthesizer(setting, **overrides)

    def run() -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = synth(image, label, SPACING_MM)
        return out

    return Case(run, (image, label), threads=threads)


def liver(device: torch.device, setting: Setting) -> Case:
    """The full lesion model: patches with noise, for its statistics."""
    image, label = patches(device, setting)
    image = image + 12.0 * torch.randn(image.shape, generator=torch.Generator().manual_seed(SEED)).to(device)
    synth = TumorSynthesizer("liver", prob=1.0, seed=SEED, backend=setting.backend or "auto")

    def run() -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = synth(image, label, SPACING_MM)
        return out

    return Case(run, (image, label))


def one_core(device: torch.device, setting: Setting) -> Case:
    """The whole, by one host thread."""
    return whole(device, setting, threads=1)


def lesions(device: torch.device, setting: Setting) -> Case:
    """A fixed number of small lesions."""
    tiny, _, medium, large = presets.published().count
    return whole(device, setting, count=(tiny, (setting.lesions,) * 2, medium, large))


def volume(device: torch.device, setting: Setting) -> Case:
    """Lesions of all sizes, as many in every litre."""
    times = setting.whole_vox[0] // setting.whole_vox[2]
    return whole(device, setting, mix_count=tuple((n * times,) * 2 for n in MIX_LESIONS))

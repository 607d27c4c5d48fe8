"""The full lesion model: what a scan says of its organ, then lesions, each with its own size, outline, kind, contrast and place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpu_synth.kernels.lesion import paint_
from gpu_synth.kernels.sites import sites
from gpu_synth.kernels.tissue import tissue
from gpu_synth.kernels.traits import Trait, traits
from gpu_synth.lesion_plan import LesionPlan
from gpu_synth.lesion_preset import LesionPreset, lesion_table
from gpu_synth.plan_base import Spacing
from gpu_synth.precision import full_precision
from gpu_synth.render import Render, together

if TYPE_CHECKING:
    from gpu_synth.synthesizer import TumorSynthesizer


def sample_lesions(
    synth: "TumorSynthesizer", preset: LesionPreset, image: Tensor, label: Tensor, spacing: tuple[Spacing, ...], uid: Tensor, backend: str
) -> LesionPlan:
    """Draw a plan for `(b, 1, i, j, k)` images, arguments unchecked."""
    with full_precision(label.device, backend):
        runs = together(spacing, backend, label.device)
        return LesionPlan.cat([_sample(synth, preset, image[rows, 0], label[rows, 0], spacing[rows], uid[rows], backend) for rows in runs])


def _sample(
    synth: "TumorSynthesizer", preset: LesionPreset, image: Tensor, label: Tensor, spacing: tuple[Spacing, ...], uid: Tensor, backend: str
) -> LesionPlan:
    """Tissue ▶ traits ▶ sites, for samples of one spacing."""
    labels = (synth.organ_label, synth.tumor_label)
    organ_hu, noise_hu, vessel = tissue(image, label, synth.organ_label, spacing[0], preset.avoid_vessels, backend)
    tables = lesion_table(preset, synth.prob, uid.device)
    altered, active, lesion = traits(*tables, preset.count[1], synth.seed, uid, organ_hu, noise_hu, backend)
    reach_mm = (lesion[..., Trait.AXES : Trait.AXES + 3].amax(-1) * lesion[..., Trait.REACH]).contiguous()
    vessels = vessel if preset.avoid_vessels else None
    centre_vox, placed, possible = sites(label, vessels, reach_mm, active, preset.apart_mm, spacing[0], *labels, synth.seed, uid, backend)
    return LesionPlan(
        seed=synth.seed,
        scope=synth.scope,
        whole_vox=(label.shape[1], label.shape[2], label.shape[3]),
        spacing_mm=spacing,
        uid=uid,
        skipped=altered & ~placed.any(1),
        active=placed,
        kinds=tuple(kind.name for kind in preset.kinds),
        centre_vox=centre_vox,
        lesion=lesion,
        organ_hu=organ_hu,
        noise_hu=noise_hu,
    )


def render_lesions(
    image: Tensor, label: Tensor, plan: LesionPlan, origin_vox: Sequence[int], organ_label: int, tumor_label: int, backend: str
) -> Render:
    """Render a plan into healthy images; arguments are checked by `TumorSynthesizer.render`."""
    new_image, new_label = (x.clone(memory_format=torch.contiguous_format) for x in (image, label))
    numbers = []
    with full_precision(image.device, backend):
        for rows in together(plan.spacing_mm, backend, image.device):
            part = plan[rows]
            lesions = (part.centre_vox, part.lesion, part.active, part.seed, part.uid, part.spacing_mm[0])
            numbers.append(paint_(new_image[rows, 0], new_label[rows, 0], *lesions, origin_vox, organ_label, tumor_label, backend).number)
    return Render(new_image, new_label, torch.cat(numbers)[:, None], plan, image)

"""The full lesion model: what a scan says of its organ, then lesions, each with its own size, outline, kind, contrast and place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpu_synth.kernels._columns import Trait
from gpu_synth.kernels._organ_field import smoothing_vox
from gpu_synth.kernels._seedbed import BALL
from gpu_synth.kernels.cirrhosis import Cirrhotic, cirrhosis
from gpu_synth.kernels.growth import growth, steps_for
from gpu_synth.kernels.lesion import paint_, reach_mm
from gpu_synth.kernels.sites import Maps, Rule, Wanted, sites
from gpu_synth.kernels.tissue import excess, tissue
from gpu_synth.kernels.traits import Traits, settle_, traits
from gpu_synth.kernels.warp import warp
from gpu_synth.lesion_plan import LesionPlan
from gpu_synth.lesion_preset import LesionPreset
from gpu_synth.lesion_table import lesion_table
from gpu_synth.plan_base import Spacing
from gpu_synth.precision import full_precision
from gpu_synth.render import Render, looks_at_values, together
from gpu_synth.wishes import Wishes, asked_traits

if TYPE_CHECKING:
    from gpu_synth.synthesizer import TumorSynthesizer


def sample_lesions(
    synth: "TumorSynthesizer",
    preset: LesionPreset,
    image: Tensor,
    label: Tensor,
    spacing: tuple[Spacing, ...],
    uid: Tensor,
    wishes: Wishes,
    backend: str,
) -> LesionPlan:
    """Draw a plan for `(b, 1, i, j, k)` images, arguments unchecked."""
    with full_precision(label.device, backend):
        runs = together(spacing, backend, label.device)
        return LesionPlan.cat(
            [_sample(synth, preset, image[rows, 0], label[rows, 0], spacing[rows], uid[rows], wishes.of(rows), backend) for rows in runs]
        )


def _sample(
    synth: "TumorSynthesizer",
    preset: LesionPreset,
    image: Tensor,
    label: Tensor,
    spacing: tuple[Spacing, ...],
    uid: Tensor,
    wishes: Wishes,
    backend: str,
) -> LesionPlan:
    """Tissue ▶ traits ▶ sites ▶ growth, for samples of one spacing."""
    labels = (synth.organ_label, synth.tumor_label)
    sought = preset.avoid_vessels or preset.displace_vessels or preset.growth
    organ_hu, noise_hu, vessel, foreign_hu = tissue(image, label, synth.organ_label, spacing[0], sought, backend)
    drawn = _drawn(synth, preset, uid, organ_hu, noise_hu, wishes, backend)
    lesion, maps = drawn.lesion, Maps(label, vessel if preset.avoid_vessels else None, wishes.weights(label, synth.organ_label))
    wanted = Wanted(lesion, drawn.active, wishes.given_vox(uid.device))
    rule = Rule(preset.apart_mm, preset.avoid_vessels_to_mm, preset.inside_share)
    found = sites(maps, wanted, rule, spacing[0], *labels, synth.seed, uid, backend)
    grown: dict[str, Tensor] = {}
    if preset.growth:
        of_lesions = (found.centre_vox, lesion[..., Trait.RADIUS], found.placed, organ_hu, noise_hu)
        steps = steps_for(wishes.most_radius_mm(preset.size_mm[-1]), spacing[0])
        where = (synth.organ_label, spacing[0])
        time, number, stop, _ = growth(image, label, vessel, *of_lesions, *where, steps, synth.seed, uid, backend=backend)
        grown = {"grown_time": time, "grown_number": number, "grown_stop": stop}
        found = found._replace(placed=found.placed & (stop >= 0))
    settled = settle_(drawn, found.placed, found.at_surface, backend)
    return LesionPlan(
        seed=synth.seed,
        scope=synth.scope,
        whole_vox=(label.shape[1], label.shape[2], label.shape[3]),
        spacing_mm=spacing,
        uid=uid,
        skipped=settled.skipped,
        active=found.placed,
        kinds=tuple(kind.name for kind in preset.kinds),
        centre_vox=found.centre_vox,
        lesion=lesion,
        organ_hu=organ_hu,
        noise_hu=noise_hu,
        cirrhosis=settled.cirrhosis if preset.cirrhosis_prob > 0 else None,
        foreign_hu=foreign_hu if preset.displace_vessels else None,
        **grown,
    )


def _drawn(
    synth: "TumorSynthesizer", preset: LesionPreset, uid: Tensor, organ_hu: Tensor, noise_hu: Tensor, wishes: Wishes, backend: str
) -> Traits:
    """What lesions are like: drawn, or as far as asked for, as asked."""
    if wishes.lesions is None:
        satellites = preset.satellites[1] if preset.satellite_prob > 0 else 0
        tables = lesion_table(preset, synth.prob, uid.device)
        drawn = traits(*tables, preset.count[1], satellites, synth.seed, uid, organ_hu, noise_hu, backend)
    else:
        drawn = asked_traits(wishes.lesions, preset, synth.seed, uid, organ_hu, noise_hu)
    if preset.growth:  # it may fill a ball, whatever its outline would be
        drawn.lesion[..., Trait.AXES : Trait.AXES + 3] = drawn.lesion[..., Trait.RADIUS, None]
        drawn.lesion[..., Trait.REACH] = BALL
    return drawn


def render_lesions(
    image: Tensor, label: Tensor, plan: LesionPlan, origin_vox: Sequence[int], organ_label: int, tumor_label: int, backend: str
) -> Render:
    """Render a plan into copies of healthy images; arguments are checked by `TumorSynthesizer.render`."""
    new = composite_lesions(image, label, plan, origin_vox, organ_label, tumor_label, backend, maps=True)
    new_image, new_label, number, occupancy = new
    return Render(new_image, new_label, number, plan, image, organ_label, tumor_label, occupancy)


def composite_lesions(
    image: Tensor,
    label: Tensor,
    plan: LesionPlan,
    origin_vox: Sequence[int],
    organ_label: int,
    tumor_label: int,
    backend: str,
    maps: bool = False,
    donated: bool = False,
) -> tuple[Tensor, ...]:
    """Cirrhosis ▶ mass effect ▶ lesions: image and label, and where asked for, maps of the lesions' numbers and occupancy.

    Image and label are copies, unless they are donated: kernels then work in them.
    """
    made: list[tuple[Tensor, ...]] = []
    with full_precision(image.device, backend):
        for rows in together(plan.spacing_mm, backend, image.device):
            part, scan = plan[rows], (image[rows, 0], label[rows, 0])
            spacing_mm = part.spacing_mm[0]
            moved = (part.centre_vox, part.lesion[..., Trait.PUSH_MM], part.lesion[..., Trait.PUSH], part.active)
            diseased = _diseased(*scan, part, origin_vox, organ_label, backend, donated)
            ours = donated or diseased is not None
            new_image, new_label = warp(*(diseased or scan), *moved, organ_label, spacing_mm, origin_vox, backend, ours)
            lesions = (part.centre_vox, part.lesion, part.active, part.seed, part.uid, spacing_mm)
            grown = part.grown(origin_vox, new_label.shape[1:])
            foreign = _displaced(new_image, new_label, part, origin_vox, organ_label, backend)
            painted = paint_(new_image, new_label, *lesions, origin_vox, organ_label, tumor_label, backend, grown, foreign, maps)
            made.append((new_image, new_label, *(painted or ())))
    return tuple((torch.cat(parts) if len(parts) > 1 else parts[0])[:, None] for parts in zip(*made, strict=True))


def _displaced(image: Tensor, label: Tensor, plan: LesionPlan, origin_vox: Sequence[int], organ_label: int, backend: str) -> Tensor | None:
    """What vessels and fat add to the organ, whose place lesions take; where values are looked at, around the lesions alone."""
    if plan.foreign_hu is None:
        return None
    known = (organ_label, plan.organ_hu, plan.foreign_hu, plan.spacing_mm[0], backend)
    if not looks_at_values(backend, image.device):
        return excess(image, label, *known)
    box = (slice(None), *_around(plan, origin_vox, image.shape[1:]))
    out = torch.zeros(image.shape, dtype=torch.int16, device=image.device)
    if image[box].numel():
        out[box] = excess(image[box], label[box], *known)
    return out


def _around(plan: LesionPlan, origin_vox: Sequence[int], shape_vox: Sequence[int]) -> list[slice]:
    """Voxels that a plan's lesions reach, and those that are smoothed into them. Reads the plan."""
    spacing_mm = torch.tensor(plan.spacing_mm[0])
    far_vox = reach_mm(plan.lesion)[plan.active][:, None] / spacing_mm + torch.tensor(smoothing_vox(plan.spacing_mm[0])) + 1
    centre_vox = plan.centre_vox[plan.active] - torch.tensor(origin_vox)
    if not len(centre_vox):
        return [slice(0, 0)] * 3
    ends = (centre_vox - far_vox).amin(0).tolist(), (centre_vox + far_vox).amax(0).tolist()
    return [slice(min(n, max(0, int(low))), min(n, max(0, int(high) + 2))) for low, high, n in zip(*ends, shape_vox, strict=True)]


def _diseased(
    image: Tensor, label: Tensor, plan: LesionPlan, origin_vox: Sequence[int], organ_label: int, backend: str, donated: bool
) -> Cirrhotic | None:
    """The organs as their disease has made them; None where it has made nothing."""
    if plan.cirrhosis is None or (looks_at_values(backend, image.device) and not (plan.cirrhosis > 0).any()):
        return None
    surface_mm, nodule_hu = plan.cirrhosis.unbind(1)
    key = (plan.seed, plan.uid, origin_vox, backend)
    return cirrhosis(image, label, surface_mm.contiguous(), nodule_hu.contiguous(), organ_label, plan.spacing_mm[0], *key, donated)

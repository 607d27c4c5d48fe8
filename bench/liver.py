"""The kernel families of preset "liver", on patches that are all organ."""

from typing import NamedTuple

import torch
from torch import Tensor

from gpu_synth import TumorSynthesizer
from gpu_synth.bench.case import ORGAN, ORGAN_HU, SEED, SPACING_MM, TUMOUR, Case, Setting, patches
from gpu_synth.kernels import lesion, sites, traits
from gpu_synth.lesion_plan import LesionPlan
from gpu_synth.lesion_table import lesion_table
from gpu_synth.organs import LIVER


class LesionCase(NamedTuple):
    """Patches that are all organ, and lesions of preset "liver" in them."""

    image: Tensor
    label: Tensor
    plan: LesionPlan


def _case(device: torch.device, setting: Setting) -> LesionCase:
    image, label = patches(device, setting)
    drawn = TumorSynthesizer("liver", prob=1.0, seed=SEED, backend=setting.backend or "torch").plan(
        image, label, SPACING_MM, uid=torch.arange(setting.samples, device=device)
    )
    assert isinstance(drawn, LesionPlan)
    return LesionCase(image[:, 0], label[:, 0], drawn)


def traits_case(device: torch.device, setting: Setting) -> Case:
    """Draw what lesions are like."""
    table, uid = lesion_table(LIVER, 1.0, device), torch.arange(setting.samples, device=device)
    hu, slots = torch.full((setting.samples,), ORGAN_HU, device=device), (LIVER.count[1], LIVER.satellites[1])
    return Case(lambda: traits.traits(*table, *slots, SEED, uid, hu, hu / 10.0, setting.backend or "torch"), (*table, uid, hu))


def sites_case(device: torch.device, setting: Setting) -> Case:
    """Find places for them."""
    _, label, drawn = _case(device, setting)
    maps, wanted = sites.Maps(label, torch.zeros_like(label)), sites.Wanted(drawn.lesion, drawn.active)
    rest = (
        sites.Rule(LIVER.apart_mm, LIVER.avoid_vessels_to_mm, LIVER.inside_share),
        SPACING_MM,
        ORGAN,
        TUMOUR,
        SEED,
        torch.arange(setting.samples, device=device),
        setting.backend or "torch",
    )
    return Case(lambda: sites.sites(maps, wanted, *rest), (*maps[:2], *wanted[:2]))


def lesion_case(device: torch.device, setting: Setting) -> Case:
    """Paint them."""
    image, label, drawn = _case(device, setting)
    lesions = (drawn.centre_vox, drawn.lesion, drawn.active, SEED, torch.arange(setting.samples, device=device))

    def run() -> tuple[Tensor, Tensor]:
        lesion.paint_(
            image, label, *lesions, SPACING_MM, (0, 0, 0), ORGAN, ORGAN, setting.backend or "torch"
        )  # a tumour's number would leave the next run less organ
        return image, label

    return Case(run, (image, label, *lesions))

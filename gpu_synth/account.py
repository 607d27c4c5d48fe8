"""What came of a plan, lesion by lesion, measured in the images that were made."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from gpu_synth.kernels._organ_field import QUARTERS
from gpu_synth.kernels.tissue import excess, tissue
from gpu_synth.lesion_plan import LesionPlan
from gpu_synth.plan_base import Plan

if TYPE_CHECKING:
    from gpu_synth.render import Render


def records_of(render: "Render") -> list[dict[str, Any]]:
    """List what came out: one plain dict a lesion that has a voxel; see `Render.records`."""
    out = []
    for sample, uid in enumerate(render.plan.uid.tolist()):
        asked = {record["lesion"]: record for record in render.plan[sample].to_records()}
        for record in _of_sample(render, sample):
            known = asked[record["lesion"]]
            if "noise_hu" in known:  # as the plan's whole had it, of which this may be a crop
                record["contrast_to_noise"] = abs(record["mean_drop_hu"]) / max(known["noise_hu"], 1e-6)
            record |= {name: known[name] for name in ("kind", "near") if name in known}
            out.append({"uid": uid, **record})
    return out


def _of_sample(render: "Render", sample: int) -> list[dict[str, Any]]:
    """Measures of a sample's lesions."""
    number, spacing_mm = render.instances[sample, 0].cpu().numpy(), render.plan.spacing_mm[sample]
    if not number.any():
        return []
    healthy, label = (x[sample].detach().cpu() for x in (render.healthy, render.label))
    organ = torch.where(label == render.tumor_label, render.organ_label, label.to(torch.int64))
    _, noise_hu, vessel, _ = tissue(healthy, organ, render.organ_label, spacing_mm)
    before = healthy.double() - _foreign_hu(render.plan, sample, healthy, organ, render.organ_label)
    drop = (before - render.image[sample].detach().cpu().double())[0].numpy()
    depth_mm, vessel_mm = _distance_mm(label[0].numpy() == 0, spacing_mm), _distance_mm(vessel[0].numpy() > 0, spacing_mm)
    cuttable, out = not _grows_here(render.plan, number.shape), []
    for lesion, box in enumerate(ndimage.find_objects(number), start=1):
        if box is None:
            continue
        inside = number[box] == lesion
        volume, mean_drop = float(inside.sum() * np.prod(spacing_mm)), float(drop[box][inside & np.isfinite(drop[box])].mean())
        record = {
            "lesion": lesion,
            "volume_mm3": volume,
            "equivalent_radius_mm": (3.0 * volume / (4.0 * math.pi)) ** (1.0 / 3.0),
            "centre_vox": tuple(float(at + start.start) for at, start in zip(ndimage.center_of_mass(inside), box, strict=True)),
            "cut_by_border": cuttable and any(at.start == 0 or at.stop == n for at, n in zip(box, number.shape, strict=True)),
            "mean_drop_hu": mean_drop,
            "contrast_to_noise": abs(mean_drop) / max(noise_hu.item(), 1e-6),
        }
        for name, distance_mm in (("surface_mm", depth_mm), ("vessel_mm", vessel_mm)):
            record[name] = None if distance_mm is None else float(distance_mm[box][inside].min())
        out.append(record)
    return out


def _grows_here(plan: Plan, shape: Sequence[int]) -> bool:
    """Whether an array holds all that lesions had to grow in: its border is where they turned, and cuts nothing off."""
    grown = isinstance(plan, LesionPlan) and plan.grown_time is not None
    return grown and all(n >= whole for n, whole in zip(shape, plan.whole_vox, strict=True))


def _foreign_hu(plan: Plan, sample: int, healthy: Tensor, organ: Tensor, organ_label: int) -> Tensor | float:
    """What vessels and fat, whose place lesions took, had added to the organ."""
    if not isinstance(plan, LesionPlan) or plan.foreign_hu is None:
        return 0.0
    organ_hu, foreign_hu = (x[sample : sample + 1].cpu() for x in (plan.organ_hu, plan.foreign_hu))
    return excess(healthy, organ, organ_label, organ_hu, foreign_hu, plan.spacing_mm[sample]) / QUARTERS


def _distance_mm(what: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> NDArray[np.float64] | None:
    """How far each voxel lies from the next that is so; None where none is."""
    if not what.any():
        return None
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~what, spacing_mm)
    return distance

"""Plan → image, label, instances: one line a stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.kernels import _host
from gpu_synth.kernels.blend import blend, relabel
from gpu_synth.kernels.gaussian import TRUNCATE, gaussian
from gpu_synth.kernels.shape import instance_map
from gpu_synth.kernels.texture import Box, texture
from gpu_synth.plan import Spacing, TumorPlan
from gpu_synth.precision import full_precision


@dataclass(frozen=True, eq=False)
class Render:
    """What a plan came to.

    Attributes:
        image: HU, type and device of the image given.
        label: Labels, type and device of those given.
        instances: int16; 0 none, n the lesion in slot n − 1 of the plan.
        plan: What was rendered.
        healthy: The image given.
    """

    image: Float[Tensor, "b 1 i j k"]
    label: Int[Tensor, "b 1 i j k"]
    instances: Int[Tensor, "b 1 i j k"]
    plan: TumorPlan
    healthy: Float[Tensor, "b 1 i j k"]

    def records(self) -> list[dict[str, Any]]:
        """List what came out: one plain dict a lesion that has a voxel. Reads the device, so it has no place in a training loop.

        Returns:
            Dicts with `uid`, `lesion` (its number in `instances`), `volume_mm3` and `mean_drop_hu` (before less after, finite voxels only).
        """
        slots = self.plan.active.shape[1]
        out = []
        for sample, (uid, spacing) in enumerate(zip(self.plan.uid.tolist(), self.plan.spacing_mm, strict=True)):
            number = self.instances[sample].flatten().to(torch.int64)
            drop = self.healthy[sample].flatten().to(torch.float64) - self.image[sample].flatten().to(torch.float64)
            finite = drop.isfinite()
            voxels = number.bincount(minlength=slots + 1)
            total = number[finite].bincount(drop[finite], minlength=slots + 1) / number[finite].bincount(minlength=slots + 1)
            volume = voxels * (spacing[0] * spacing[1] * spacing[2])
            for lesion in (voxels[1:].nonzero()[:, 0] + 1).tolist():
                out.append({"uid": uid, "lesion": lesion, "volume_mm3": volume[lesion].item(), "mean_drop_hu": total[lesion].item()})
        return out


def render(image: Tensor, label: Tensor, plan: TumorPlan, origin_vox: Sequence[int], organ_label: int, tumor_label: int) -> Render:
    """Render a plan into healthy images; arguments are checked by `TumorSynthesizer.render`.

    Samples of one spacing are rendered together on an accelerator, where nothing may be read back. On the host each is rendered
    alone, and only where its lesions are: the same bits in any batch, for less work.
    """
    out = Render(image.clone(), label.clone(), torch.zeros_like(label, dtype=torch.int16), plan, image)
    with full_precision(image.device):
        for rows in together(plan.spacing_mm, image.device):
            part = plan[rows]
            if not _host.on_host(image.device) or part.active.any():
                _render_part(out.image[rows, 0], out.label[rows, 0], out.instances[rows, 0], part, origin_vox, organ_label, tumor_label)
    return out


def _render_part(
    image: Tensor, label: Tensor, instances: Tensor, plan: TumorPlan, origin_vox: Sequence[int], organ_label: int, tumor_label: int
) -> None:
    """Render samples of one spacing into `(b, i, j, k)` views, in place."""
    organ = label == organ_label
    origin = torch.tensor(origin_vox).to(plan.device, non_blocking=True)
    instances.copy_(instance_map(plan.centre_vox - origin, *plan.shapes_vox(), plan.active, organ))
    edge_vox, edge_bound_vox = plan.edges_vox()
    box = _changing(instances, edge_bound_vox)
    window = (slice(None), *(slice(start, end) for start, end in box))
    occupancy = gaussian((instances[window] > 0).to(torch.float32), edge_vox, edge_bound_vox)
    grain = texture(*plan.texture_field(), plan.texture_gain, shifted(box, origin_vox))
    image[window] = blend(image[window], organ[window], occupancy, grain, plan.contrast_hu)
    label[window] = relabel(label[window], instances[window], tumor_label)


def _changing(instances: Tensor, edge_bound_vox: Sequence[float]) -> Box:
    """Box that holds every voxel that can change: lesions and their edges where the host may look, else everything."""
    ends = []
    for axis, (n, edge) in enumerate(zip(instances.shape[1:], edge_bound_vox, strict=True), start=1):
        start, end = 0, n
        if _host.on_host(instances.device):
            used = instances.amax([other for other in range(4) if other != axis]).nonzero()[:, 0].tolist() or [0]
            reach = int(TRUNCATE * edge + 0.5)
            start, end = max(0, used[0] - reach), min(n, used[-1] + 1 + reach)
        ends.append((start, end))
    return ends[0], ends[1], ends[2]


def shifted(box: Box, by_vox: Sequence[int]) -> Box:
    """Move a box."""
    i, j, k = ((start + by, end + by) for (start, end), by in zip(box, by_vox, strict=True))
    return i, j, k


def together(spacing_mm: Sequence[Spacing], device: torch.device) -> list[slice]:
    """Which samples are worked on at once: one by one on the host, runs of one spacing elsewhere."""
    if _host.on_host(device):
        return [slice(n, n + 1) for n in range(len(spacing_mm))]
    starts = [n for n in range(len(spacing_mm)) if n == 0 or spacing_mm[n] != spacing_mm[n - 1]]
    return [slice(*ends) for ends in zip(starts, [*starts[1:], len(spacing_mm)], strict=True)]

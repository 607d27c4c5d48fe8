"""Plan → image, label, instances: one line a stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.account import records_of
from gpu_synth.kernels import _host
from gpu_synth.kernels._cells import Box
from gpu_synth.kernels.blend import blend_
from gpu_synth.kernels.edge import edge
from gpu_synth.kernels.gaussian import TRUNCATE
from gpu_synth.kernels.shape import Instances, instance_map
from gpu_synth.kernels.texture import texture
from gpu_synth.plan import TumorPlan
from gpu_synth.plan_base import Plan, Spacing
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
        organ_label: Number of the organ.
        tumor_label: Number of the tumours.
        occupancy: Share of each voxel that is lesion, a soft label; None of preset "liver-hu2022".
    """

    image: Float[Tensor, "b 1 i j k"]
    label: Int[Tensor, "b 1 i j k"]
    instances: Int[Tensor, "b 1 i j k"]
    plan: Plan
    healthy: Float[Tensor, "b 1 i j k"]
    organ_label: int
    tumor_label: int
    occupancy: Float[Tensor, "b 1 i j k"] | None = None

    def records(self) -> list[dict[str, Any]]:
        """List what came out: one plain dict a lesion that has a voxel. Reads the device, so it has no place in a training loop.

        Returns:
            Dicts with `uid`, `lesion` (its number in `instances`), `volume_mm3`, `equivalent_radius_mm` (of the ball of as much volume),
            `centre_vox` (in the array), `cut_by_border` (whether it lies at the array's border, beyond which it would go on: less of it
            came than was asked for), `mean_drop_hu` (before less after, finite voxels only; before without the vessels and the fat that
            a lesion took the place of), `contrast_to_noise` (its size over the scan's noise), `surface_mm` and `vessel_mm` (from the
            nearest of its voxels to where nothing is labelled, and to a vessel; None where the array shows none); of lesions drawn one
            by one also `kind` and `near`, as in `LesionPlan.to_records`.
        """
        return records_of(self)


class Lesions(NamedTuple):
    """What is to be blended into samples of one spacing: everything that depends on plan and labels, and not on the image."""

    rows: slice  # which samples of the batch
    window: tuple[slice, ...]  # where in them
    number: Int[Tensor, "b i j k"]  # int16; which lesion holds a voxel, everywhere
    occupancy: Tensor  # in the window, as `edge` gives it
    texture: Tensor  # in the window, as `texture` gives it
    contrast_hu: Float[Tensor, " b"]


def lesions_of(label: Tensor, plan: TumorPlan, origin_vox: Sequence[int], organ_label: int, backend: str) -> list[Lesions]:
    """Shape ▶ edge ▶ texture, for `(b, 1, i, j, k)` labels.

    Samples of one spacing are worked on together where nothing may be read back. On the host each is worked on alone, and only where
    its lesions are: the same bits in any batch, for less work.
    """
    with full_precision(label.device, backend):
        return [
            _lesions_of(label[rows, 0], plan[rows], rows, origin_vox, organ_label, backend)
            for rows in together(plan.spacing_mm, backend, label.device)
        ]


def _lesions_of(label: Tensor, plan: TumorPlan, rows: slice, origin_vox: Sequence[int], organ_label: int, backend: str) -> Lesions:
    """Those of some samples, given their labels and their plan."""
    looks = looks_at_values(backend, label.device)
    if looks and not plan.active.any():
        nowhere = torch.zeros_like(label[:0], dtype=torch.float32)
        return Lesions(rows, (slice(0, 0),), torch.zeros_like(label, dtype=torch.int16), nowhere, nowhere, plan.contrast_hu[:0])
    edge_bound_vox, spacing_mm = plan.edge_bound_vox(), plan.spacing_mm[0]
    lesions = (plan.centre_vox, plan.radii_mm, plan.elastic_mm, plan.boxes_vox(), plan.active)
    instances = instance_map(*lesions, label, organ_label, origin_vox, backend, spacing_mm)
    box = _changing(instances.number, edge_bound_vox) if looks else _everything(label)
    window = (slice(None), *(slice(start, end) for start, end in box))
    part = Instances(instances.number[window], instances.touched)
    occupancy, changing = edge(part, plan.edge_sigma_mm, edge_bound_vox, backend, spacing_mm)
    grain = texture(*plan.texture_field(), shifted(box, origin_vox), changing, backend)
    return Lesions(rows, window, instances.number, occupancy, grain, plan.contrast_hu)


def composite(
    image: Tensor, label: Tensor, lesions: Sequence[Lesions], organ_label: int, tumor_label: int, backend: str
) -> tuple[Tensor, Tensor]:
    """Blend lesions into copies of image and label."""
    image, label = (x.clone(memory_format=torch.contiguous_format) for x in (image, label))
    for rows, window, number, occupancy, grain, contrast_hu in lesions:
        into = (image[rows, 0][window], label[rows, 0][window])
        blend_(*into, number[window], occupancy, grain, contrast_hu, organ_label, tumor_label, backend)
    return image, label


def render(
    image: Tensor, label: Tensor, plan: TumorPlan, origin_vox: Sequence[int], organ_label: int, tumor_label: int, backend: str
) -> Render:
    """Render a plan into healthy images; arguments are checked by `TumorSynthesizer.render`."""
    lesions = lesions_of(label, plan, origin_vox, organ_label, backend)
    new_image, new_label = composite(image, label, lesions, organ_label, tumor_label, backend)
    number = lesions[0].number if len(lesions) == 1 else torch.cat([part.number for part in lesions])
    return Render(new_image, new_label, number[:, None], plan, image, organ_label, tumor_label)


def _changing(number: Tensor, edge_bound_vox: Sequence[float]) -> Box:
    """Box that holds every voxel that can change: lesions and their edges. Looks at the values."""
    ends = []
    for axis, (n, edge_vox) in enumerate(zip(number.shape[1:], edge_bound_vox, strict=True), start=1):
        used = number.amax([other for other in range(4) if other != axis]).nonzero()[:, 0].tolist() or [0]
        reach = int(TRUNCATE * edge_vox + 0.5)
        ends.append((max(0, used[0] - reach), min(n, used[-1] + 1 + reach)))
    return ends[0], ends[1], ends[2]


def _everything(label: Tensor) -> Box:
    """Box of all voxels."""
    _, i, j, k = label.shape
    return (0, i), (0, j), (0, k)


def shifted(box: Box, by_vox: Sequence[int]) -> Box:
    """Move a box."""
    i, j, k = ((start + by, end + by) for (start, end), by in zip(box, by_vox, strict=True))
    return i, j, k


def looks_at_values(backend: str, device: torch.device) -> bool:
    """Whether work is spared by looking at values: the twins do on the host, where that waits for nothing; kernels never do."""
    return backend == "torch" and _host.on_host(device)


def together(spacing_mm: Sequence[Spacing], backend: str, device: torch.device) -> list[slice]:
    """Which samples are worked on at once: one by one where values are looked at, runs of one spacing elsewhere."""
    if looks_at_values(backend, device):
        return [slice(n, n + 1) for n in range(len(spacing_mm))]
    starts = [n for n in range(len(spacing_mm)) if n == 0 or spacing_mm[n] != spacing_mm[n - 1]]
    return [slice(*ends) for ends in zip(starts, [*starts[1:], len(spacing_mm)], strict=True)]

"""TumorSynthesizer: healthy CT in, the same CT with tumours out. The published method, in the order in which it is told."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth import presets
from gpu_synth.checks import check_images, check_options, check_plan, check_seed, check_spacing, check_uid
from gpu_synth.counting import CountingModule
from gpu_synth.graph import Replays
from gpu_synth.kernels._launch import compile_all, resolve
from gpu_synth.kernels.placement import Site, place
from gpu_synth.kernels.plan import draw
from gpu_synth.kernels.texture import statistics
from gpu_synth.lesion_model import sample_lesions
from gpu_synth.lesion_preset import LesionPreset
from gpu_synth.operator import recipe_of, render_plan, synthesize
from gpu_synth.plan import TumorPlan, margin_vox, texture_field
from gpu_synth.plan_base import Plan, Scope, Spacing
from gpu_synth.precision import full_precision
from gpu_synth.preset_table import Bounds, parameter_table, slots_of
from gpu_synth.presets import Preset
from gpu_synth.render import Render, together
from gpu_synth.wishes import NO_WISHES, Wishes, check_wishes


class TumorSynthesizer(CountingModule):
    """Put synthetic tumours into a batch of healthy CT, on the batch's device, fresh at every call.

    Args:
        preset: What to draw from: one of `presets.names()`, a YAML file of one's own, or what `presets.get` gave.
        prob: Probability that a sample is altered.
        seed: Key of all randomness.
        backend: "cupy" for CUDA kernels, "torch" for torch operations, "auto" for the fastest there is.
        scope: "patch": the arrays given are all there is. "volume": they are a whole case, of which crops may be rendered.
        organ_label: Number of the organ in the labels.
        tumor_label: Number of the tumours.
        graph: Replay a CUDA graph in `forward`, one for each shape and spacing: for batches of few of them. Kernels only.
        **overrides: Fields of the preset, and their new values.

    Raises:
        ValueError: An argument is out of range or unknown, or cannot have any effect.

    Source: Hu et al. 2022, "Synthetic Tumors Make AI Segment Tumors Better"; Hu et al. 2023, "Label-Free Liver Tumor Segmentation".
    """

    def __init__(
        self,
        preset: str | Preset | LesionPreset = "liver",
        prob: float = 0.9,
        seed: int = 0,
        backend: str = "auto",
        scope: Scope = "patch",
        organ_label: int = 1,
        tumor_label: int = 2,
        graph: bool = False,
        **overrides: Any,
    ) -> None:
        super().__init__(presets.get(preset, **overrides), check_seed(seed))
        check_options(prob, backend, scope, organ_label, tumor_label, graph)
        compile_all(backend)
        self.backend, self.prob, self.scope, self.organ_label, self.tumor_label = backend, float(prob), scope, organ_label, tumor_label
        self.replays = Replays() if graph else None
        self.recipe = recipe_of(self)

    def forward(
        self, image: Float[Tensor, "b 1 i j k"], label: Int[Tensor, "b 1 i j k"], spacing_mm: Any = None, uid: Tensor | None = None
    ) -> tuple[Float[Tensor, "b 1 i j k"], Int[Tensor, "b 1 i j k"]]:
        """Plan, then render. In evaluation mode, where no uids are counted, a batch without `uid` comes back as it is.

        Args:
            image: Healthy CT, HU, floating.
            label: 0 background, organ, tumour; integer. A sample that has a tumour already comes back as it is, and is counted.
            spacing_mm: Three host numbers along i, j, k, or three for each sample.
            uid: Ordinal of each sample in the whole run; without it, the synthesizer counts for itself.

        Raises:
            TypeError, ValueError: An argument has a wrong type or dtype, shape or value.
        """
        check_images(image, label, self.organ_label, self.tumor_label)
        spacing = check_spacing(spacing_mm, len(image))
        if uid is None and not self.training:
            return image, label
        uid = self.next_uids(image) if uid is None else check_uid(uid, image)
        new_image, new_label, made = synthesize(self, image, label, spacing, uid)  # sample_plan, then what render does
        self.count(made)
        return new_image, new_label

    @torch.no_grad()
    def plan(
        self, image: Tensor, label: Tensor, spacing_mm: Any = None, uid: Tensor | None = None, lesions: Any = None, where: Any = None
    ) -> Plan:
        """Draw all that is random. Arguments and errors are those of `forward`; without `uid` (in training mode), the next are used up.

        `lesions` asks for lesions, a list of mappings, or one for each sample: any of `kind`, `centre_vox`, `radius_mm`, `contrast_hu`, …
        (`lesion_plan.NAMES`); the rest is drawn. `where`, of the image's shape, tells how likely a voxel of the organ is a lesion's centre.
        Of a lesion at a point outside the organ nothing comes; a sample whose `where` is 0 in all of its organ is skipped.
        """
        check_images(image, label, self.organ_label, self.tumor_label)
        spacing, wishes = check_spacing(spacing_mm, len(image)), check_wishes(self.preset, image, lesions, where)
        uid = self.next_uids(image) if uid is None else check_uid(uid, image)
        return self.sample_plan(image.as_subclass(Tensor), label.as_subclass(Tensor), spacing, uid, wishes)

    def sample_plan(self, image: Tensor, label: Tensor, spacing: tuple[Spacing, ...], uid: Tensor, wishes: Wishes = NO_WISHES) -> Plan:
        """Draw a plan, its arguments unchecked."""
        backend = resolve(self.backend, label.device)
        if isinstance(self.preset, LesionPreset):
            return sample_lesions(self, self.preset, image, label, spacing, uid, wishes, backend)
        with full_precision(label.device, backend):
            runs = together(spacing, backend, label.device)
            return TumorPlan.cat([self._sample(self.preset, label[rows, 0], spacing[rows], uid[rows], backend) for rows in runs])

    def _sample(self, preset: Preset, label: Tensor, spacing_mm: tuple[Spacing, ...], uid: Tensor, backend: str) -> TumorPlan:
        """Plan samples of one spacing."""
        bounds, slots = Bounds.of(preset), slots_of(preset)
        site = Site(self.organ_label, self.tumor_label, margin_vox(preset.erosion_mm, spacing_mm[0]), preset.axial_axis)
        centre_vox, possible = place(label, site, preset.extent, sum(slots), self.seed, uid, backend)
        draws = draw(*parameter_table(preset, self.prob, uid.device), slots, self.seed, uid, possible, backend)
        whole_vox = (label.shape[1], label.shape[2], label.shape[3])
        field = texture_field(self.seed, uid, whole_vox, spacing_mm[0], draws.density_sigma_mm, draws.grain_sigma_mm, bounds)
        of_grain = (draws.density_scale, draws.density_offset, draws.texture_gain, preset.texture_threshold)
        norm, texture_gain = statistics(field, *of_grain, backend)
        return TumorPlan(
            seed=self.seed,
            scope=self.scope,
            whole_vox=whole_vox,
            spacing_mm=spacing_mm,
            bounds=bounds,
            uid=uid,
            centre_vox=centre_vox,
            density_low=norm.low,
            density_high=norm.high,
            **draws._replace(texture_gain=texture_gain)._asdict(),
        )

    @torch.no_grad()
    def render(self, image: Tensor, label: Tensor, plan: Plan, origin_vox: Sequence[int] | None = None) -> Render:
        """Render a plan into healthy images: the same image, label and plan give the same result. Errors are those of `forward`.

        Args:
            image: Healthy CT, HU, `(b, 1, i, j, k)`, floating.
            label: Its labels.
            plan: One sample for each image, on its device.
            origin_vox: First voxel of the arrays in the whole that the plan was made for, where they are a crop of it.
        """
        check_images(image, label, self.organ_label, self.tumor_label)
        return render_plan(self, image.as_subclass(Tensor), label.as_subclass(Tensor), plan, check_plan(plan, image, origin_vox))

"""The synthesis step of a training loop: a synthesizer, a clock that does not wait, and a sample to look at."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpu_synth import TumorSynthesizer
from gpu_synth.checks import check_images
from gpu_synth.lesion_preset import LesionPreset
from gpu_synth.plan_base import Spacing
from gpu_synth.trainers.intensity import HU, HUCheck, Intensity, back

KEPT_EVENTS = 64  # pairs whose time is not yet taken: where nobody asks for it, they would pile up
LEAST_ORGAN_MM3 = 4000.0  # a ball of 1 cm: patches that are not centred on organ and hold less of it are asked for nothing


class Whole(NamedTuple):
    """What a plan is made in: HU and label `(1, 1, i, j, k)`, and where in it the patch begins."""

    image: Tensor
    label: Tensor
    origin_vox: tuple[int, int, int]


class Example(NamedTuple):
    """One sample before and after synthesis: HU and label `(i, j, k)`."""

    healthy: Tensor
    image: Tensor
    label: Tensor
    spacing_mm: tuple[float, float, float]


class SynthesisStep:
    """Call a synthesizer on a batch, and keep what a monitor asks for.

    Args:
        synthesizer: In training mode.
        soft_labels: Hand over how much of each voxel is lesion, too; without a CUDA graph.

    Raises:
        ValueError: The synthesizer's preset has no soft labels.
    """

    def __init__(self, synthesizer: TumorSynthesizer, soft_labels: bool = False) -> None:
        if soft_labels and not isinstance(synthesizer.preset, LesionPreset):
            raise ValueError(f"soft_labels must be False for preset {synthesizer.preset.name!r}, got True; preset 'liver' has them")
        self.synthesizer, self.soft_labels = synthesizer, soft_labels
        self.example: Example | None = None
        self.keep_example = False  # set by whoever wants to look at the next batch's first sample
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    def __call__(
        self, image: Tensor, label: Tensor, spacing_mm: Any, uid: Tensor | None = None, aimed: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Synthesise; arguments and errors are those of `TumorSynthesizer.forward`; with soft labels, the occupancy comes third.

        Args:
            image: Healthy CT, HU, `(b, 1, i, j, k)`.
            label: Its labels.
            spacing_mm: Three host numbers, or three a sample.
            uid: Ordinals of the samples.
            aimed: Which samples were chosen to hold a tumour, `(b,)`. Of the others, one with less than `LEAST_ORGAN_MM3` of organ is
                not asked to, and where it holds none that is not counted as skipped. None: all are asked.
        """

        def make() -> tuple[Tensor, ...]:
            if aimed is None and not self.soft_labels:
                return self.synthesizer(image, label, spacing_mm, uid)  # type: ignore[no-any-return]
            return self._asked(image, label, spacing_mm, uid, aimed)

        return self._watched(make, image, spacing_mm)

    def of_wholes(
        self, image: Tensor, label: Tensor, spacing_mm: Sequence[Spacing], uid: Tensor, wholes: Sequence[Whole | None]
    ) -> tuple[Tensor, ...]:
        """Synthesise patches whose plans are of whole organs, sample by sample, as wholes have different shapes.

        Args:
            image: Healthy patches, HU, `(b, 1, i, j, k)`.
            label: Their labels.
            spacing_mm: Of each sample.
            uid: Ordinals of the samples.
            wholes: What each sample's plan is made in; None: the patch stays as it is.
        """

        def make() -> tuple[Tensor, ...]:
            every = [
                self._of_whole(image[n : n + 1], label[n : n + 1], spacing_mm[n], uid[n : n + 1], wholes[n]) for n in range(len(image))
            ]
            return tuple(torch.cat(parts) for parts in zip(*every, strict=True))

        return self._watched(make, image, spacing_mm)

    def _watched(self, make: Callable[[], tuple[Tensor, ...]], image: Tensor, spacing_mm: Any) -> tuple[Tensor, ...]:
        """Take the time, and an example where one is wanted."""
        healthy = image[:1].clone() if self.keep_example else None
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if image.is_cuda else []  # type: ignore[no-untyped-call]
        begin = time.perf_counter()
        if events:
            events[0].record()
        out = make()
        if events:
            events[1].record()
            self._events.append((events[0], events[1]))
            while len(self._events) > KEPT_EVENTS and self._events[0][1].query():
                begun, ended = self._events.pop(0)
                self._seconds += begun.elapsed_time(ended) / 1000
        else:
            self._seconds += time.perf_counter() - begin
        if healthy is not None:
            self.keep_example = False
            i, j, k = (float(x) for x in torch.as_tensor(spacing_mm).reshape(-1, 3)[0])
            self.example = Example(healthy[0, 0], out[0][0, 0].clone(), out[1][0, 0].clone(), (i, j, k))
        return out

    def _asked(self, image: Tensor, label: Tensor, spacing_mm: Any, uid: Tensor | None, aimed: Tensor | None) -> tuple[Tensor, ...]:
        """Plan, render, and count as skipped what was asked to hold a tumour, was to be altered, and holds none."""
        synth = self.synthesizer
        if uid is None and not synth.training:  # nothing is made, see `TumorSynthesizer.forward`
            return self._result(image, label, (label == synth.tumor_label).to(torch.float32))
        plan = synth.plan(image, label, spacing_mm, uid)
        out = synth.render(image, label, plan)
        missing = plan.skipped | (plan.active.any(1) & ~(out.label == synth.tumor_label).flatten(1).any(1))
        if aimed is not None:
            voxel_mm3 = [i * j * k for i, j, k in plan.spacing_mm]
            least = torch.tensor([LEAST_ORGAN_MM3 / mm3 for mm3 in voxel_mm3]).to(label.device, non_blocking=True)
            missing &= aimed | ((label == synth.organ_label).flatten(1).sum(1) >= least)
        synth.count(torch.stack((plan.active.sum(), missing.sum())))
        return self._result(out.image, out.label, out.occupancy)

    def _of_whole(self, image: Tensor, label: Tensor, spacing_mm: Spacing, uid: Tensor, whole: Whole | None) -> tuple[Tensor, ...]:
        """One patch, as its whole's plan has it; lesions of which the patch shows nothing are not counted."""
        synth = self.synthesizer
        if whole is None:
            return self._result(image, label, torch.zeros_like(image))
        plan = synth.plan(whole.image, whole.label, spacing_mm, uid)
        out = synth.render(image, label, plan, whole.origin_vox)
        shown = torch.zeros(1 + plan.active.shape[1], dtype=torch.int64, device=label.device)
        shown = shown.index_fill_(0, out.instances.flatten().to(torch.int64), 1)[1:]
        synth.count(torch.stack((shown.sum(), plan.skipped.sum())))
        return self._result(out.image, out.label, out.occupancy)

    def _result(self, image: Tensor, label: Tensor, occupancy: Tensor | None) -> tuple[Tensor, ...]:
        """With soft labels, the occupancy comes third."""
        if not self.soft_labels:
            return image, label
        assert occupancy is not None
        return image, label, occupancy

    def seconds(self) -> float:
        """Time spent in synthesis so far. Waits for the device."""
        for begin, end in self._events:
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
        self._events.clear()
        return self._seconds


class IntensityStep(SynthesisStep):
    """A synthesis step for other people's batches: of HU or what became of it, integers or not, with labels integer or floating.

    What does not look like HU stays as it is, is said once, and counted as skipped; see `HUCheck`.

    Args:
        synthesizer: In training mode.
        soft_labels: Hand over how much of each voxel is lesion, too; without a CUDA graph.
        intensity: What the images hold.

    Raises:
        ValueError: The synthesizer's preset has no soft labels.
        TypeError: `synthesizer` or `intensity` is something else.
    """

    def __init__(
        self,
        synthesizer: TumorSynthesizer,
        soft_labels: bool = False,
        intensity: Intensity = HU(),  # noqa: B008 (frozen)
    ) -> None:
        if not isinstance(synthesizer, TumorSynthesizer):
            raise TypeError(f"synthesizer must be a TumorSynthesizer, got {type(synthesizer).__name__}; TumorSynthesizer() makes one")
        if not (hasattr(intensity, "to_hu") and hasattr(intensity, "from_hu")):
            raise TypeError(f"intensity must be HU(), Window, ZScore or Inverse of gpu_synth.trainers.intensity, got {intensity!r}")
        super().__init__(synthesizer, soft_labels)
        self.intensity, self._check = intensity, HUCheck()

    def __call__(
        self, image: Tensor, label: Tensor, spacing_mm: Any, uid: Tensor | None = None, aimed: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Synthesise into what the images hold, in their dtype; arguments are those of `SynthesisStep`.

        Raises:
            TypeError: Image or label is no tensor.
        """
        for name, value in (("image", image), ("label", label)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}; torch.as_tensor() makes one of a NumPy array")
        image, label = image.as_subclass(Tensor), label.as_subclass(Tensor)
        held_in_hu = image.is_floating_point() and isinstance(self.intensity, HU)
        image_hu = self.intensity.to_hu(image if held_in_hu else image.to(torch.promote_types(image.dtype, torch.float32)))
        whole = label.round().to(torch.int32) if label.is_floating_point() else label
        check_images(image_hu, whole, self.synthesizer.organ_label, self.synthesizer.tumor_label)
        if not self._check(self.intensity, image, image_hu, whole, self.synthesizer.organ_label):
            self.synthesizer.count(torch.tensor([0, len(image)]).to(image.device, non_blocking=True))
            return self._result(image, label, torch.zeros_like(image_hu))
        new_image, new_label, *soft = super().__call__(image_hu, whole, spacing_mm, uid, aimed)
        if image is not image_hu:
            new_image = back(self.intensity, image, image_hu, new_image)
        return new_image, new_label.to(label.dtype), *soft

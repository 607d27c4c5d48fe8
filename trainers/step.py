"""The synthesis step of a training loop: a synthesizer, a clock that does not wait, and a sample to look at."""

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpu_synth import TumorSynthesizer
from gpu_synth.lesion_preset import LesionPreset
from gpu_synth.trainers.intensity import HU, HUCheck, Intensity, back


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
        intensity: What the images hold; the first batch is looked at, see `HUCheck`. None: HU, and known to be: nothing is looked at.

    Raises:
        ValueError: The synthesizer's preset has no soft labels.
        TypeError: `intensity` is no way to HU and back.
    """

    def __init__(self, synthesizer: TumorSynthesizer, soft_labels: bool = False, intensity: Intensity | None = None) -> None:
        if not isinstance(synthesizer, TumorSynthesizer):
            raise TypeError(f"synthesizer must be a TumorSynthesizer, got {type(synthesizer).__name__}; TumorSynthesizer() makes one")
        if intensity is not None and not (hasattr(intensity, "to_hu") and hasattr(intensity, "from_hu")):
            raise TypeError(f"intensity must be HU(), Window, ZScore or Inverse of gpu_synth.trainers.intensity, got {intensity!r}")
        if soft_labels and not isinstance(synthesizer.preset, LesionPreset):
            raise ValueError(f"soft_labels must be False for preset {synthesizer.preset.name!r}, got True; preset 'liver' has them")
        self.synthesizer, self.soft_labels = synthesizer, soft_labels
        self.intensity, self._check = intensity or HU(), None if intensity is None else HUCheck()
        self.example: Example | None = None
        self.keep_example = False  # set by whoever wants to look at the next batch's first sample
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    def __call__(self, image: Tensor, label: Tensor, spacing_mm: Any, uid: Tensor | None = None) -> tuple[Tensor, ...]:
        """Synthesise into what the images hold; with soft labels, the occupancy comes third.

        Arguments and errors are those of `TumorSynthesizer.forward`, but that labels may be floating, as MONAI's are, and images integer.
        """
        if not (isinstance(image, Tensor) and isinstance(label, Tensor)):
            raise TypeError(
                f"image and label must be tensors, got {type(image).__name__} and {type(label).__name__}; torch.as_tensor() helps"
            )
        image, label = image.as_subclass(Tensor), label.as_subclass(Tensor)
        held_in_hu = image.is_floating_point() and isinstance(self.intensity, HU)
        image_hu = self.intensity.to_hu(image if held_in_hu else image.to(torch.promote_types(image.dtype, torch.float32)))
        whole = label.round().to(torch.int32) if label.is_floating_point() else label
        new_image, new_label, *soft = self._in_hu(image_hu, whole, spacing_mm, uid)
        if self._check is not None:
            self._check(self.intensity, image, image_hu, whole, self.synthesizer.organ_label)
        if image is not image_hu:
            new_image = back(self.intensity, image, image_hu, new_image)
        return new_image, new_label.to(label.dtype), *soft

    def _in_hu(self, image: Tensor, label: Tensor, spacing_mm: Any, uid: Tensor | None) -> tuple[Tensor, ...]:
        """Synthesise, on the clock."""
        healthy = image[:1].clone() if self.keep_example else None
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if image.is_cuda else []  # type: ignore[no-untyped-call]
        begin = time.perf_counter()
        if events:
            events[0].record()
        out = self._softly(image, label, spacing_mm, uid) if self.soft_labels else self.synthesizer(image, label, spacing_mm, uid)
        if events:
            events[1].record()
            self._events.append((events[0], events[1]))
        else:
            self._seconds += time.perf_counter() - begin
        if healthy is not None:
            self.keep_example = False
            i, j, k = (float(x) for x in torch.as_tensor(spacing_mm).reshape(-1, 3)[0])
            self.example = Example(healthy[0, 0], out[0][0, 0].clone(), out[1][0, 0].clone(), (i, j, k))
        return out

    def _softly(self, image: Tensor, label: Tensor, spacing_mm: Any, uid: Tensor | None) -> tuple[Tensor, ...]:
        """Image, label, and how much of each voxel is lesion."""
        if uid is None and not self.synthesizer.training:  # nothing is made, see `TumorSynthesizer.forward`
            return image, label, (label == self.synthesizer.tumor_label).to(torch.float32)
        plan = self.synthesizer.plan(image, label, spacing_mm, uid)
        out = self.synthesizer.render(image, label, plan)
        self.synthesizer.count(torch.stack((plan.active.sum(), plan.skipped.sum())))
        assert out.occupancy is not None
        return out.image, out.label, out.occupancy

    def seconds(self) -> float:
        """Time spent in synthesis so far. Waits for the device."""
        for begin, end in self._events:
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
        self._events.clear()
        return self._seconds

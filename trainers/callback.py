"""A callback that puts a synthesizer into any LightningModule, without a change to its code."""

from collections.abc import MutableMapping, Sequence
from typing import Any

import lightning.pytorch as pl

from gpu_synth import TumorSynthesizer
from gpu_synth.trainers.augment import Window
from gpu_synth.trainers.augment import window as to_window
from gpu_synth.trainers.step import SynthesisStep

Key = str | int


class SynthesizeTumors(pl.Callback):
    """Alter every training batch in place, on the device, before `training_step` sees it.

    Args:
        synthesizer: What to synthesise with. It counts uids by itself, each rank its share; its state goes into the checkpoint.
        image_key: Where the batch holds the CT `(b, 1, i, j, k)`: a key of a dict, or a number for a tuple or list.
        label_key: Where it holds the label.
        spacing_mm: Spacing of all patches; None: the batch holds it under `spacing_key`.
        spacing_key: Where the batch holds the spacing, host numbers or a CPU tensor.
        window_hu: The window that the batch's image is already scaled to [0, 1] from; it is undone before synthesis and done again
            after it. What the window clipped stays clipped. None: the image is in HU.
    """

    def __init__(
        self,
        synthesizer: TumorSynthesizer,
        image_key: Key = "image",
        label_key: Key = "label",
        spacing_mm: Sequence[float] | None = None,
        spacing_key: Key = "spacing_mm",
        window_hu: Window | None = None,
    ) -> None:
        self.step = SynthesisStep(synthesizer)
        self.image_key, self.label_key = image_key, label_key
        self.spacing_mm, self.spacing_key, self.window_hu = spacing_mm, spacing_key, window_hu

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Synthesise into the batch's own tensors: a tensor put in their place would not reach `training_step`."""
        image, label = self._take(batch, self.image_key), self._take(batch, self.label_key)
        spacing_mm = self.spacing_mm if self.spacing_mm is not None else self._take(batch, self.spacing_key)
        low, high = self.window_hu or (0.0, 1.0)
        image_hu = image * (high - low) + low if self.window_hu else image
        new_image, new_label = self.step(image_hu, label, spacing_mm)
        image.copy_(to_window(new_image, self.window_hu) if self.window_hu else new_image)
        label.copy_(new_label)

    def _take(self, batch: Any, key: Key) -> Any:
        if isinstance(batch, MutableMapping) and key in batch:
            return batch[key]
        if isinstance(batch, (list, tuple)) and isinstance(key, int) and -len(batch) <= key < len(batch):
            return batch[key]
        held = f"keys {list(batch)}" if isinstance(batch, MutableMapping) else f"a {type(batch).__name__}"
        if isinstance(batch, (list, tuple)):
            held += f" of {len(batch)}"
        raise ValueError(f"batch must hold {key!r}, got {held}; name the place with image_key, label_key, spacing_key or give spacing_mm")

    def state_dict(self) -> dict[str, Any]:
        """Go into the checkpoint."""
        return self.step.synthesizer.get_extra_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come out of it."""
        self.step.synthesizer.set_extra_state(state_dict)

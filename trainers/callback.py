"""A callback that puts a synthesizer into any LightningModule, without a change to its code."""

from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl

from gpu_synth import TumorSynthesizer
from gpu_synth.trainers.intensity import HU, Intensity
from gpu_synth.trainers.places import Key, describe, find, host_spacing, parts
from gpu_synth.trainers.step import SynthesisStep


class SynthesizeTumors(pl.Callback):
    """Alter every training batch in place, on the device, before `training_step` sees it.

    A batch may be a dict, a tuple or a list, or hold several such, as a CombinedLoader's do: each with image and label is altered.

    Args:
        synthesizer: What to synthesise with. It counts uids by itself, each rank its share; its state goes into the checkpoint.
        image_key: Where the batch holds the CT `(b, 1, i, j, k)`: a key of a dict, or a number for a tuple or list.
        label_key: Where it holds the label.
        spacing_mm: Spacing of all patches; None: the batch holds it under `spacing_key`, or the image is a MetaTensor.
        spacing_key: Where the loader's batch holds the spacing: numbers or a tensor, three or three a sample, or three tensors, one an
            axis, as a DataLoader collates triples. It is read on the host, before Lightning moves the batch to the device.
        intensity: What the image holds, if not HU: `Window(low_hu, high_hu)`, `ZScore(mean_hu, std_hu)` or `Inverse(to_hu, from_hu)` of
            `gpu_synth.trainers.intensity`; it is undone before synthesis and done again after it.
        soft_key: Where a dict batch gets a soft label, the share of each voxel that is lesion, in [0, 1]; None: nowhere.
    """

    def __init__(
        self,
        synthesizer: TumorSynthesizer,
        image_key: Key = "image",
        label_key: Key = "label",
        spacing_mm: Sequence[float] | None = None,
        spacing_key: Key = "spacing_mm",
        intensity: Intensity = HU(),  # noqa: B008 (frozen)
        soft_key: str | None = None,
    ) -> None:
        self.step, self.soft_key = SynthesisStep(synthesizer, soft_key is not None, intensity), soft_key
        self.image_key, self.label_key = image_key, label_key
        self.spacing_mm, self.spacing_key = spacing_mm, spacing_key
        self._host_spacing_mm: list[Any] = []  # of the batch on its way to the device, one a part
        self._restore: Callable[[], None] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look at every training batch before it is moved: no hook of a callback comes so early."""
        if stage != "fit" or self.spacing_mm is not None:
            return
        strategy = trainer.strategy
        move = strategy.batch_to_device

        def read_and_move(batch: Any, *args: Any, **kwargs: Any) -> Any:
            if trainer.training:
                held = parts(batch, self.image_key, self.label_key) or [batch]
                self._host_spacing_mm = [host_spacing(part, self.image_key, self.spacing_key) for part in held]
            return move(batch, *args, **kwargs)

        strategy.batch_to_device = read_and_move  # type: ignore[method-assign] # on this instance, until teardown
        self._restore = partial(vars(strategy).pop, "batch_to_device")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the trainer as it was."""
        if self._restore is not None:
            self._restore()
            self._restore = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Lightning tears nothing down after an exception."""
        self.teardown(trainer, pl_module, "fit")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Synthesise into the batch's own tensors: a tensor put in their place would not reach `training_step`.

        Raises:
            ValueError: No part of the batch holds image and label where they should be, or there is no spacing.
        """
        found = parts(batch, self.image_key, self.label_key)
        if not found:
            missing = next((key for key in (self.image_key, self.label_key) if not parts(batch, key)), self.label_key)
            self._refuse(batch, missing)
        before = self._host_spacing_mm if len(self._host_spacing_mm) == len(found) else [None] * len(found)
        for part, host_spacing_mm in zip(found, before, strict=True):
            self._alter(part, host_spacing_mm)

    def _alter(self, batch: Any, host_spacing_mm: Any) -> None:
        """Synthesise into one batch; its spacing is its own where the host can read that, else what was read before it was moved."""
        if self.soft_key is not None and not isinstance(batch, MutableMapping):
            raise ValueError(f"batch must be a dict for soft_key, got a {type(batch).__name__}; set soft_key to None")
        image, label, spacing_mm = find(batch, self.image_key), find(batch, self.label_key), self.spacing_mm
        for there_is in (host_spacing(batch, self.image_key, self.spacing_key), host_spacing_mm, find(batch, self.spacing_key)):
            spacing_mm = there_is if spacing_mm is None else spacing_mm
        if spacing_mm is None:
            self._refuse(batch, self.spacing_key)
        new_image, new_label, *soft = self.step(image, label, spacing_mm)
        image.copy_(new_image)
        label.copy_(new_label)
        if self.soft_key is not None:
            batch[self.soft_key] = soft[0]

    def _refuse(self, batch: Any, key: Key) -> None:
        mend = "name the place with image_key, label_key, spacing_key or give spacing_mm"
        raise ValueError(f"batch must hold {key!r}, got {describe(batch)}; {mend}")

    def state_dict(self) -> dict[str, Any]:
        """Go into the checkpoint."""
        return self.step.synthesizer.get_extra_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come out of it."""
        self.step.synthesizer.set_extra_state(state_dict)

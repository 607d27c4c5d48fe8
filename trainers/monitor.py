"""What synthesis costs and what it makes, logged: numbers for every epoch, and a picture."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from gpu_synth.preview import save_png, slices_figure, to_rgb
from gpu_synth.trainers.callback import SynthesizeTumors
from gpu_synth.trainers.step import SynthesisStep


class SynthesisMonitor(pl.Callback):
    """Log lesions, their rate, samples skipped, synthesis's share of step time, and slices of a synthesised patch.

    It finds the synthesis step in the trainer's data module (`SynthesisDataModule`) or among its callbacks (`SynthesizeTumors`).
    Numbers are of all processes together: sums, and the share of their time from the end of one step to the end of the next, reading
    of data included, validation excluded.

    Args:
        pictures: Log a picture of the first patch of every epoch.
    """

    def __init__(self, pictures: bool = True) -> None:
        self.pictures = pictures
        self.step: SynthesisStep | None = None
        self.lesions, self.seconds, self.share = 0, 0.0, 0.0  # of the whole training so far
        self._all_step_seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the synthesis step."""
        holders = [trainer.datamodule, *trainer.callbacks]  # type: ignore[attr-defined]
        steps = [getattr(holder, "synthesis", None) for holder in holders]
        steps += [holder.step for holder in trainer.callbacks if isinstance(holder, SynthesizeTumors)]  # type: ignore[attr-defined]
        found = [step for step in steps if isinstance(step, SynthesisStep)]
        if len(found) != 1:
            raise ValueError(f"trainer must have one source of tumours, got {len(found)}; use SynthesisDataModule or SynthesizeTumors")
        self.step = found[0]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's counts."""
        assert self.step is not None
        synthesizer = self.step.synthesizer
        self._before = (synthesizer.lesions, synthesizer.skipped, self.step.seconds())
        self.step.keep_example = self.pictures and trainer.is_global_zero
        self._step_seconds = 0.0
        self._last = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a step's time."""
        now = time.perf_counter()
        self._step_seconds += now - self._last
        self._last = now

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave validation out of the next step's time."""
        self._last = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch."""
        assert self.step is not None
        synthesizer = self.step.synthesizer
        now = (synthesizer.lesions, synthesizer.skipped, self.step.seconds())
        lesions, skipped, seconds = (after - before for after, before in zip(now, self._before, strict=True))
        mine = [lesions, skipped, lesions / max(seconds, 1e-9), seconds, self._step_seconds]
        of_all = trainer.strategy.reduce(torch.tensor(mine, dtype=torch.float32, device=pl_module.device), reduce_op="sum")
        lesions, skipped, rate, seconds, step_seconds = of_all.tolist()
        numbers = {
            "lesions_per_epoch": lesions,
            "lesions_per_second": rate,
            "skipped_per_epoch": skipped,
            "share_of_step_time": seconds / max(step_seconds, 1e-9),
        }
        pl_module.log_dict({f"synthesis/{name}": value for name, value in numbers.items()})
        self._all_step_seconds += step_seconds
        self.lesions, self.seconds = self.lesions + int(lesions), self.seconds + seconds
        self.share = self.seconds / max(self._all_step_seconds, 1e-9)
        if self.step.example is not None:
            self._log_picture(trainer)

    def _log_picture(self, trainer: pl.Trainer) -> None:
        """Write the example as PNG beside the logs, and to TensorBoard where that is in use."""
        assert self.step is not None
        assert self.step.example is not None
        example, self.step.example = self.step.example, None
        epoch = trainer.current_epoch
        before, after, label = example.healthy.cpu().float(), example.image.cpu().float(), example.label.cpu()
        figure = slices_figure(before, after, label, example.spacing_mm, title=f"epoch {epoch}")
        if trainer.log_dir is not None:
            folder = Path(trainer.log_dir) / "synthesised"
            folder.mkdir(parents=True, exist_ok=True)
            save_png(figure, folder / f"epoch{epoch:04d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("synthesis/patch", to_rgb(figure), trainer.global_step)

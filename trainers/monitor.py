"""What synthesis costs and what it makes, logged: numbers for every epoch, and a picture."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from gpu_synth.preview.slices import save_png, slices_figure, to_rgb
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
        self._earlier = [0.0] * 4  # of this epoch, before the run went on: lesions, skipped, seconds in synthesis, seconds of steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the synthesis step."""
        holders = [trainer.datamodule, *trainer.callbacks]  # type: ignore[attr-defined]
        steps = [getattr(holder, "synthesis", None) for holder in holders]
        steps += [holder.step for holder in trainer.callbacks if isinstance(holder, SynthesizeTumors)]  # type: ignore[attr-defined]
        found = [step for step in steps if isinstance(step, SynthesisStep)]
        if len(found) != 1:
            raise ValueError(f"trainer must have one source of tumours, got {len(found)}; use SynthesisDataModule or SynthesizeTumors")
        self.step = found[0]
        self._begin()  # a run that goes on in the middle of an epoch has no start of it

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's counts."""
        self._begin()
        assert self.step is not None
        self.step.keep_example = self.pictures and trainer.is_global_zero
        self._earlier = [0.0] * 4

    def _begin(self) -> None:
        self._before, self._step_seconds = self._counted(), 0.0
        self._last = time.perf_counter()

    def _counted(self) -> list[float]:
        """Lesions, skipped samples and seconds of this process so far. Waits for the device."""
        assert self.step is not None
        return [self.step.synthesizer.lesions, self.step.synthesizer.skipped, self.step.seconds()]

    def _epoch(self, trainer: pl.Trainer) -> list[float]:
        """Sums over all processes, of this epoch: lesions, skipped, seconds in synthesis and of steps, lesions a second."""
        mine = [now - before for now, before in zip(self._counted(), self._before, strict=True)]
        mine = [x + y for x, y in zip([*mine, self._step_seconds], self._earlier, strict=True)]
        mine.append(mine[0] / max(mine[2], 1e-9))
        of_all = torch.tensor(mine, dtype=torch.float32, device=trainer.strategy.root_device)
        numbers: list[float] = trainer.strategy.reduce(of_all, reduce_op="sum").tolist()
        return numbers

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
        lesions, skipped, seconds, step_seconds, rate = self._epoch(trainer)
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
        self._begin()
        self._earlier = [0.0] * 4
        folder = trainer.log_dir  # all ask for it, for the first tells the others
        assert self.step is not None
        if self.step.example is not None:
            self._log_picture(trainer, folder)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the counts of the epoch at hand and of the training, all processes together."""
        epoch = self._epoch(trainer)[:4] if self.step is not None else [0.0] * 4
        checkpoint[type(self).__name__] = {"epoch": epoch, "training": [self.lesions, self.seconds, self._all_step_seconds]}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from them; one process stands for all that were before."""
        if (state := checkpoint.get(type(self).__name__)) is not None:
            self._earlier = state["epoch"] if trainer.is_global_zero else [0.0] * 4
            self.lesions, self.seconds, self._all_step_seconds = state["training"]

    def _log_picture(self, trainer: pl.Trainer, log_dir: str | None) -> None:
        """Write the example as PNG beside the logs, and to TensorBoard where that is in use."""
        assert self.step is not None
        assert self.step.example is not None
        example, self.step.example = self.step.example, None
        epoch = trainer.current_epoch
        before, after, label = example.healthy.cpu().float(), example.image.cpu().float(), example.label.cpu()
        figure = slices_figure(before, after, label, example.spacing_mm, title=f"epoch {epoch}")
        if log_dir is not None:
            folder = Path(log_dir) / "synthesised"
            folder.mkdir(parents=True, exist_ok=True)
            save_png(figure, folder / f"epoch{epoch:04d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("synthesis/patch", to_rgb(figure), trainer.global_step)

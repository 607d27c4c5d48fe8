"""Checkpoints that a run goes on from exactly: written as a whole or not at all, only where nothing is half done."""

import os
import pickle
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from gpu_synth.files import whole_file

NAME = "last.ckpt"
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class WholeCheckpointIO(TorchCheckpointIO):
    """Write a local checkpoint beside its name, and give it the name once it is on disk.

    Lightning's own is written in the system's temporary folder and copied from there where that is another file system: a process that
    is killed meanwhile leaves half a checkpoint under the old one's name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write it; to an object store as Lightning does."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as stream:
            torch.save(checkpoint, stream)


class LastCheckpoint(Checkpoint):
    """Keep `last.ckpt`, from which a run goes on as if it had never stopped; stop at a signal.

    It is written after optimiser steps only, never between the micro-batches of one: every so many minutes, every so many steps, before
    each validation and after each epoch. At the first SIGTERM, SIGINT or SIGUSR1 to any process of the run it is written after the step
    at hand, and the run ends with exit code 128 + signal (143, 130, 138); at the second the process ends at once. Within a validation,
    the run ends after the scan at hand, and the run that goes on begins with that validation.

    Args:
        every_minutes: Minutes from one to the next.
        every_steps: Optimiser steps from one to the next; 0: as time says.
    """

    def __init__(self, every_minutes: float = 10.0, every_steps: int = 0) -> None:
        if every_minutes <= 0 or every_steps < 0:
            raise ValueError(
                f"every_minutes must be above 0 and every_steps at least 0, got {every_minutes} and {every_steps}; 10 and 0 are usual"
            )
        self.every_minutes, self.every_steps = every_minutes, every_steps
        self._signal: int | None = None
        self._leaves = False  # all processes together, with what they need written
        self._before_validation = self._within_epoch = False  # where the checkpoint being written is taken
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which stops between micro-batches, or writes in the middle of a step."""
        self._signal, self._leaves, self._written, self._step = None, False, time.monotonic(), trainer.global_step
        self._says = trainer.is_global_zero
        self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write, where it is time and the optimiser has stepped."""
        loop = trainer.fit_loop
        if loop._should_accumulate() or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        validates = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type] # there is one in training
        due = time.monotonic() - self._written >= 60 * self.every_minutes
        due, self._leaves = _anywhere(trainer, due, self._signal is not None)
        due |= self._leaves or validates or (self.every_steps > 0 and trainer.global_step % self.every_steps == 0)
        if due and (validates or not trainer.is_last_batch):  # an epoch without validation ends in a moment, and is written then
            self._before_validation, self._within_epoch = validates, True
            self._write(trainer)
            self._before_validation = self._within_epoch = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write."""
        self._leaves |= _anywhere(trainer, self._signal is not None)[0]
        self._write(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave, if asked to: by now the loggers have what the checkpoint counts as logged."""
        self._leave(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Leave, if asked to."""
        self._leave(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave, if asked to."""
        self._leave(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        """Leave, if asked to: what was written before the validation is what a run goes on from."""
        if self._handlers and not trainer.sanity_checking:
            self._leaves |= _anywhere(trainer, self._signal is not None)[0]
            self._leave(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say which steps are logged; mark a validation that is still to come.

        Lightning takes a checkpoint from the end of a batch for one whose validation is over. Here it is made one from the validation's
        first scan, which is where Lightning goes back to.
        """
        loops = checkpoint["loops"]["fit_loop"]
        stepped = loops["epoch_loop.state_dict"]["_batches_that_stepped"] + self._within_epoch
        checkpoint["logged"] = {"steps": stepped, "validation": not self._before_validation}
        if self._before_validation:
            for count in ("total", "current"):
                batches = loops["epoch_loop.batch_progress"][count]
                batches["completed"] = batches["processed"]
                loops["epoch_loop.val_loop.batch_progress"][count] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._give_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back. Nothing is written: a step may be half done."""
        self._give_back()

    def _write(self, trainer: pl.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined] # set in its constructor
            return
        folder = Path(str(trainer.log_dir or trainer.default_root_dir)) / "checkpoints"
        trainer.save_checkpoint(folder / NAME, weights_only=False)
        self._written = time.monotonic()

    def _leave(self, trainer: pl.Trainer) -> None:
        if self._leaves and trainer.state.fn == TrainerFn.FITTING:
            # A launcher kills all processes where one that it started ends with another code than 0
            raise SystemExit(128 + (self._signal or signal.SIGTERM) if trainer.is_global_zero else 0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._signal = number
        if self._says:  # os.write: print may be what was interrupted
            name = signal.Signals(number).name
            os.write(2, f"\ngpu-synth: {name}: a checkpoint after this step, then the end; once more to end at once\n".encode())

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


class Found(NamedTuple):
    """A checkpoint that can be read: where it lies, what it says of itself, and the options that `predict` takes from it."""

    path: Path
    epoch: int
    step: int
    logged: dict[str, int]
    size: str | None
    predict: dict[str, Any]

    @property
    def version(self) -> int | None:
        """Number of the run's folder, if it has one."""
        number = self.path.parent.parent.name.removeprefix("version_")
        return int(number) if number.isdecimal() else None


def read_checkpoint(path: Path) -> Found:
    """Read what a checkpoint says of itself, without its weights.

    Raises:
        ValueError: It is none, or not whole.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        epoch, step, network = stored.get("epoch", 0), stored.get("global_step", 0), stored.get("hyper_parameters", {})
        predict = {"data.patch_vox": network.get("patch_vox")}
        predict |= {f"data.{name}": value for name, value in stored.get("SynthesisDataModule", {}).get("predict", {}).items()}
        predict = {name: value if value is None else list(value) for name, value in predict.items()}
        return Found(path, epoch, step, stored.get("logged", {}), network.get("size"), predict)
    except (RuntimeError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise ValueError(f"ckpt_path must be a whole checkpoint, got {path}: {str(error).splitlines()[0]}; take another") from error


def newest_checkpoint(root: Path) -> tuple[Found | None, list[str]]:
    """Find the newest `last.ckpt` of the runs in a folder.

    Args:
        root: The trainer's `default_root_dir`.

    Returns:
        It, if there is one; and what is wrong with those that are newer.
    """
    paths = [*root.glob(f"version_*/checkpoints/{NAME}"), *root.glob(f"checkpoints/{NAME}")]
    refused: list[str] = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            return read_checkpoint(path), refused
        except ValueError as error:
            refused.append(str(error))
    return None, refused


def _anywhere(trainer: pl.Trainer, *here: bool) -> list[bool]:
    """Whether each holds in any process; one process alone does not wait for its device."""
    if trainer.world_size == 1:
        return list(here)
    counts = torch.tensor(here, dtype=torch.float32, device=trainer.strategy.root_device)
    return [count > 0 for count in trainer.strategy.reduce(counts, reduce_op="sum").tolist()]

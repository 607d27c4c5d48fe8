"""Checkpoints that a run goes on from exactly: written as a whole or not at all, only where nothing is half done."""

import os
import pickle
import signal
import time
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

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
        self._signal = 0  # that this process got
        self._leaves = 0  # the signal at which all processes leave together, once what they need is written
        self._before_validation = self._within_epoch = False  # where the checkpoint being written is taken
        self._covered = True  # whether the last one written goes on with the validation that comes
        self._handlers: dict[int, Any] = {}
        self._group: Any = None  # in which processes ask each other without waiting for their devices

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which stops between micro-batches, or writes in the middle of a step."""
        self._signal, self._leaves, self._written, self._step = 0, 0, time.monotonic(), trainer.global_step
        self._says, self._covered = trainer.is_global_zero, True
        if trainer.world_size > 1 and self._group is None:
            self._group = torch.distributed.new_group(backend="gloo")
        self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write, where it is time and the optimiser has stepped."""
        loop, self._covered = trainer.fit_loop, False
        if loop._should_accumulate() or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        validates = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type] # there is one in training
        late, self._leaves = self._most(trainer, time.monotonic() - self._written >= 60 * self.every_minutes, self._signal)
        due = bool(late or self._leaves) or validates or (self.every_steps > 0 and trainer.global_step % self.every_steps == 0)
        if due and (validates or not trainer.is_last_batch):  # an epoch without validation ends in a moment, and is written then
            self._before_validation, self._within_epoch = validates, True
            self._write(trainer)
            self._before_validation, self._within_epoch, self._covered = False, False, validates

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write."""
        self._leaves = max(self._leaves, *self._most(trainer, self._signal))
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
        """Leave, if asked to and the validation was written before: one between micro-batches was not, and the step's end is waited for."""
        if self._handlers and self._covered and not trainer.sanity_checking:
            self._leaves = max(self._leaves, *self._most(trainer, self._signal))
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
            raise SystemExit(128 + self._leaves if trainer.is_global_zero else 0)

    def _most(self, trainer: pl.Trainer, *here: int) -> list[int]:
        """The greatest value of each in all processes."""
        if trainer.world_size == 1:
            return list(here)
        values = torch.tensor(here, dtype=torch.int32)
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX, group=self._group)
        most: list[int] = values.tolist()
        return most

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
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
        why = str(error).splitlines()[0] if zipfile.is_zipfile(path) else "it is no file that torch.save writes, or a part of one"
        raise ValueError(f"ckpt_path must be a whole checkpoint, got {path}: {why}; take another") from error


def check_weights(path: Path, module: nn.Module) -> None:
    """Refuse a checkpoint of another network before anything is written, as Lightning would once the run's folder is made.

    Raises:
        ValueError: Weights are missing, too many, or of another shape.
    """
    stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("state_dict")
    if stored is None:
        raise ValueError(f"ckpt_path must be a checkpoint of gpu-synth fit, got {path}, which holds no weights; such as last.ckpt of a run")
    theirs, ours = ({name: tuple(value.shape) for name, value in state.items()} for state in (stored, module.state_dict()))
    if wrong := [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]:
        name = wrong[0]
        raise ValueError(
            f"ckpt_path must be a checkpoint of this network, got {path}, in which {len(wrong)} weights differ: {name} is "
            f"{theirs.get(name, 'not there')}, here {ours.get(name, 'not there')}; give model.network as the training had it"
        )


def newest_checkpoint(root: Path) -> tuple[Found | None, list[str]]:
    """Find the newest `last.ckpt` of the runs in a folder.

    Args:
        root: The trainer's `default_root_dir`.

    Returns:
        It, if there is one; and what is wrong with those that are newer.
    """
    paths = list(root.rglob(f"checkpoints/{NAME}"))  # whatever folders the loggers make
    refused: list[str] = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            return read_checkpoint(path), refused
        except ValueError as error:
            refused.append(str(error))
    return None, refused

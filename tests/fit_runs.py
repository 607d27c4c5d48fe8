"""Short runs of `gpu-synth fit`, here or in processes of their own, that are stopped on the way; and what came of them."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from gpu_synth.trainers.fit import train

TIMES = ("synthesis/lesions_per_second", "synthesis/share_of_step_time")  # of no two runs the same


class Small(nn.Module):
    """In place of Swin UNETR: every voxel of its patches changes its weights, and what it draws does."""

    dropout = 0.3

    def __init__(self, inputs: int, outputs: int, **_: object) -> None:
        super().__init__()
        norm, drop = nn.InstanceNorm3d(4, affine=True), nn.Dropout(self.dropout)
        self.layers = nn.Sequential(nn.Conv3d(inputs, 4, 3, 2, 1), norm, drop, nn.ReLU(), nn.ConvTranspose3d(4, outputs, 2, 2))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image)
        return logits


class Steady(Small):
    """One that draws nothing."""

    dropout = 0.0


class Stop(pl.Callback):
    """Stop a run before a batch of training, or before a scan of a validation: by a signal to itself, or by an error."""

    def __init__(self, batch: int = -1, validation: int = -1, by: str = "SIGTERM", rank: int = 0) -> None:
        self.batch, self.validation, self.by, self.rank = batch, validation, by, rank
        self.batches = self.validations = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._stop(self.batches == self.batch and trainer.global_rank == self.rank)
        self.batches += 1

    def on_validation_batch_start(self, *_):
        self._stop(self.validations == self.validation)
        self.validations += 1

    def _stop(self, now: bool) -> None:
        if now and self.by == "error":
            raise RuntimeError("stopped by an error")
        if now:
            os.kill(os.getpid(), getattr(signal, self.by))


def options(cache: Path, folder: Path, **more: object) -> list[str]:
    """Two epochs of six steps, one patch each; log every step, draw no bars."""
    told = {
        "seed_everything": 0,
        "data.data_dir": cache,
        "data.patch_vox": [64, 32, 32],
        "data.batch_size": 1,
        "data.samples_per_epoch": 6,
        "data.num_workers": 0,
        "model.overlap": 0,
        "model.lr": 0.01,
        "trainer.default_root_dir": folder,
        "trainer.max_epochs": 2,
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.deterministic": "true",
        "trainer.log_every_n_steps": 1,
        "trainer.num_sanity_val_steps": 0,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    return [f"--{name}={value}" for name, value in told.items() if value is not None]


def stopping(stop: dict[str, object] | None) -> list[str]:
    """Options of a run that is stopped."""
    return [] if stop is None else ["--trainer.callbacks+=fit_runs.Stop", *(f"--trainer.callbacks.{k}={v}" for k, v in stop.items())]


def fit(cache: Path, folder: Path, stop: dict[str, object] | None = None, **more: object) -> int:
    """Run `gpu-synth fit` in this process; its exit code."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        train(["fit", *options(cache, folder, **more), *stopping(stop)])
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        torch.use_deterministic_algorithms(before)
    return 0


def spawn(*arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Run Python, or a shell if that comes first; one thread a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **(env or {})}
    command = [*map(str, arguments)] if arguments[0] == "sh" else [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=cwd)


def rows(folder: Path) -> list[tuple[tuple[str, str], ...]]:
    """All that a run's one CSV log holds, but for times."""
    (path,) = folder.glob("version_*/metrics.csv")
    with path.open() as stream:
        return [tuple((k, v) for k, v in row.items() if v and k not in TIMES) for row in csv.DictReader(stream)]


def losses(folder: Path) -> list[float]:
    """The loss of every step."""
    return [float(dict(row)["train/loss"]) for row in rows(folder) if "train/loss" in dict(row)]


def stored(folder: Path, name: str) -> dict[str, object]:
    (path,) = folder.glob(f"version_*/checkpoints/{name}.ckpt")
    return torch.load(path, weights_only=True)


def same_weights(a: dict[str, object], b: dict[str, object]) -> bool:
    """Weights, averages, optimiser's moments and learning rates, to the last bit."""
    flat = [dict(_leaves({k: c[k] for k in KEPT if k in c})) for c in (a, b)]
    return flat[0].keys() == flat[1].keys() and all(_equal(flat[0][k], flat[1][k]) for k in flat[0])


KEPT = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "SynthesisDataModule")


def _leaves(value, name=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if items is None:
        yield name, value
        return
    for key, inner in items:
        yield from _leaves(inner, (*name, key))


def _equal(a: object, b: object) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


if __name__ == "__main__":  # as `gpu-synth`, with a network that costs nothing; DDP starts its other processes with the same command
    from gpu_synth.cli import main
    from gpu_synth.trainers import module

    module.SwinUNETR = Steady  # type: ignore[misc]
    sys.exit(main())

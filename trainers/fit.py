"""`gpu-synth fit`, `validate`, `test` and `predict`: Lightning's command line with this project's model, data and monitor."""

import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from gpu_synth.trainers.data import SynthesisDataModule
from gpu_synth.trainers.module import SegmentationModule
from gpu_synth.trainers.monitor import SynthesisMonitor

# What the libraries say of how this file calls them, or of each other.
_NOT_FOR_USERS = (
    "LightningCLI's args parameter is intended",
    ".*was deprecated in v4",  # jsonargparse, of Lightning's calls
    ".*skip_none parameter was deprecated",
    "Experiment logs directory .* exists and is not empty",  # TensorBoard's, which CSV shares
    "The dirpath has changed",  # a run that goes on has a folder, and a best checkpoint, of its own
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
FREE = ("data.patch_vox",)  # of what a checkpoint tells, what may also be told otherwise


class GpuSynthCLI(LightningCLI):
    """Lightning's command line: the patch shape is said once, logs go to TensorBoard and CSV, the best and the last weights are kept.

    A checkpoint tells the size of its network and, to `predict`, the patch shape, the spacing and the window that it was trained with; all
    else is what the command line and its configs say, also where the training that wrote the checkpoint was told otherwise.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what model and data share."""
        parser.link_arguments("data.patch_vox", "model.patch_vox")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; then again with what the checkpoint tells as the defaults.

        Raises:
            ValueError: A size, or for `predict` a spacing or window, is given that is not the checkpoint's; or `predict` has no checkpoint.
        """
        super().parse_arguments(parser, args)
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if not path or not Path(path).is_file():
            if subcommand == "predict":  # Lightning would predict with random weights
                raise ValueError(
                    f"ckpt_path must be a checkpoint of gpu-synth fit, got {path}; such as runs/version_0/checkpoints/last.ckpt"
                )
            return
        stored = told_by(path, to_predict=subcommand == "predict")
        parser.set_defaults({f"{subcommand}.{name}": value for name, value in stored.items()})
        super().parse_arguments(parser, args)
        given = {name: self.config[subcommand].get(name) for name in stored if name not in FREE}
        for name, value in given.items():
            if (list(value) if isinstance(value, tuple) else value) != stored[name]:
                raise ValueError(f"{name} must be {stored[name]!r}, as in {path}, got {value!r}; leave it out")

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning's lets all that the checkpoint's training was told overrule the command line."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to TensorBoard and CSV, in one folder a run, unless the user names other loggers."""
        config = self._get(self.config_init, "trainer", default={})
        if config.get("logger") is None:
            root = config.get("default_root_dir") or "runs"
            board = TensorBoardLogger(root, name=None)
            kwargs["logger"] = [board, CSVLogger(root, name=None, version=board.version)]
        return super().instantiate_trainer(**kwargs)


def train(arguments: Sequence[str], run: bool = True) -> GpuSynthCLI:
    """Run Lightning's command line.

    Args:
        arguments: Subcommand and options; without the subcommand where nothing is run.
        run: False: only build trainer, model and data.
    """
    for message in _NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message)
    return GpuSynthCLI(
        SegmentationModule,
        SynthesisDataModule,
        args=with_packaged_configs(arguments),
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [SynthesisMonitor(), LearningRateMonitor(), *checkpoints()]},
        run=run,
    )


def told_by(path: str, to_predict: bool) -> dict[str, Any]:
    """Read what a checkpoint tells of options: `model.size`; to predict, `data.patch_vox`, `data.spacing_mm` and `data.window_hu` too."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    network = checkpoint.get("hyper_parameters", {})
    told = {"model.size": network.get("size")}
    if to_predict:
        trained = checkpoint.get(SynthesisDataModule.__qualname__, {}).get("predict", {})
        told |= {"data.patch_vox": network.get("patch_vox")} | {f"data.{name}": value for name, value in trained.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items() if value is not None}


def checkpoints() -> list[ModelCheckpoint]:
    """`best.ckpt` by the tumour DSC of a validation, and `last.ckpt` after every epoch, whether it was validated or not."""
    best = ModelCheckpoint(
        filename="best", monitor="val/dsc_tumor", mode="max", save_on_train_epoch_end=False, enable_version_counter=False
    )
    return [best, ModelCheckpoint(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)]


def with_packaged_configs(arguments: Sequence[str]) -> list[str]:
    """Replace the name of a packaged config, such as `liver.yaml`, by its path, where no file of that name is at hand."""
    out = list(arguments)
    for n, argument in enumerate(out):
        option, _, value = argument.partition("=")
        if option not in ("--config", "-c"):
            continue
        at = n if value else n + 1
        name = value or (out[at] if at < len(out) else "")
        packaged = files("gpu_synth.trainers") / "configs" / name
        if name and not Path(name).exists() and packaged.is_file():
            out[at] = f"{option}={packaged}" if value else str(packaged)
    return out

"""`gpu-synth fit`, `validate`, `test` and `predict`: Lightning's command line with this project's model, data and monitor."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning_utilities.core.rank_zero import rank_zero_only

from gpu_synth.files import check_folder_to_write
from gpu_synth.options import Help, Parser
from gpu_synth.trainers.checkpoint import Found, LastCheckpoint, WholeCheckpointIO, check_weights, newest_checkpoint, read_checkpoint
from gpu_synth.trainers.data import SynthesisDataModule
from gpu_synth.trainers.exact import SameOnAllRanks, SeedSteps
from gpu_synth.trainers.logs import ContinuedCSVLogger
from gpu_synth.trainers.module import SegmentationModule
from gpu_synth.trainers.monitor import SynthesisMonitor

ROOT = "runs"  # where runs lie that are not told where

# What the libraries say of how this file calls them, or of each other.
_NOT_FOR_USERS = (
    "LightningCLI's args parameter is intended",
    ".*was deprecated in v4",  # jsonargparse, of Lightning's calls
    ".*skip_none parameter was deprecated",
    "Experiment logs directory .* exists and is not empty",  # TensorBoard's, which CSV shares
    "Checkpoint directory .* exists and is not empty",  # a run goes on in its folder
    "The dirpath has changed",  # a run that goes on from a path has a folder, and a best checkpoint, of its own
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
_LOADERS = {"validate": "val", "test": "test", "predict": "predict"}  # what feeds a subcommand
FREE = ("data.patch_vox",)  # of what a checkpoint tells, what may also be told otherwise


class _Parser(Parser, LightningArgumentParser):
    """Lightning's parser, which says what is wrong in one line."""


class GpuSynthCLI(LightningCLI):
    """Lightning's command line: the patch shape is said once, logs go to TensorBoard and CSV, the best and the last weights are kept.

    A checkpoint tells the size of its network and, to `predict`, the patch shape, the spacing and the window that it was trained with; all
    else is what the command line and its configs say, also where the training that wrote the checkpoint was told otherwise.
    """

    _last: Found | None = None  # the run that goes on in its own folder
    _weights: Path | None = None  # the checkpoint that was named or found

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what model and data share; the options that are neither's."""
        parser.link_arguments("data.patch_vox", "model.patch_vox")
        parser.add_argument("--compile", type=bool, default=False, help="Compile the network with torch.compile.")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; then again with the checkpoint found that `last` means, and with what it tells as the defaults.

        Raises:
            ValueError: The checkpoint is none, or a size or, to predict, a spacing or window is given that is not the checkpoint's.
        """
        super().parse_arguments(parser, args)
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        found = self._find_last(subcommand) if path == "last" else read_checkpoint(Path(path)) if path and Path(path).is_file() else None
        if found is None and subcommand in ("predict", "test", "validate"):  # Lightning would take random weights
            raise ValueError(f"ckpt_path must be a checkpoint of gpu-synth fit, got {path}; such as runs/version_0/checkpoints/last.ckpt")
        if found is None and path and Path(path).suffix and "://" not in path:
            raise ValueError(f"ckpt_path must be a checkpoint that is there, got {path}; --ckpt_path last takes the newest")
        if found is not None:
            self._weights = found.path
            self._take(found, parser, args)
        if path == "last":
            self.config[subcommand]["ckpt_path"] = None if found is None else str(found.path)

    def _take(self, found: Found, parser: LightningArgumentParser, args: Any) -> None:
        """Parse again, with what a checkpoint tells as the defaults; refuse what contradicts it."""
        subcommand = self.config["subcommand"]
        told = {"model.size": found.size, **(found.predict if subcommand == "predict" else {})}
        told = {name: value for name, value in told.items() if value is not None}
        parser.set_defaults({f"{subcommand}.{name}": value for name, value in told.items()})
        super().parse_arguments(parser, args)
        for name, value in told.items():
            given = self.config[subcommand].get(name)
            if name not in FREE and (list(given) if isinstance(given, tuple) else given) != value:
                raise ValueError(f"{name} must be {value!r}, as in {found.path}, got {given!r}; leave it out")

    def _find_last(self, subcommand: str) -> Found | None:
        """Find the newest checkpoint of the runs in `default_root_dir`, and say which it is; a training may begin without one."""
        root = Path(self.config[subcommand].trainer.get("default_root_dir") or ROOT)
        found, refused = newest_checkpoint(root)
        say = rank_zero_only(print)
        for reason in refused:
            say(f"gpu-synth: passed over: {reason}")
        if found is not None:
            say(f"gpu-synth: going on from {found.path}, epoch {found.epoch}, step {found.step}")
        elif subcommand == "fit":
            say(f"gpu-synth: no checkpoint in {root}: a new run")
        else:
            raise ValueError(f"ckpt_path must name a checkpoint, got 'last', and there is none in {root}; set trainer.default_root_dir")
        self._last = found if subcommand == "fit" else None
        return found

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning's lets all that the checkpoint's training was told overrule the command line."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Write checkpoints as a whole; log to TensorBoard and CSV, in one folder a run, unless the user names other loggers."""
        config = self._get(self.config_init, "trainer", default={})
        plugins = config.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, WholeCheckpointIO()]
        if config.get("logger") is None:  # what is segmented is no run: its files are all that is written
            predicts = self.config.get("subcommand") == "predict"
            kwargs["logger"] = False if predicts else _loggers(config.get("default_root_dir") or ROOT, self._last)
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        """Look at data and weights now, as Lightning does after a logger has made the run's folder."""
        if self.subcommand is None:
            return
        if self.subcommand == "predict":
            check_folder_to_write("model.predict_dir", self.model.predict_dir)
        else:
            check_folder_to_write("trainer.default_root_dir", self.trainer.default_root_dir)
        self.datamodule.trainer = self.trainer
        self.datamodule.setup(self.subcommand)
        if self.subcommand != "fit":
            getattr(self.datamodule, f"{_LOADERS[self.subcommand]}_dataloader")()
        if self._weights is not None:
            check_weights(self._weights, self.model)

    def before_fit(self) -> None:
        """Compile in place, so that the names of weights stay as they are."""
        if self._get(self.config_init, "compile"):
            self.model.network.compile()


class SaveConfig(SaveConfigCallback):
    """Lightning's, of runs that are logged."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config beside the logs, if there are any."""
        if trainer.logger is not None:
            super().setup(trainer, pl_module, stage)


def _loggers(root: str, last: Found | None) -> list[TensorBoardLogger | CSVLogger]:
    """Loggers of a new folder, or of the folder of a run that goes on."""
    if last is None or last.version is None or not last.logged:
        board = TensorBoardLogger(root, name=None)
        return [board, CSVLogger(root, name=None, version=board.version)]
    board = TensorBoardLogger(root, name=None, version=last.version, purge_step=last.logged["steps"])
    return [board, ContinuedCSVLogger(root, last.version, last.logged)]


def train(arguments: Sequence[str], run: bool = True, endings: Mapping[str, str] = MappingProxyType({})) -> GpuSynthCLI:
    """Run Lightning's command line.

    Args:
        arguments: Subcommand and options; without the subcommand where nothing is run.
        run: False: only build trainer, model and data.
        endings: What the help of a subcommand ends with.
    """
    for message in _NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)
    return GpuSynthCLI(
        SegmentationModule,
        SynthesisDataModule,
        args=with_packaged_configs(arguments),
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True},
        parser_class=_Parser,
        parser_kwargs={"prog": "gpu-synth", "formatter_class": Help, **{name: {"epilog": text} for name, text in endings.items()}},
        trainer_defaults={"callbacks": [SeedSteps(), SynthesisMonitor(), LearningRateMonitor(), SameOnAllRanks(), best_checkpoint()]},
        seed_everything_default=0,
        run=run,
    )


def _is_no_tip(record: logging.LogRecord) -> bool:
    """Whether Lightning says something of the run, rather than of its makers' services, which send what is logged to their platform."""
    return "Tip: For seamless cloud" not in record.getMessage()


def best_checkpoint() -> ModelCheckpoint:
    """`best.ckpt`, by the tumour DSC of a validation."""
    return ModelCheckpoint(
        filename="best", monitor="val/dsc_tumor", mode="max", save_on_train_epoch_end=False, enable_version_counter=False
    )


def with_packaged_configs(arguments: Sequence[str]) -> list[str]:
    """Replace the name of a packaged config, such as `liver.yaml`, by its path, where no file of that name is at hand.

    Raises:
        ValueError: There is neither.
    """
    out = list(arguments)
    for n, argument in enumerate(out):
        option, _, value = argument.partition("=")
        if option not in ("--config", "-c"):
            continue
        at = n if value else n + 1
        name = value or (out[at] if at < len(out) else "")
        if not name or Path(name).exists():
            continue
        packaged = {path.name: str(path) for path in (files("gpu_synth.trainers") / "configs").iterdir() if path.name.endswith(".yaml")}
        if name in packaged:
            out[at] = f"{option}={packaged[name]}" if value else packaged[name]
        elif Path(name).suffix in (".yaml", ".yml"):
            known = sorted(Path(each).stem for each in packaged if not each.startswith("monai"))  # that one is MONAI's to read
            close = get_close_matches(Path(name).stem, known, n=1)
            mend = f"did you mean {close[0]}.yaml?" if close else "there is no such file"
            listed = ", ".join(f"{stem}.yaml" for stem in known)
            raise ValueError(f"config must be a file, or one of {listed}, which come with the package, got {name}; {mend}")
    return out

"""One training of the experiment, and its weights in half precision."""

import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gpu_synth.bench.learning.scans import Scans
from gpu_synth.bench.learning.settings import Arm, Scale
from gpu_synth.files import whole_file
from gpu_synth.trainers.data import SynthesisDataModule, collate
from gpu_synth.trainers.exact import SeedSteps
from gpu_synth.trainers.module import SegmentationModule
from gpu_synth.trainers.step import SynthesisStep

Sample = dict[str, Any]


class PooledPatches(Dataset[Sample]):
    """The same few patches again and again.

    Args:
        patches: By uid.
        pool: How many.
    """

    def __init__(self, patches: Dataset[Sample], pool: int) -> None:
        self.patches, self.pool = patches, pool

    def __getitem__(self, uid: int) -> Sample:
        """Read the patch of a uid; it keeps its uid, by which it is augmented."""
        return {**self.patches[uid % self.pool], "uid": torch.tensor(uid)}


class PooledStep(SynthesisStep):
    """The same few tumours again and again."""

    pool: int

    def __call__(self, image: Tensor, label: Tensor, spacing_mm: Any, uid: Tensor | None = None, *more: Any) -> tuple[Tensor, ...]:
        """Synthesise."""
        assert uid is not None
        return super().__call__(image, label, spacing_mm, uid % self.pool, *more)


class OfflineDataModule(SynthesisDataModule):
    """Tumours as if made before the training: a pool of patches, each with its tumours; only flips, turns and intensities are fresh.

    Args:
        pool: How many patches.
        **options: Those of `SynthesisDataModule`.
    """

    def __init__(self, pool: int, **options: Any) -> None:
        super().__init__(**options)
        self.pool = pool
        self.synthesis = PooledStep(self.synthesis.synthesizer)
        self.synthesis.pool = pool

    def train_dataloader(self) -> DataLoader[Sample]:
        """Patches of the pool."""
        fresh = super().train_dataloader()
        patches = PooledPatches(fresh.dataset, self.pool)
        return DataLoader(patches, self.batch_size, collate_fn=collate, sampler=fresh.sampler, drop_last=True)


def train(scans: Scans, arm: Arm, scale: Scale, seed: int) -> tuple[SegmentationModule, list[float]]:
    """Train a network from nothing, on synthetic tumours only; deterministic on a CPU.

    Returns:
        It, and the mean loss of each tenth of its training.
    """
    options: dict[str, Any] = {
        "data_dir": str(scans.manifest.root),
        "patch_vox": scale.patch_vox,
        "batch_size": scale.batch_size,
        "samples_per_epoch": scale.steps * scale.batch_size,
        "val_cases": scans.held_out,
        "num_workers": scale.workers,
        "seed": seed,
        "preset": arm.preset,
        "overrides": dict(arm.overrides),
    }
    data = OfflineDataModule(scale.pool, **options) if arm.offline else SynthesisDataModule(**options)
    pl.seed_everything(seed, verbose=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    module, losses = segmenter(scale), Losses()
    before = torch.are_deterministic_algorithms_enabled()
    trainer = pl.Trainer(
        max_epochs=1,
        devices=1,
        precision=scale.precision,  # type: ignore[arg-type] # Lightning says which there are
        deterministic="warn",  # some operations on CUDA know no other way
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[SeedSteps(), losses],
    )
    trainer.fit(module, data)
    torch.use_deterministic_algorithms(before)
    return module, losses.by_tenth()


class Losses(pl.Callback):
    """Keep the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep it where it is: reading it would wait for the device."""
        self.losses.append(outputs["loss"].detach())

    def by_tenth(self) -> list[float]:
        """Mean of each tenth."""
        return [float(part.mean()) for part in torch.stack(self.losses).cpu().float().chunk(10)]


def segmenter(scale: Scale) -> SegmentationModule:
    """Make a network, untrained."""
    return SegmentationModule(patch_vox=scale.patch_vox, lr=scale.lr, overlap=scale.overlap, network=scale.build())


def save_weights(network: nn.Module, path: Path, about: dict[str, Any]) -> None:
    """Write weights in half precision, and with them what they are: safetensors, whole or absent.

    Buffers are left out: those of our networks are constants, and Swin UNETR's as large as its weights.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {name: value.detach().cpu().half().contiguous() for name, value in network.named_parameters()}
    with whole_file(path) as stream:
        stream.write(save(half, {"about": json.dumps(about, sort_keys=True)}))


def load_weights(network: nn.Module, path: Path) -> None:
    """Read weights into a network.

    Raises:
        ValueError: They are another network's.
    """
    stored, wanted = load_file(path), dict(network.named_parameters())
    if {name: value.shape for name, value in stored.items()} != {name: value.shape for name, value in wanted.items()}:
        raise ValueError(f"weights must be those of the scale's network, got {path}; give the scale that they were trained at")
    network.load_state_dict(stored, strict=False)


def about(path: Path) -> dict[str, Any]:
    """What weights say of themselves; nothing where there are none."""
    if not path.exists():
        return {}
    with safe_open(path, "pt") as stored:
        found: dict[str, Any] = json.loads((stored.metadata() or {}).get("about", "{}"))
    return found

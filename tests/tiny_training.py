"""A prepared folder of small healthy scans, and a network that costs nothing."""

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn

from gpu_synth.prepare.run import prepare
from gpu_synth.trainers.data import SynthesisDataModule
from gpu_synth.volumes import save_nifti

SHAPE = (72, 60, 44)
PATCH_VOX = (24, 24, 16)


def write_scan(folder: Path, name: str, radii: Sequence[float], tumor: bool = False) -> None:
    """Write a CT and its mask: an ellipsoid of 100 HU in −50 HU, at 2 mm; in it, if asked, a ball of 40 HU with label 2."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    label = (((grid / np.reshape(radii, (3, 1, 1, 1))) ** 2).sum(0) < 1).astype(np.uint8)
    label[((grid * np.reshape(SHAPE, (3, 1, 1, 1)) / 2) ** 2).sum(0) < 6**2] += np.uint8(tumor)
    hu = np.array([-50, 100, 40])[label] + np.random.default_rng(list(name.encode())).normal(0, 5, SHAPE)
    hu[:2] = -1000  # air: a CT without any is refused
    for kind, data in (("ct", hu.astype(np.int16)), ("liver", label)):
        (folder / kind).mkdir(exist_ok=True)
        save_nifti(folder / kind / f"{name}.nii.gz", data, np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans, an ellipsoid of 100 HU in −50 HU each, at 2 mm."""
    folder = tmp_path_factory.mktemp("scans")
    for n in range(4):
        write_scan(folder, f"case{n}", np.array([0.6, 0.7, 0.8]) + 0.03 * n)
    prepare(images=folder / "ct", labels=folder / "liver", out=folder / "cache", spacing_mm=(2.0, 2.0, 2.0))
    return folder / "cache"


def data_of(cache: Path, **options) -> SynthesisDataModule:
    return SynthesisDataModule(str(cache), **{"patch_vox": PATCH_VOX, "samples_per_epoch": 8, "num_workers": 0, "prob": 1.0, **options})


class Recorder(pl.LightningModule):
    """A foreign module: one convolution, its own batch, no idea of tumours; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Conv3d(1, 3, 1)
        self.seen: list[dict[str, torch.Tensor]] = []
        self.held_out: list[dict[str, torch.Tensor]] = []

    def training_step(self, batch, batch_idx):
        image, label = (batch["image"], batch["label"]) if isinstance(batch, dict) else batch[:2]
        uid = batch["uid"] if isinstance(batch, dict) and "uid" in batch else torch.zeros(0)
        self.seen.append({"image": image.clone(), "label": label.clone(), "uid": uid})
        return nn.functional.cross_entropy(self.network(image.float()), label[:, 0].long())

    def validation_step(self, batch, batch_idx):
        self.held_out.append({name: batch[name].clone() for name in ("image", "label", "uid")})

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_of(folder: Path, **options) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(**{"accelerator": "cpu", "num_sanity_val_steps": 0, "default_root_dir": folder, "max_epochs": 1, **quiet, **options})

"""Healthy scans from `gpu-synth prepare`, as patches with tumours; held-out scans with tumours that stay the same."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, default_collate

from gpu_synth import TumorSynthesizer, presets
from gpu_synth.checks import check_at_least, check_range
from gpu_synth.manifest import Case, Manifest, load_manifest
from gpu_synth.plan_base import Scope
from gpu_synth.trainers.augment import Augmentation, window
from gpu_synth.trainers.bank import VolumeBank, check_budget
from gpu_synth.trainers.patches import PatchDataset, PatchLocator, PatchPolicy, ResumableLoader, Sample
from gpu_synth.trainers.sampling import ScanSampler, end_workers_at_exit, leave_signals, rank_and_world
from gpu_synth.trainers.scans import HeldOutDataset, ScanDataset, find_scans
from gpu_synth.trainers.split import Tumors, load_all, split
from gpu_synth.trainers.step import SynthesisStep

# What a batch holds as a list, one a sample: a tensor would be moved, and rounded to bfloat16.
HOST = ("spacing_mm", "affine", "name", "path", "repeated", "case", "start_vox", "whole")


class OrdinalSampler(DistributedSampler[Any]):
    """Uids in the order of the run: those of this epoch that are still to come, each rank its own.

    It is a `DistributedSampler` because Lightning would share out any other among the ranks a second time.

    Args:
        data: Whose `samples_seen` tells how far the run is.
        rank: This process.
        world: Number of processes.
    """

    def __init__(self, data: "SynthesisDataModule", rank: int, world: int) -> None:
        self.data, self.rank, self.world = data, rank, world  # without super(): it would ask for the length of a data set

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch."""
        return self.data.samples_per_epoch // self.world

    def __iter__(self) -> Iterator[int]:
        """Go on where the run is."""
        seen, whole = self.data.samples_seen, len(self) * self.world
        return iter(range(seen + self.rank, seen - seen % whole + whole, self.world))


class SynthesisDataModule(pl.LightningDataModule):
    """Feed a trainer with synthetic tumours in healthy scans, made on its device.

    Training scans lie on the device as far as `resident_gib` goes, and patches are cut out there; of the others, workers read patches.
    Which patch a uid is does not depend on it. Synthesis, window and augmentation follow on the device. Validation needs no annotated
    scan: held-out cases get tumours under fixed uids, the same in every epoch and run. A scan that has tumours already keeps them.
    Scans of `test_cases` and `test_dir` are tested as they are.

    Args:
        data_dir: Folder that `gpu-synth prepare` wrote, or several; `predict` needs none where the checkpoint tells the spacing.
        patch_vox: Patch shape.
        batch_size: Patches a step and process.
        samples_per_epoch: Patches an epoch, over all processes; what does not fill a step of all of them is left out.
        policy: What patches are centred on.
        scope: "patch": tumours are drawn for the patch, and one that is centred on organ and altered holds one; where there was no place
            for it, or it is smaller than a voxel, the patch is counted as skipped. "volume": tumours are drawn for the whole organ, as
            published, of which the patch shows some or none; for a liver at 1 mm that takes some three times as long.
        tumors: "synthetic": train and validate on scans that have no tumour; "real": on those that have, as they are, and nothing is
            synthesised; "both": on all, with synthetic tumours where there are none.
        val_cases: Names of the held-out cases; none: every fifth case, at least one.
        test_cases: Names of cases that are neither trained nor validated on, for `test`.
        val_margin_mm: What validation and test see around the organ; null: whole scans.
        test_dir: Folder of annotated scans for `test`, prepared with `--tumor_labels`; none: `test_cases`, or else the held-out ones.
        predict_images: A folder of CT files, files or patterns, for `predict`.
        spacing_mm: What `predict` resamples to; none: what the checkpoint or else `data_dir` was prepared with.
        num_workers: Processes that read patches of scans that are not resident; where all are, there are none.
        resident_gib: GiB of scans (3 bytes a voxel) that lie on the training device; null: half of what a CUDA device has free, none on
            a CPU; 0: none.
        seed: Key of all randomness.
        preset: What the tumours are drawn from: liver, liver-hu2022 (as published), liver-growth, pancreas, kidney, or a YAML file.
        prob: Probability that a training patch is altered.
        overrides: Fields of the preset and their new values, such as count: [2, 4]; of an unknown one, the message lists them all.
        soft_labels: Train on the share of each voxel that is lesion, rather than on whether its centre is.
        window_hu: The window that becomes [0, 1].
        augmentation: What follows the window.

    Raises:
        ValueError: An argument does not fit the data.
    """

    def __init__(
        self,
        data_dir: str | Sequence[str] | None = None,
        patch_vox: Sequence[int] = (96, 96, 96),
        batch_size: int = 2,
        samples_per_epoch: int = 500,
        policy: PatchPolicy = PatchPolicy(),  # noqa: B008 (frozen)
        scope: Scope = "patch",
        tumors: Tumors = "both",
        val_cases: Sequence[str] = (),
        test_cases: Sequence[str] = (),
        val_margin_mm: float | None = 16.0,
        test_dir: str | None = None,
        predict_images: str | Sequence[str] = (),
        spacing_mm: tuple[float, float, float] | None = None,
        num_workers: int = 2,
        resident_gib: float | None = None,
        seed: int = 0,
        preset: str = "liver",
        prob: float = 0.9,
        overrides: dict[str, Any] | None = None,
        soft_labels: bool = False,
        window_hu: tuple[float, float] = (-21.0, 189.0),
        augmentation: Augmentation = Augmentation(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        check_at_least(1, batch_size=batch_size, samples_per_epoch=samples_per_epoch)
        check_at_least(0, num_workers=num_workers)
        check_range("window_hu", window_hu)
        if tumors == "real" and soft_labels:
            raise ValueError("soft_labels must be False for tumors 'real', got True; annotations tell no shares of voxels")
        self.data_dir, self.test_dir, self.predict_images = data_dir, test_dir, predict_images
        self.patch_vox, self.batch_size, self.samples_per_epoch = tuple(patch_vox), batch_size, samples_per_epoch
        self.tumors, self.val_cases, self.test_cases = tumors, tuple(val_cases), tuple(test_cases)
        self.val_margin_mm, self.num_workers, self.seed = val_margin_mm, num_workers, seed
        self.window_hu, self.augmentation, self.policy, self.scope = window_hu, augmentation, policy, scope
        self.resident_gib = check_budget(resident_gib)
        self.bank: VolumeBank | None = None
        figures = presets.get(preset, **(overrides or {}))
        self.synthesis = SynthesisStep(TumorSynthesizer(figures, prob, seed, scope=scope), soft_labels)
        self.held_out_synthesizer = TumorSynthesizer(figures, prob=1.0, seed=0, scope="volume")
        self.samples_seen, self.spacing_mm = 0, spacing_mm if spacing_mm is None else tuple(spacing_mm)

    def setup(self, stage: str) -> None:
        """Read the manifest; split the cases."""
        if stage == "predict" and self.spacing_mm is not None:
            return
        if self.data_dir is None:
            spacing = " or --data.spacing_mm" if stage == "predict" else ""
            raise ValueError(f"data_dir must be a folder that gpu-synth prepare wrote, got None; give --data.data_dir{spacing}")
        self.manifest = load_all(self.data_dir)
        self.spacing_mm = tuple(self.manifest.settings["spacing_mm"])
        self.training, self.held_out, self.test = split(self.manifest, self.tumors, self.val_cases, self.test_cases)
        limit = self.trainer.limit_train_batches if self.trainer and self.trainer.max_epochs != 1 else 1.0  # overfit_batches sets it, too
        if stage == "fit" and limit != 1.0:
            raise ValueError(
                f"limit_train_batches must be 1.0 and overfit_batches 0, got {limit}; shorten epochs by --data.samples_per_epoch"
            )
        world = self.trainer.world_size if self.trainer else 1
        if self.samples_per_epoch < world * self.batch_size:
            raise ValueError(
                f"samples_per_epoch must be at least batch_size {self.batch_size} × {world} process(es), got {self.samples_per_epoch}; "
                "raise it, or lower batch_size"
            )
        self.samples_per_epoch -= self.samples_per_epoch % (world * self.batch_size)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Patches of this rank, from where the run is."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self.bank = self.bank or VolumeBank(self.manifest, self.training, device, self.resident_gib)
        locator = PatchLocator(self.manifest, self.training, self.patch_vox, self.seed, self.policy)
        workers = self.num_workers
        end_workers_at_exit()
        if len(self.bank.resident) == len(self.training):
            workers = 0
            warnings.filterwarnings("ignore", "The 'train_dataloader' does not have many workers")  # there is nothing to read
        return ResumableLoader(
            PatchDataset(locator, self.bank.resident, "patch" if self.tumors == "real" else self.scope),
            self.batch_size,
            collate_fn=collate,
            sampler=OrdinalSampler(self, *rank_and_world(self.trainer)),
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=leave_signals,
            pin_memory=torch.cuda.is_available(),
            drop_last=True,
        )

    def teardown(self, stage: str) -> None:
        """Give the device's memory back."""
        self.bank = None

    def val_dataloader(self) -> DataLoader[Sample]:
        """Held-out scans, one at a time."""
        return self._whole_scans(self.manifest, self.held_out)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Scans of `test_dir`, those that are kept for the test, or the held-out ones."""
        if self.test_dir is None:
            return self._whole_scans(self.manifest, self.test or self.held_out)
        manifest = load_manifest(self.test_dir)
        if (theirs := manifest.settings["spacing_mm"]) != (ours := self.manifest.settings["spacing_mm"]):
            raise ValueError(
                f"test_dir must have data_dir's spacing of {ours} mm, got {theirs}; prepare it with --spacing_mm as data_dir was"
            )
        return self._whole_scans(manifest, manifest.cases)

    def _whole_scans(self, manifest: Manifest, cases: Sequence[Case]) -> DataLoader[Sample]:
        scans = HeldOutDataset(manifest, cases, self.val_margin_mm)
        sampler, workers = ScanSampler(scans, *rank_and_world(self.trainer)), min(1, self.num_workers)
        return DataLoader(scans, sampler=sampler, collate_fn=collate, num_workers=workers, worker_init_fn=leave_signals)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """CT files."""
        assert self.spacing_mm is not None
        places = [self.predict_images] if isinstance(self.predict_images, str) else self.predict_images
        return DataLoader(ScanDataset(find_scans(places), self.spacing_mm), collate_fn=collate)

    def on_before_batch_transfer(self, batch: Sample, dataloader_idx: int) -> Sample:
        """Count how far the run is."""
        if self.trainer is not None and self.trainer.training:
            self.samples_seen += len(batch["uid"]) * self.trainer.world_size
        return batch

    def on_after_batch_transfer(self, batch: Sample, dataloader_idx: int) -> Sample:
        """Synthesise, window and augment, on the device; hand the image over in the precision of the training."""
        trainer = self.trainer
        tests = trainer is not None and trainer.testing and bool(self.test_dir or self.test_cases)
        if trainer is not None and trainer.training:
            image, label, *soft = self._synthesised(batch)
            image, label, *soft = self.augmentation(window(image, self.window_hu), label, self.seed, batch["uid"], *soft)
            batch = {name: value for name, value in batch.items() if name != "whole"}  # what plans were made in has served
            batch |= {"label": label, **dict(zip(("occupancy",), soft, strict=False))}
        elif "label" in batch and not (tests or self.tumors == "real"):
            image = batch["image"].to(torch.float32)
            image, label = self.held_out_synthesizer(image, batch["label"], batch["spacing_mm"], batch["uid"])
            image, batch = window(image, self.window_hu), {**batch, "label": label}
        else:
            image = window(batch["image"].to(torch.float32), self.window_hu)
        return {**batch, "image": image if trainer is None else trainer.precision_plugin.convert_input(image)}

    def _synthesised(self, batch: Sample) -> tuple[Tensor, ...]:
        """Patches of HU with tumours, their labels, and soft labels where asked for."""
        assert self.bank is not None
        image, label = self.bank.patches(batch, self.patch_vox)
        if self.tumors == "real":
            return image, label
        if self.scope == "volume":
            return self.synthesis.of_wholes(image, label, batch["spacing_mm"], batch["uid"], self.bank.wholes(batch))
        return self.synthesis(image, label, batch["spacing_mm"], batch["uid"], batch["aimed"])

    def state_dict(self) -> dict[str, Any]:
        """Go into the checkpoint: how far the run is, and the synthesizer's state."""
        synthesizer = self.synthesis.synthesizer.get_extra_state()
        predict = {"spacing_mm": self.spacing_mm, "window_hu": self.window_hu}  # which `gpu-synth predict` takes from the checkpoint
        return {"samples_seen": self.samples_seen, "seed": self.seed, "synthesizer": synthesizer, "predict": predict}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come out of it; nothing of it matters to predict."""
        if self.trainer is not None and self.trainer.predicting:
            return
        self.samples_seen, self.seed = int(state_dict["samples_seen"]), int(state_dict["seed"])
        self.synthesis.synthesizer.set_extra_state(state_dict["synthesizer"])


def collate(samples: Sequence[Sample]) -> Sample:
    """Stack samples; what stays on the host stays as it is, and a name that some samples lack is stacked of the others."""
    every = dict.fromkeys(name for sample in samples for name in sample)
    tensors = {name: default_collate([sample[name] for sample in samples if name in sample]) for name in every if name not in HOST}
    return {**tensors, **{name: [sample[name] for sample in samples] for name in HOST if name in every}}

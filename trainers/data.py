"""Healthy scans from `gpu-synth prepare`, as patches with tumours; held-out scans with tumours that stay the same."""

from collections.abc import Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from gpu_synth import TumorSynthesizer
from gpu_synth.kernels.rng import Purpose, to_integer, to_uniform, words
from gpu_synth.manifest import Case, Manifest, load_manifest, read_patch
from gpu_synth.trainers.augment import Augmentation, window
from gpu_synth.trainers.sampling import ScanSampler, leave_signals, rank_and_world
from gpu_synth.trainers.scans import ScanDataset, find_scans
from gpu_synth.trainers.step import SynthesisStep

HELD_OUT_UID = 1 << 62  # held-out scans' uids begin here: no training run counts so far

# What a batch holds as a list, one a sample: a tensor would be moved, and rounded to bfloat16.
HOST = ("spacing_mm", "affine", "name", "path", "repeated")

Sample = dict[str, Any]


class PatchDataset(Dataset[Sample]):
    """Patches of healthy scans; which case and where is a function of the run's seed and the sample's uid.

    Args:
        manifest: Prepared data.
        cases: The cases to take patches of.
        patch_vox: Patch shape.
        seed: The run's seed.
        organ_share: Share of patches that lie around the organ; the others lie anywhere in the scan.
    """

    def __init__(self, manifest: Manifest, cases: Sequence[Case], patch_vox: Sequence[int], seed: int, organ_share: float = 1.0) -> None:
        self.manifest, self.cases, self.patch_vox, self.seed, self.organ_share = manifest, cases, patch_vox, seed, organ_share

    def __getitem__(self, uid: int) -> Sample:
        """Read the patch of a uid: `image` int16 HU and `label` uint8 `(1, i, j, k)`, `spacing_mm`, `uid`."""
        word = words(self.seed, torch.tensor([uid]), Purpose.PATCH, 1, 5)[0, 0]
        case = self.cases[int(to_integer(word[0], 0, len(self.cases) - 1))]
        first, end = case.organ_bbox_vox if to_uniform(word[4]) < self.organ_share else ((0, 0, 0), case.shape)
        start = []
        for axis, n in enumerate(self.patch_vox):  # within the box, or around it where the patch is larger
            ends = first[axis], end[axis] - n
            start.append(int(to_integer(word[1 + axis], min(ends), max(ends))))
        return _sample(self.manifest, case, start, self.patch_vox, uid)


class HeldOutDataset(Dataset[Sample]):
    """Whole scans, or whole organs with a margin, under uids that never change.

    Args:
        manifest: Prepared data.
        cases: The held-out cases.
        margin_mm: What is kept around the organ; None: the whole scan.
    """

    def __init__(self, manifest: Manifest, cases: Sequence[Case], margin_mm: float | None) -> None:
        self.manifest, self.cases, self.margin_mm = manifest, cases, margin_mm

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: int) -> Sample:
        """Read a case, as `PatchDataset` does; and whether it is `repeated`, see `ScanSampler`."""
        repeated, case = number >= len(self.cases), self.cases[number := number % len(self.cases)]
        start, end = [0, 0, 0], list(case.shape)
        if self.margin_mm is not None:
            margin = [round(self.margin_mm / spacing) for spacing in case.spacing_mm]
            start = [max(0, first - m) for first, m in zip(case.organ_bbox_vox[0], margin, strict=True)]
            end = [min(n, last + m) for last, m, n in zip(case.organ_bbox_vox[1], margin, case.shape, strict=True)]
        size = [b - a for a, b in zip(start, end, strict=True)]
        return {**_sample(self.manifest, case, start, size, HELD_OUT_UID + number), "repeated": repeated}


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


class ResumableLoader(DataLoader[Sample]):
    """A loader that Lightning knows to be resumable: its sampler goes on where the data module's own state says."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `SynthesisDataModule.state_dict`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""


class SynthesisDataModule(pl.LightningDataModule):
    """Feed a trainer with synthetic tumours in healthy scans, made on its device.

    Training patches are read as HU by workers; synthesis, window and augmentation follow on the device. Validation needs no annotated
    scan: held-out cases get tumours under fixed uids, the same in every epoch and run. A scan that has tumours already keeps them.
    Scans of `test_dir` are tested as they are.

    Args:
        data_dir: Folder that `gpu-synth prepare` wrote; `predict` needs none where the checkpoint tells the spacing.
        patch_vox: Patch shape.
        batch_size: Patches a step and process.
        samples_per_epoch: Patches an epoch, over all processes; what does not fill a step of all of them is left out.
        organ_share: Share of patches that lie around the organ; the others lie anywhere, so that a network learns what is no organ.
        val_cases: Names of the held-out cases; none: every fifth case, at least one.
        val_margin_mm: What validation and test see around the organ; null: whole scans.
        test_dir: Folder of annotated scans for `test`, prepared with `--tumor_labels`; none: the held-out cases.
        predict_images: A folder of CT files, files or patterns, for `predict`.
        spacing_mm: What `predict` resamples to; none: what the checkpoint or else `data_dir` was prepared with.
        num_workers: Processes that read patches.
        seed: Key of all randomness.
        preset: What the tumours are drawn from.
        prob: Probability that a training patch is altered.
        overrides: Fields of the preset and their new values.
        soft_labels: Train on the share of each voxel that is lesion, rather than on whether its centre is.
        window_hu: The window that becomes [0, 1].
        augmentation: What follows the window.

    Raises:
        ValueError: An argument does not fit the data.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        patch_vox: Sequence[int] = (96, 96, 96),
        batch_size: int = 2,
        samples_per_epoch: int = 500,
        organ_share: float = 0.75,
        val_cases: Sequence[str] = (),
        val_margin_mm: float | None = 16.0,
        test_dir: str | None = None,
        predict_images: str | Sequence[str] = (),
        spacing_mm: tuple[float, float, float] | None = None,
        num_workers: int = 2,
        seed: int = 0,
        preset: str = "liver",
        prob: float = 0.9,
        overrides: dict[str, Any] | None = None,
        soft_labels: bool = False,
        window_hu: tuple[float, float] = (-21.0, 189.0),
        augmentation: Augmentation = Augmentation(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.data_dir, self.test_dir, self.predict_images = data_dir, test_dir, predict_images
        self.patch_vox, self.batch_size, self.samples_per_epoch = tuple(patch_vox), batch_size, samples_per_epoch
        self.val_cases, self.val_margin_mm, self.num_workers, self.seed = tuple(val_cases), val_margin_mm, num_workers, seed
        self.window_hu, self.augmentation, self.organ_share = window_hu, augmentation, organ_share
        self.synthesis = SynthesisStep(TumorSynthesizer(preset, prob, seed, **(overrides or {})), soft_labels)
        self.held_out_synthesizer = TumorSynthesizer(preset, prob=1.0, seed=0, scope="volume", **(overrides or {}))
        self.samples_seen, self.spacing_mm = 0, spacing_mm if spacing_mm is None else tuple(spacing_mm)

    def setup(self, stage: str) -> None:
        """Read the manifest; split the cases."""
        if stage == "predict" and self.spacing_mm is not None:
            return
        if self.data_dir is None:
            spacing = " or --data.spacing_mm" if stage == "predict" else ""
            raise ValueError(f"data_dir must be a folder that gpu-synth prepare wrote, got None; give --data.data_dir{spacing}")
        self.manifest = load_manifest(self.data_dir)
        self.spacing_mm = tuple(self.manifest.settings["spacing_mm"])
        cases = self.manifest.cases
        held_out = [self.manifest.case(name) for name in self.val_cases] or list(cases[4::5] or cases[-1:])
        self.held_out = held_out
        self.training = [case for case in cases if case not in held_out]
        if not self.training:
            raise ValueError(f"data_dir must hold a case that is not held out, got {[case.name for case in cases]}; prepare more scans")
        world = self.trainer.world_size if self.trainer else 1
        if self.samples_per_epoch < world * self.batch_size:
            raise ValueError(
                f"samples_per_epoch must be at least batch_size {self.batch_size} × {world} process(es), got {self.samples_per_epoch}; "
                "raise it, or lower batch_size"
            )
        self.samples_per_epoch -= self.samples_per_epoch % (world * self.batch_size)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Patches of this rank, from where the run is."""
        dataset = PatchDataset(self.manifest, self.training, self.patch_vox, self.seed, self.organ_share)
        return ResumableLoader(
            dataset,
            self.batch_size,
            collate_fn=collate,
            sampler=OrdinalSampler(self, *rank_and_world(self.trainer)),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=leave_signals,
            pin_memory=torch.cuda.is_available(),
            drop_last=True,
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Held-out scans, one at a time."""
        return self._whole_scans(self.manifest, self.held_out)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Scans of `test_dir`, or the held-out ones."""
        if self.test_dir is None:
            return self.val_dataloader()
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
        trainer, image = self.trainer, batch["image"].to(torch.float32)
        annotated = trainer is not None and trainer.testing and self.test_dir is not None
        if trainer is not None and trainer.training:
            image, label, *soft = self.synthesis(image, batch["label"], batch["spacing_mm"], batch["uid"])
            image, label, *soft = self.augmentation(window(image, self.window_hu), label, self.seed, batch["uid"], *soft)
            batch = {**batch, "label": label, **dict(zip(("occupancy",), soft, strict=False))}
        elif "label" in batch and not annotated:
            image, label = self.held_out_synthesizer(image, batch["label"], batch["spacing_mm"], batch["uid"])
            image, batch = window(image, self.window_hu), {**batch, "label": label}
        else:
            image = window(image, self.window_hu)
        return {**batch, "image": image if trainer is None else trainer.precision_plugin.convert_input(image)}

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
    """Stack samples; what stays on the host stays as it is."""
    tensors = default_collate([{name: value for name, value in sample.items() if name not in HOST} for sample in samples])
    return {**tensors, **{name: [sample[name] for sample in samples] for name in HOST if name in samples[0]}}


def _sample(manifest: Manifest, case: Case, start_vox: Sequence[int], size_vox: Sequence[int], uid: int) -> Sample:
    """Read a box of a case."""
    image, label = read_patch(manifest, case, start_vox, size_vox)
    return {
        "image": image,
        "label": label,
        "spacing_mm": case.spacing_mm,
        "uid": torch.tensor(uid, dtype=torch.int64),
    }

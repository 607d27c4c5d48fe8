"""nnU-Net v2 trainers that put synthetic tumours into every training batch, on the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from gpu_synth import TumorSynthesizer
from gpu_synth.files import whole_file
from gpu_synth.trainers.intensity import HU, HUCheck, Intensity, ZScore, back
from gpu_synth.trainers.nnunet_options import MARK, mark, synthesizer

try:
    from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform, blur_dimension
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
    from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
    from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA
except ModuleNotFoundError as error:
    raise ImportError(f"nnU-Net must be installed, got {error}; pip install 'gpu-synth[nnunet]'") from error

CUDA = torch.device("cuda")
STATE = "tumor_synth"  # what the synthesizer goes on from, in nnU-Net's checkpoints


class nnUNetTrainerTumorSynth(nnUNetTrainer):  # type: ignore[misc] # nnU-Net is not typed
    """nnU-Net's own training, with tumours synthesised after spatial augmentation and before all else.

    The workers load, rotate, scale and mirror, as ever. On the device the normalisation is undone, tumours are synthesised in HU, the
    normalisation is done again, and then come nnU-Net's changes of intensity and its targets: regions, deep supervision. Validation is
    left alone. Put before another trainer it does the same there: `class Mine(nnUNetTrainerTumorSynth, nnUNetTrainerDA5)`.

    What is drawn is a function of the synthesizer's seed and of the sample's ordinal in the whole run, which checkpoints keep.

    Attributes:
        synthesis: Arguments of `TumorSynthesizer`, such as `{"preset": "liver", "prob": 0.9, "organ_label": 1, "tumor_label": 2}`. The
            environment variable `nnUNet_tumorSynth`, a YAML mapping, is laid over them.
    """

    synthesis: dict[str, Any] = {}  # noqa: RUF012 # class attributes are how nnU-Net's trainers are configured

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = CUDA,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self._check()
        spacing_mm = [float(mm) for mm in self.configuration_manager.spacing]  # follows the transposed axes
        self.spacing_mm = (spacing_mm[0], spacing_mm[1], spacing_mm[2])
        # nnU-Net reads (z, y, x) and transposes; z is what its axis 0 was
        self.synthesizer: TumorSynthesizer = synthesizer(self.synthesis, list(self.plans_manager.transpose_forward).index(0))
        self._check_labels()
        self.intensity, self.look = self._intensity(), HUCheck()
        self.next_uid = 0  # of all processes together
        self.after_synthesis: BasicTransform = ComposeTransforms([])

    def _check(self) -> None:
        """Refuse plans that tumours cannot be synthesised for."""
        configuration, name = self.configuration_manager, self.configuration_name
        if len(configuration.patch_size) != 3:
            raise ValueError(
                f"configuration must be three-dimensional, got {name!r} with patches {configuration.patch_size}; 3d_fullres is"
            )
        if self.is_cascaded:
            raise ValueError(
                f"configuration must not build on an earlier stage, got {name!r}: that stage knows nothing of tumours; use 3d_fullres"
            )
        if len(configuration.normalization_schemes) != 1 or any(configuration.use_mask_for_norm):
            channels = self.dataset_json.get("channel_names")
            raise ValueError(f'channel_names must be one CT, got {channels}; write "channel_names": {{"0": "CT"}} in dataset.json')

    def _check_labels(self) -> None:
        """Refuse a data set that does not declare what is synthesised."""
        labels = self.dataset_json["labels"]
        for name in ("organ_label", "tumor_label"):
            if (number := getattr(self.synthesizer, name)) not in self.label_manager.all_labels:
                raise ValueError(
                    f"{name} must be a label that dataset.json declares, got {number} and labels {labels}; declare it, though no voxel has "
                    f"it, plan and preprocess again, or name one that is: nnUNet_tumorSynth='{{{name}: N}}'"
                )

    def _intensity(self) -> Intensity:
        """The way from nnU-Net's normalised images to HU."""
        scheme = self.configuration_manager.normalization_schemes[0]
        if scheme == "NoNormalization":
            return HU()
        if scheme != "CTNormalization":
            mend = 'it cannot be undone; name channel "0" "CT" in dataset.json'
            raise ValueError(f"normalization_schemes must be CTNormalization, got {scheme!r}: {mend}")
        found = self.plans_manager.foreground_intensity_properties_per_channel["0"]
        low_hu, high_hu = found["percentile_00_5"], found["percentile_99_5"]
        if (measured := found.get(MARK)) != mark(self.synthesizer):
            others = "without synthetic tumours" if measured is None else f"with those of {measured!r}, not {mark(self.synthesizer)!r}"
            self.print_to_log_file(
                f"WARNING: the plans clip to {low_hu:.0f} to {high_hu:.0f} HU, which was measured {others}: darker and brighter lesions "
                "are cut off. Run gpu-synth nnunet-fingerprint with this nnUNet_tumorSynth, then plan and preprocess again."
            )
        return ZScore(found["mean"], max(found["std"], 1e-8), (low_hu, high_hu))

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """Leave to the workers what comes before synthesis, and keep the rest for `train_step`."""
        workers, device = split(super().get_training_transforms(*args, **kwargs), self.device)
        self.after_synthesis = device
        return workers

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Synthesise, augment, build the targets; then nnU-Net's step."""
        return super().train_step(self.synthesized(batch))  # type: ignore[no-any-return]

    @torch.no_grad()
    def synthesized(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Put tumours into a batch as the workers left it: normalised image and label, `(b, 1, …)`; the targets become nnU-Net's."""
        image = batch["data"].to(self.device, non_blocking=True)
        label = batch["target"].to(self.device, non_blocking=True)
        uid = self.next_uids(len(image))
        image_hu = self.intensity.to_hu(image)
        exact = replace(self.intensity, clip_hu=None) if isinstance(self.intensity, ZScore) else self.intensity  # resampling overshoots
        if self.look(exact, image, image_hu, label, self.synthesizer.organ_label):
            new_hu, label = self.synthesizer(image_hu, label, self.spacing_mm, uid.to(self.device, non_blocking=True))
            image = back(self.intensity, image, image_hu, new_hu)
        samples = []
        for one, target, number in zip(image, label, uid.tolist(), strict=True):
            with drawn_from(self.synthesizer.seed, number, self.device):
                samples.append(self.after_synthesis(image=one, segmentation=target))
        targets = [sample["segmentation"] for sample in samples]
        scales = isinstance(targets[0], list)
        stacked = [torch.stack(scale) for scale in zip(*targets, strict=True)] if scales else torch.stack(targets)
        return {**batch, "data": torch.stack([sample["image"] for sample in samples]), "target": stacked}

    def next_uids(self, count: int) -> Tensor:
        """Count on: this process's share of the next ordinals, `(count,)`; processes may have batches of different sizes."""
        counts = [count]
        if self.is_ddp:  # nnU-Net deals the planned batch out: the first processes may get one sample more
            each, more = divmod(self.configuration_manager.batch_size, dist.get_world_size())
            counts = [each + (rank < more) for rank in range(dist.get_world_size())]
        first = self.next_uid + sum(counts[: self.local_rank])
        self.next_uid += sum(counts)
        return torch.arange(first, first + count)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Tell what was made so far, once an epoch: reading it waits for the device."""
        super().on_train_epoch_end(train_outputs)
        made, left = self.synthesizer.lesions, self.synthesizer.skipped
        self.print_to_log_file(f"synthetic lesions since the start: {made}; samples without a place for one, or with a tumour: {left}")

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint with the synthesizer's state in it, as a whole or not at all."""
        stream = BytesIO()
        super().save_checkpoint(stream)
        if not stream.tell():  # another process writes, or none
            return
        stream.seek(0)
        checkpoint = torch.load(stream, map_location="cpu", weights_only=False)
        checkpoint[STATE] = {**self.synthesizer.get_extra_state(), "counter": self.next_uid}
        with whole_file(filename) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Go on where the checkpoint was written; one of another trainer has no samples behind it."""
        super().load_checkpoint(filename_or_checkpoint)
        checkpoint = filename_or_checkpoint
        if not isinstance(checkpoint, dict):
            checkpoint = torch.load(checkpoint, map_location="cpu", weights_only=False)
        if (state := checkpoint.get(STATE)) is not None:
            self.synthesizer.set_extra_state(state)
            self.next_uid = int(state["counter"])


class nnUNetTrainerTumorSynthNoDA(nnUNetTrainerTumorSynth, nnUNetTrainerNoDA):  # type: ignore[misc]
    """Synthetic tumours, and no other augmentation: patches as nnU-Net's `nnUNetTrainerNoDA` takes them."""


def split(transforms: Any, device: torch.device) -> tuple[BasicTransform, BasicTransform]:
    """Part a training's transforms into those that come before synthesis and those that come after it, on the device.

    What changes intensities alone comes after, and what makes targets of a label; all else before: it moves voxels.
    """
    before: list[BasicTransform] = []
    after: list[BasicTransform] = []
    for transform in transforms.transforms:
        later = _changes_intensity(transform) or isinstance(transform, (ConvertSegmentationToRegionsTransform, DownsampleSegForDSTransform))
        (after if later else before).append(transform)
    for transform in after:
        _bring(transform, device)
    return ComposeTransforms(before), ComposeTransforms(after)


def _parts(transform: Any) -> list[Any]:
    """What a transform chooses from, or applies at times; itself where it does neither."""
    inner = [transform.transform] if isinstance(transform, RandomTransform) else []
    inner = transform.list_of_transforms if isinstance(transform, OneOfTransform) else inner
    inner = transform.transforms if isinstance(transform, ComposeTransforms) else inner
    return [part for one in inner for part in _parts(one)] or [transform]


def _changes_intensity(transform: Any) -> bool:
    return all(isinstance(part, ImageOnlyTransform) for part in _parts(transform))


def _bring(transform: Any, device: torch.device) -> None:
    """Let a transform work on the device: two of nnU-Net's make tensors where torch's default is."""
    for part in _parts(transform):
        if isinstance(part, GaussianBlurTransform):
            part.benchmark, part._benchmark_wrapper = True, blur  # in place of a choice by speed, timed on a CPU
        elif isinstance(part, ConvertSegmentationToRegionsTransform):
            part.regions = [region.to(device) for region in part.regions]


def blur(image: Tensor, sigma: float, axis: int) -> Tensor:
    """Blur an image `(c, …)` along an axis with nnU-Net's kernel, made on the image's device."""
    with image.device:
        return blur_dimension(image, sigma, axis)  # type: ignore[no-any-return]


@contextmanager
def drawn_from(seed: int, uid: int, device: torch.device) -> Iterator[None]:
    """Let the global generators of torch and NumPy start from a sample's ordinal, and be as they were afterwards.

    nnU-Net's transforms draw from no others, and unseeded processes of torch all draw the same.
    """
    first, second = np.random.SeedSequence([seed % 2**64, uid % 2**64]).generate_state(2, np.uint32).tolist()
    state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(first)
        np.random.seed(second)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002

"""Tumours in MONAI: sample by sample in a `Compose`, or batch by batch on the device in a `SupervisedTrainer`."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from monai.data import get_track_meta
from monai.engines.utils import PrepareBatch, default_prepare_batch
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor
from torch.utils.data import get_worker_info

from gpu_synth import TumorSynthesizer
from gpu_synth.trainers.intensity import HU, Intensity
from gpu_synth.trainers.places import affine_spacing, host_spacing, process_rank
from gpu_synth.trainers.step import IntensityStep


class RandTumord(MapTransform, RandomizableTransform):  # type: ignore[misc] # MONAI is not typed
    """Put tumours into one sample, on the CPU, in the process that reads it: after its spacing is set, before its intensity is scaled.

    Which tumours is a function of the transform's random state, of the worker's seed, which differs from worker to worker and from epoch
    to epoch, and of the training process; `set_random_state` and a seeded loader repeat them. What MONAI knows of the arrays stays with
    them.

    Args:
        keys: Image and label, `(1, i, j, k)` each, in this order.
        synthesizer: What to synthesise with; its own `prob` is the probability that a sample is altered.
        spacing_mm: Spacing of all samples; None: as the image's affine says.
        intensity: What the image holds, if not HU: `Window`, `ZScore` or `Inverse` of `gpu_synth.trainers.intensity`.

    Raises:
        ValueError: There are not two keys.
    """

    def __init__(
        self,
        keys: Sequence[Hashable],
        synthesizer: TumorSynthesizer,
        spacing_mm: Sequence[float] | None = None,
        intensity: Intensity = HU(),  # noqa: B008 (frozen)
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        if len(self.keys) != 2:
            raise ValueError(f"keys must be those of image and label, got {keys!r}; such as ('image', 'label')")
        self.step, self.spacing_mm = IntensityStep(synthesizer, intensity=intensity), spacing_mm

    def randomize(self, data: Any = None) -> None:
        """Draw the sample's uid."""
        worker = get_worker_info()  # whose seed tells workers apart where a plain DataLoader gave all of them one random state
        drawn = [int(self.R.randint(2**32, dtype=np.uint64)) for _ in range(2)]
        words = np.random.SeedSequence([*drawn, worker.seed if worker else 0, process_rank()]).generate_state(1, np.uint64)
        self.uid = int(words[0] >> np.uint64(2))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Alter a sample; the arrays given stay as they are.

        Raises:
            KeyError: An array is missing.
            ValueError: Its shape is not `(1, i, j, k)`, or there is no spacing.
        """
        sample = dict(data)
        image_key, label_key = self.keys
        if missing := [key for key in self.keys if key not in sample]:
            raise KeyError(f"data must hold {missing[0]!r}, got {list(sample)}; name image and label with keys")
        self.randomize()
        image, label = (convert_to_tensor(sample[key], track_meta=get_track_meta()) for key in self.keys)
        for key, array in zip(self.keys, (image, label), strict=True):
            if array.ndim != 4 or array.shape[0] != 1:
                mend = "EnsureChannelFirstd belongs before this, one-hot labels after it"
                raise ValueError(f"data[{key!r}] must be (1, i, j, k), got {tuple(array.shape)}; {mend}")
        spacing_mm = self.spacing_mm if self.spacing_mm is not None else affine_spacing(sample[image_key])
        if spacing_mm is None:
            got = type(sample[image_key]).__name__
            raise ValueError(
                f"data[{image_key!r}] must have an affine, as a MetaTensor has, got a {got}; or give spacing_mm, such as (1, 1, 2)"
            )
        new_image, new_label = self.step(image[None], label[None], spacing_mm, torch.tensor([self.uid]))
        sample[image_key] = convert_to_dst_type(new_image[0], image)[0]
        sample[label_key] = convert_to_dst_type(new_label[0], label)[0]
        return sample


class TumorPrepareBatch(PrepareBatch):  # type: ignore[misc]
    """Put tumours into a batch that has just come to the device, for the trainer's `prepare_batch`; leave the evaluator its own.

    The sample counter is the synthesizer's: name it in the `save_dict` of the engine's `CheckpointSaver`, beside the network.

    Args:
        synthesizer: What to synthesise with.
        spacing_mm: Spacing of all samples; None: as the batch says under `spacing_key`, or the image's affine.
        intensity: What the images hold, if not HU: `Window`, `ZScore` or `Inverse` of `gpu_synth.trainers.intensity`.
        prepare_batch: What moves the batch to the device and finds image and label in it.
        image_key: Where the batch holds the image, to ask it for its spacing.
        spacing_key: Where it holds the spacing.

    Raises:
        ImportError: MONAI's engines lack pytorch-ignite.
    """

    def __init__(
        self,
        synthesizer: TumorSynthesizer,
        spacing_mm: Sequence[float] | None = None,
        intensity: Intensity = HU(),  # noqa: B008 (frozen)
        prepare_batch: Callable[..., Any] = default_prepare_batch,
        image_key: str = "image",
        spacing_key: str = "spacing_mm",
    ) -> None:
        if find_spec("ignite") is None:
            raise ImportError("pytorch-ignite must be installed for MONAI's engines, got none; pip install 'gpu-synth[monai]'")
        self.step, self.spacing_mm, self.prepare_batch = IntensityStep(synthesizer, intensity=intensity), spacing_mm, prepare_batch
        self.image_key, self.spacing_key = image_key, spacing_key

    def __call__(self, batchdata: Any, device: Any = None, non_blocking: bool = False, **kwargs: Any) -> tuple[Any, ...]:
        """Move, then synthesise; the spacing is read before, on the host.

        Raises:
            ValueError: There is no label, or no spacing.
        """
        image_key = self.image_key if isinstance(batchdata, dict) else 0
        spacing_mm = self.spacing_mm if self.spacing_mm is not None else host_spacing(batchdata, image_key, self.spacing_key)
        image, label, *rest = self.prepare_batch(batchdata, device, non_blocking, **kwargs)
        if not isinstance(label, Tensor):
            raise ValueError(f"batch must hold image and label, got label {label!r}; give a prepare_batch that finds them")
        if spacing_mm is None:
            raise ValueError(f"batch must hold {self.spacing_key!r} or MetaTensors, got neither; give spacing_mm")
        new_image, new_label = self.step(image, label, spacing_mm)
        return convert_to_dst_type(new_image, image)[0], convert_to_dst_type(new_label, label)[0], *rest

"""Tumours in TorchIO: a transform of subjects, on the CPU, in the process that reads them."""

from copy import copy
from typing import Any

import torch

from gpu_synth import TumorSynthesizer
from gpu_synth.trainers.intensity import HU, Intensity
from gpu_synth.trainers.places import process_rank
from gpu_synth.trainers.step import IntensityStep

try:
    from torchio import Image, LabelMap, ScalarImage, Subject
    from torchio.transforms import Transform
    from torchio.transforms.augmentation import RandomTransform
except ImportError as error:
    raise ImportError(f"TorchIO must be installed, got {error}; pip install 'gpu-synth[torchio]'") from error


class Tumor(Transform):
    """Put the tumours of one uid into a subject: what `RandomTumor` leaves in a subject's history.

    Args:
        synthesizer: What to synthesise with; its own `prob` is the probability that a uid gets tumours.
        uid: Which tumours.
        image: Name of the CT; None: the subject's one `ScalarImage`.
        label: Name of the organ's mask; None: the subject's one `LabelMap`.
        intensity: What the CT holds, if not HU: `Window`, `ZScore` or `Inverse` of `gpu_synth.trainers.intensity`.
        **kwargs: Those of TorchIO's `Transform`, such as `p`.
    """

    def __init__(
        self,
        synthesizer: TumorSynthesizer,
        uid: int,
        image: str | None = None,
        label: str | None = None,
        intensity: Intensity = HU(),  # noqa: B008 (frozen)
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.step = IntensityStep(synthesizer, intensity=intensity)
        self.synthesizer, self.uid, self.image, self.label, self.intensity = synthesizer, uid, image, label, intensity
        self.args_names = ["synthesizer", "uid", "image", "label", "intensity"]

    def apply_transform(self, subject: Subject) -> Subject:
        """Alter the subject's CT and mask.

        Raises:
            ValueError: The subject does not hold them, or they are not `(1, i, j, k)`.
        """
        image = _of(subject, "image", self.image, ScalarImage)
        label = _of(subject, "label", self.label, LabelMap)
        new_image, new_label = self.step(image.data[None], label.data[None], image.spacing, torch.tensor([self.uid]))
        image.set_data(new_image[0])
        label.set_data(new_label[0])
        return subject


class RandomTumor(RandomTransform):
    """Put tumours into a subject, before its intensity is scaled; which ones, torch's generator says, as in all of TorchIO.

    Args:
        synthesizer: What to synthesise with; its own `prob` is the probability that a subject is altered.
        image: Name of the CT; None: the subject's one `ScalarImage`.
        label: Name of the organ's mask; None: the subject's one `LabelMap`.
        intensity: What the CT holds, if not HU: `Window`, `ZScore` or `Inverse` of `gpu_synth.trainers.intensity`.
        **kwargs: Those of TorchIO's `Transform`, such as `p`.
    """

    def __init__(
        self,
        synthesizer: TumorSynthesizer,
        image: str | None = None,
        label: str | None = None,
        intensity: Intensity = HU(),  # noqa: B008 (frozen)
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.tumor = Tumor(synthesizer, 0, image, label, intensity, **self._get_base_args())

    def apply_transform(self, subject: Subject) -> Subject:
        """Draw a uid, and alter the subject with it; errors are those of `Tumor`."""
        tumor = copy(self.tumor)  # a shallow one: the first subject alone is looked at, see HUCheck
        tumor.uid = int(torch.randint(2**62, ())) ^ process_rank() << 40  # a launcher seeds the processes of a training alike
        altered: Subject = tumor(subject)
        return altered


def _of(subject: Subject, what: str, name: str | None, kind: type[Image]) -> Image:
    """Find an image by name, or the only one of its kind."""
    found = {key: value for key, value in subject.items() if isinstance(value, Image if name else kind) and name in (None, key)}
    if len(found) != 1:
        held = ", ".join(f"{key!r} ({type(value).__name__})" for key, value in subject.items() if isinstance(value, Image))
        wanted = f"an image {name!r}" if name else f"one {kind.__name__}"
        raise ValueError(f"subject must hold {wanted}, got {held or 'no image'}; name it: {what}=...")
    (image,) = found.values()
    return image

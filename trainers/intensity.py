"""The way from what a batch holds to HU, and back: synthesis sees HU, whatever a trainer feeds its network.

`HU`, `Window`, `ZScore` and `Inverse` are plain, picklable, and may stand in YAML:
`{_target_: gpu_synth.trainers.intensity.Window, low_hu: -21, high_hu: 189}`.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import get_worker_info

ORGAN_HU = (-1050.0, 600.0)  # no soft tissue, nor lung, has a mean outside it; raw values with an offset of 1024 have
SCALED = 10.0  # no CT of a body stays within ± this; windowed and z-scored images do
LOST_SHARE = 0.02  # of voxels that may change on the way to HU and back: a little clipping is nobody's mistake
LOOKS = 16  # batches at most, until one holds organ: on a GPU each look waits for the device
LOOKED_AT = 96  # voxels along an axis at most, evenly spread: enough to tell what a scan holds


class Intensity(Protocol):
    """A way to HU and back."""

    def to_hu(self, image: Tensor, /) -> Tensor:
        """Bring what a batch holds to HU."""
        ...

    def from_hu(self, image_hu: Tensor, /) -> Tensor:
        """Bring HU to what the batch held."""
        ...


@dataclass(frozen=True)
class HU:
    """The batch holds HU."""

    def to_hu(self, image: Tensor, /) -> Tensor:
        """Return the image."""
        return image

    def from_hu(self, image_hu: Tensor, /) -> Tensor:
        """Return the image."""
        return image_hu


@dataclass(frozen=True)
class Window:
    """The batch holds a window of HU, mapped to [0, 1] and clipped. What the window clipped stays clipped.

    Attributes:
        low_hu: What became 0.
        high_hu: What became 1.

    Raises:
        ValueError: They are not in order.
    """

    low_hu: float
    high_hu: float

    def __post_init__(self) -> None:
        if not self.low_hu < self.high_hu:
            raise ValueError(f"low_hu must be under high_hu, got {self.low_hu} and {self.high_hu}; swap them")

    def to_hu(self, image: Tensor, /) -> Tensor:
        """Undo the window."""
        return image * (self.high_hu - self.low_hu) + self.low_hu

    def from_hu(self, image_hu: Tensor, /) -> Tensor:
        """Do it again, clipping included."""
        return ((image_hu - self.low_hu) / (self.high_hu - self.low_hu)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class ZScore:
    """The batch holds `(HU − mean) / standard deviation`, of HU that may have been clipped first; or any other linear scaling of HU.

    Attributes:
        mean_hu: What was taken off: the HU that became 0.
        std_hu: What the rest was divided by: the HU in one unit. A window from low to high mapped to [-1, 1] has half its width.
        clip_hu: Lowest and highest HU that were let through, as nnU-Net's CTNormalization does; None: all were.

    Raises:
        ValueError: The standard deviation is not above 0, or the clips are not in order.
    """

    mean_hu: float
    std_hu: float
    clip_hu: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.std_hu > 0.0:
            raise ValueError(f"std_hu must be above 0, got {self.std_hu}")
        if self.clip_hu is not None and not self.clip_hu[0] < self.clip_hu[1]:
            raise ValueError(f"clip_hu must be (low, high) with low < high, got {self.clip_hu}; swap them, or give None")

    def to_hu(self, image: Tensor, /) -> Tensor:
        """Undo the normalisation."""
        return image * self.std_hu + self.mean_hu

    def from_hu(self, image_hu: Tensor, /) -> Tensor:
        """Do it again, clipping included."""
        clipped = image_hu if self.clip_hu is None else image_hu.clamp(*self.clip_hu)
        return (clipped - self.mean_hu) / self.std_hu


@dataclass(frozen=True)
class Inverse:
    """The batch holds what functions of your own made of HU; functions of a module, not lambdas, go to worker processes.

    Attributes:
        to_hu: Brings an image to HU, each voxel by itself.
        from_hu: Brings HU to what the batch held.
    """

    to_hu: Callable[[Tensor], Tensor]
    from_hu: Callable[[Tensor], Tensor]


def back(intensity: Intensity, image: Tensor, image_hu: Tensor, new_image_hu: Tensor) -> Tensor:
    """Bring altered HU to what the batch held, in its dtype; voxels that synthesis left alone keep their bits.

    Args:
        intensity: The way back.
        image: What the batch held.
        image_hu: The same in HU.
        new_image_hu: What synthesis made of it.
    """
    new_image = intensity.from_hu(new_image_hu)
    if not image.is_floating_point():
        limits = torch.iinfo(image.dtype)
        new_image = new_image.round().clamp(limits.min, limits.max)
    return torch.where(new_image_hu == image_hu, image, new_image.to(image.dtype))


class HUCheck:
    """Look at batches until one holds organ, and say so once if what should be HU does not look like it: such data are left as they are.

    On a GPU a look waits for the device, and no later step does. In a DataLoader the first worker speaks, and decides for all; until it
    has, each of the others judges its own samples.
    """

    def __init__(self) -> None:
        self._looks = torch.tensor(LOOKS)
        self._fit = torch.tensor(True)
        for shared in (self._looks, self._fit):
            shared.share_memory_()  # type: ignore[no-untyped-call] # workers are made anew in each epoch, from what is here

    def __call__(self, intensity: Intensity, image: Tensor, image_hu: Tensor, label: Tensor, organ_label: int) -> bool:
        """Tell whether the batch may be synthesised into.

        Args:
            intensity: How it came to HU.
            image: What the batch held, `(b, 1, i, j, k)`.
            image_hu: The same in HU, as `intensity` says.
            label: Its labels.
            organ_label: Number of the organ.
        """
        if self._looks == 0:
            return bool(self._fit)
        i, j, k = (-(-n // LOOKED_AT) for n in image.shape[-3:])
        image, image_hu, label = (x[..., ::i, ::j, ::k] for x in (image, image_hu, label))
        organ, worker = label == organ_label, get_worker_info()
        found = bool(organ.any())
        trouble = unlike_hu(intensity, image, image_hu, organ) if found else None
        if worker is None or worker.id == 0:
            self._fit.fill_(trouble is None)
            self._looks.fill_(0 if found else int(self._looks) - 1)
            if trouble is None and not found and self._looks == 0:
                values = ", ".join(f"{value:g}" for value in torch.unique(label)[:10].tolist())
                warnings.warn(
                    f"label must hold the organ, got no value {organ_label} in the first {LOOKS} batches, in the last one {values}; "
                    "name the organ's: TumorSynthesizer(organ_label=...)",
                    stacklevel=3,
                )
            elif trouble is not None:
                warnings.warn(f"{trouble}. Until then nothing is synthesised", stacklevel=3)
        return trouble is None


def unlike_hu(
    intensity: Intensity, image: Float[Tensor, "*b i j k"], image_hu: Float[Tensor, "*b i j k"], organ: Bool[Tensor, "*b i j k"]
) -> str | None:
    """Tell what speaks against an image's being HU, and what to do; None where nothing does. Reads the device.

    Args:
        intensity: How it came to HU.
        image: What the batch held.
        image_hu: The same in HU, as `intensity` says.
        organ: Where the organ is.
    """
    finite = image_hu.isfinite()
    if not finite.any():
        return None
    hu = image_hu[finite].to(torch.float32)
    low, high, name = float(hu.min()), float(hu.max()), type(intensity).__name__
    held = f"intensity must lead to HU, got {name} and values from {low:.4g} to {high:.4g} HU"
    if low >= -SCALED and high <= SCALED:
        return f"{held}, as of a scaled image; name its way back: intensity=Window(low_hu, high_hu), ZScore(mean_hu, std_hu) or Inverse"
    if (low, high) == (0.0, 255.0):
        return f"{held}, as of an 8-bit picture; name its way back: intensity=Inverse(to_hu, from_hu), or load the CT itself"
    inside = image_hu[organ & finite].to(torch.float32)
    mean = float(inside.mean()) if len(inside) else 0.0
    if not ORGAN_HU[0] <= mean <= ORGAN_HU[1]:
        return (
            f"{held}, {mean:.0f} on average in the organ; add the scan's rescale intercept, or mend intensity: HU() if the batch is in HU"
        )
    again = intensity.from_hu(image_hu).to(torch.float32)  # of a batch that no clip has cut, much would be cut here
    lost = (again - image).abs()[finite] > 0.01 * (image[finite].max() - image[finite].min())
    if (share := float(lost.float().mean())) > LOST_SHARE:
        mend = "two ways that undo each other"
        if isinstance(intensity, Window):
            mend = f"ZScore({intensity.low_hu:g}, {intensity.high_hu - intensity.low_hu:g}) if nothing clipped the batch, or {mend}"
        return f"{held}, but the way back changes {100 * share:.0f} % of the voxels; give {mend}"
    return None

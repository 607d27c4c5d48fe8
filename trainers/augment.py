"""What a patch goes through after synthesis, on the device: window, flips, quarter turns, intensity scale and shift.

Every draw is a function of the run's seed and the sample's uid, so a resumed run augments as the first would have.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.checks import check_prob
from gpu_synth.kernels.rng import Purpose, to_integer, to_uniform, words

Window = tuple[float, float]


def window(image_hu: Float[Tensor, "b 1 i j k"], window_hu: Window) -> Float[Tensor, "b 1 i j k"]:
    """Map a window of HU to [0, 1] and clip; NaN becomes 0, so that no loss sees it.

    Args:
        image_hu: CT.
        window_hu: What becomes 0 and what becomes 1.
    """
    low, high = window_hu
    return ((image_hu - low) / (high - low)).clamp(0.0, 1.0).nan_to_num(0.0)


@dataclass(frozen=True)
class Augmentation:
    """Random flips, quarter turns, scale and shift of intensity.

    Attributes:
        flip_prob: Probability of a flip, for each axis.
        turn_prob: Probability of one to three quarter turns in the axial plane, where that is square.
        scale_prob: Probability that the intensity is scaled.
        scale: Most that it is scaled by, up or down.
        shift_prob: Probability that it is shifted.
        shift: Most that it is shifted by.

    Source: Hu et al. 2022; facts on training: p = 0.2 each, scale and shift ±0.1 with p = 0.15.
    """

    flip_prob: float = 0.2
    turn_prob: float = 0.2
    scale_prob: float = 0.15
    scale: float = 0.1
    shift_prob: float = 0.15
    shift: float = 0.1

    def __post_init__(self) -> None:
        for name in ("flip_prob", "turn_prob", "scale_prob", "shift_prob"):
            check_prob(name, getattr(self, name))

    def __call__(
        self, image: Float[Tensor, "b 1 i j k"], label: Int[Tensor, "b 1 i j k"], seed: int, uid: Int[Tensor, " b"], *maps: Tensor
    ) -> tuple[Tensor, ...]:
        """Augment a batch; nothing is read back to the host.

        Args:
            image: Patches, windowed.
            label: Their labels.
            seed: The run's seed.
            uid: The samples' ordinals in the run.
            *maps: What else is flipped and turned with the image, `(b, 1, i, j, k)`.

        Returns:
            Image, label and maps.
        """
        moved = (image, label, *maps)
        word = words(seed, uid, Purpose.AUGMENT, 1, 9)[:, 0]
        chance = to_uniform(word)
        for axis in range(3):
            chosen = _each(chance[:, axis] < self.flip_prob)
            moved = tuple(torch.where(chosen, x.flip(2 + axis), x) for x in moved)
        if image.shape[2] == image.shape[3]:
            turns = torch.where(chance[:, 3] < self.turn_prob, to_integer(word[:, 4], 1, 3), 0)
            moved = tuple(_turn(x, turns) for x in moved)
        scale = 1.0 + torch.where(chance[:, 5] < self.scale_prob, to_uniform(word[:, 6], -self.scale, self.scale), 0.0)
        shift = torch.where(chance[:, 7] < self.shift_prob, to_uniform(word[:, 8], -self.shift, self.shift), 0.0)
        return moved[0] * _each(scale).to(image.dtype) + _each(shift).to(image.dtype), *moved[1:]


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each sample by its number of quarter turns in the plane of the first two spatial axes."""
    x = torch.where(_each(turns % 2 == 1), x.rot90(1, (2, 3)), x)
    return torch.where(_each(turns >= 2), x.rot90(2, (2, 3)), x)


def _each(value: Tensor) -> Tensor:
    """One value a sample, against `(b, 1, i, j, k)`."""
    return value[:, None, None, None, None]

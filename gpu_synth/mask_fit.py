"""Whether a mask lies on an organ: what its image shows under it, as it lies and with its axes flipped or swapped.

An organ is much of one HU, and what lies elsewhere in the body is not: under a mask that is the wrong way round the HU spread. This tells
a swapped axis where headers do not, as in data sets whose masks have none.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from gpu_synth.volumes import Volume

SOFT_TISSUE_HU = (-100, 300)
MOST_VOXELS = 200_000  # of the mask that are looked at
LARGE_ML = 400  # an organ as large as this fits into no other by chance
TIGHTER = 0.65  # spread of HU, relative to the mask as it lies, that is clearly better


class Fit:
    """How well a mask fits one arrangement of its axes: spread of HU, and the share of it on soft tissue."""

    def __init__(self, hu: NDArray[np.float32]) -> None:
        self.spread_hu = float(np.subtract(*np.percentile(np.clip(hu, -300, 500), (75, 25))))
        self.soft = float(((hu >= SOFT_TISSUE_HU[0]) & (hu <= SOFT_TISSUE_HU[1])).mean())

    def is_clearly_better(self, other: "Fit", large: bool) -> bool:
        """Whether this is an organ and the other is none."""
        return (large and self.spread_hu < TIGHTER * other.spread_hu) or (self.soft >= 0.9 and other.soft < 0.75)


def better_arrangement(image: Volume, organ: NDArray[np.bool_]) -> str:
    """Name the arrangement of a mask's axes that fits its image clearly better than the one it has.

    Args:
        image: HU.
        organ: mask (i, j, k), voxel for voxel.

    Returns:
        In words, such as "flipped along j"; empty where the mask fits, or nothing fits better.
    """
    at = np.argwhere(organ)
    large = len(at) * image.voxel_ml >= LARGE_ML
    at = at[:: -(-len(at) // MOST_VOXELS)]
    as_it_lies = _fit(image, at)
    others = [(name, _fit(image, moved)) for name, moved in _arrangements(at, organ.shape)]
    better = [(name, fit) for name, fit in others if fit.is_clearly_better(as_it_lies, large)]
    return min(better, key=lambda each: (-round(each[1].soft, 1), each[1].spread_hu))[0] if better else ""


def _fit(image: Volume, at: NDArray[np.int64]) -> Fit:
    return Fit(image.data[tuple(at.T)].astype(np.float32))


def _arrangements(at: NDArray[np.int64], shape: tuple[int, ...]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Voxels of the mask, with axes flipped, and with i and j swapped where they are as long as each other."""
    for swapped in (False, True) if shape[0] == shape[1] else (False,):
        turned = at[:, [1, 0, 2]] if swapped else at
        for flips in product((False, True), repeat=3):
            if not swapped and not any(flips):
                continue
            along = " and ".join(axis for axis, flip in zip("ijk", flips, strict=True) if flip)
            words = [f"flipped along {along}"] * any(flips) + ["with i and j swapped"] * swapped
            yield " ".join(words), np.where(flips, np.array(shape) - 1 - turned, turned)

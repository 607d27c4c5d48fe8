"""How well two masks of one scan agree: in volume, and along their surfaces."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.metrics import compute_dice, compute_surface_dice
from numpy.typing import NDArray
from scipy.ndimage import find_objects

TOLERANCE_MM = 2.0


class Overlap(NamedTuple):
    """Agreement of a mask with its reference, 0 to 1.

    Attributes:
        dsc: Dice similarity coefficient.
        nsd: Normalised surface distance, also called surface Dice: share of both surfaces that lies within the tolerance of the other.
    """

    dsc: float
    nsd: float


def overlap(
    reference: NDArray[np.bool_], predicted: NDArray[np.bool_], spacing_mm: Sequence[float], tolerance_mm: float = TOLERANCE_MM
) -> Overlap:
    """Score a mask on the grid that it lies on.

    Surfaces are weighed by their area in mm², so that thick slices count for what they are; an organ that the scan cuts has a surface
    there. Where the reference is empty, both scores are 1 if nothing was predicted, else 0; where only the prediction is, they are 0.

    Args:
        reference: (i, j, k).
        predicted: The same.
        spacing_mm: Along i, j, k.
        tolerance_mm: How far from the other a surface may lie.
    """
    if not reference.any() or not predicted.any():
        same = float(reference.any() == predicted.any())
        return Overlap(same, same)
    (box,) = find_objects((reference | predicted).view(np.uint8))
    ours, theirs = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (predicted, reference))
    dsc = compute_dice(ours, theirs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)  # MONAI's, of how it calls itself
        nsd = compute_surface_dice(
            ours, theirs, [tolerance_mm], include_background=True, spacing=[float(mm) for mm in spacing_mm], use_subvoxels=True
        )
    return Overlap(float(dsc), float(nsd))

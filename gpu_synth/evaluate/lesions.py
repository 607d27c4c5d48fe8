"""Lesions one by one: which of a reference are found, which of a prediction are none, by size."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gpu_synth.evaluate.postprocess import TOUCHING

SIZE_EDGES_MM = (5.0, 10.0, 15.0, 20.0)
SIZES = ("under 5", "5 to 10", "10 to 15", "15 to 20", "over 20")  # mm of equivalent radius; a size on an edge belongs to the larger
FROC_RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives a scan over which the sensitivity is averaged, as in CAMELYON16

MISSED = -1.0  # below every probability


class Lesion(NamedTuple):
    """A connected component of tumour, 26-neighbourhood.

    Attributes:
        kind: Whose it is.
        number: From 1 in its scan and kind.
        centre_mm: Its centre of mass, RAS.
        volume_mm3: Its volume.
        matched: It shares a voxel with the other's tumour: a reference lesion is found, a predicted one is no false positive.
        score: Mean of the tumour's probability within it; of a reference lesion the highest among the predicted ones that it meets, 0
            if there is none; NaN without probabilities.
    """

    kind: Literal["reference", "predicted"]
    number: int
    centre_mm: tuple[float, float, float]
    volume_mm3: float
    matched: bool
    score: float

    @property
    def radius_mm(self) -> float:
        """Of the ball of its volume."""
        return float((3.0 * self.volume_mm3 / (4.0 * math.pi)) ** (1.0 / 3.0))

    @property
    def size(self) -> int:
        """Which of `SIZES` it is."""
        return int(np.searchsorted(SIZE_EDGES_MM, self.radius_mm, side="right"))


def find_lesions(
    reference: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    affine: NDArray[np.float64],
    probability: NDArray[np.float32] | None = None,
) -> list[Lesion]:
    """Match the lesions of a scan: they belong together where they share a voxel.

    Args:
        reference: (i, j, k), the tumours that are there.
        predicted: The tumours that were found.
        affine: (4, 4), voxel to RAS millimetres.
        probability: How likely each voxel is tumour.

    Returns:
        The reference's lesions, then the prediction's.
    """
    real, real_count = ndimage.label(reference, structure=TOUCHING)
    ours, our_count = ndimage.label(predicted, structure=TOUCHING)
    both = (real > 0) & (ours > 0)
    pairs = np.unique(np.stack([real[both], ours[both]]), axis=1)
    our_scores, real_scores = np.full(our_count, math.nan), np.full(real_count, math.nan)
    if probability is not None:
        our_scores[:] = ndimage.mean(probability, ours, np.arange(1, our_count + 1))
        real_scores[:] = 0.0
        np.maximum.at(real_scores, pairs[0] - 1, our_scores[pairs[1] - 1])
    return [
        *_described("reference", real, real_count, pairs[0], affine, real_scores),
        *_described("predicted", ours, our_count, pairs[1], affine, our_scores),
    ]


def _described(
    kind: Literal["reference", "predicted"],
    components: NDArray[Any],
    count: int,
    matched: NDArray[Any],
    affine: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> list[Lesion]:
    """Measure the components of one mask."""
    voxel_mm3 = float(abs(np.linalg.det(affine[:3, :3])))
    voxels = np.bincount(components.ravel(), minlength=count + 1)
    lesions = []
    for number, box in enumerate(ndimage.find_objects(components), 1):
        first = [part.start for part in box]
        centre_vox = np.argwhere(components[box] == number).mean(0) + first
        x, y, z = (float(mm) for mm in affine[:3, :3] @ centre_vox + affine[:3, 3])
        score = float(scores[number - 1])
        lesions.append(Lesion(kind, number, (x, y, z), float(voxels[number] * voxel_mm3), bool((matched == number).any()), score))
    return lesions


def froc(lesions: Sequence[Lesion], scans: int) -> dict[str, Any]:
    """Sensitivity against false positives a scan, as the least score that counts goes from high to low.

    The curve ends at the prediction's own operating point: what it does not call tumour is no candidate. Without scores it is that
    point alone.

    Args:
        lesions: Of all scans, both kinds.
        scans: How many scans.

    Returns:
        `false_positives_per_scan` and `sensitivity` along the curve, most lesions first, and `score`, the mean sensitivity at
        `FROC_RATES`, NaN for a point; all empty and NaN where the reference has no lesion.
    """
    real = [lesion for lesion in lesions if lesion.kind == "reference"]
    false = [lesion for lesion in lesions if lesion.kind == "predicted" and not lesion.matched]
    if not real:
        return {"false_positives_per_scan": [], "sensitivity": [], "score": math.nan}
    if any(math.isnan(lesion.score) for lesion in (*real, *false)):
        found = sum(lesion.matched for lesion in real)
        return {"false_positives_per_scan": [len(false) / scans], "sensitivity": [found / len(real)], "score": math.nan}
    # MONAI leaves out the least of all scores, which in its own data is that of lesions missed: here it is one that no probability has.
    false_scores = np.array([*(lesion.score for lesion in false), MISSED])
    real_scores = np.array([lesion.score if lesion.matched else MISSED for lesion in real])
    from monai.metrics import compute_froc_curve_data, compute_froc_score  # takes seconds, and the data card needs the sizes alone

    rates, sensitivity = compute_froc_curve_data(false_scores, real_scores, len(real), scans)
    return {
        "false_positives_per_scan": rates.tolist(),
        "sensitivity": sensitivity.tolist(),
        "score": float(compute_froc_score(rates, sensitivity, FROC_RATES)),
    }

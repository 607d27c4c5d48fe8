"""What a network's label map goes through before it is used: the organ in one piece, tumours where the organ is."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.ndimage import label as connected

NEAR_MM = 10.0  # no figure is published; one slice of 5 mm that was missed lies between a tumour and its organ
TOUCHING = np.ones((3, 3, 3))  # 26-neighbourhood


def keep_near_organ(label: NDArray[np.uint8], spacing_mm: Sequence[float], near_mm: float = NEAR_MM) -> NDArray[np.uint8]:
    """Keep the organ's largest component, and every tumour that touches it or lies near it.

    Organ and tumour voxels together make the organ. A tumour apart from its largest component is kept or dropped as a whole, by the
    distance from its nearest voxel's centre to the component's nearest: clipped at that distance, a large one would lose its far side.
    What touches the component is kept on any grid: there the next slice may be further away than `near_mm`.

    Args:
        label: (i, j, k): 0 background, 1 organ, 2 tumour.
        spacing_mm: Along i, j, k.
        near_mm: How far from the organ a tumour may lie.

    Returns:
        The label without the rest.

    Source: Hu et al. 2022, who keep the largest component of the liver and tumours near it; the distance is ours.
    """
    components, count = connected(label > 0, structure=TOUCHING)
    if count < 2:
        return label
    largest = components == np.bincount(components.ravel())[1:].argmax() + 1
    tumors, _ = connected((label == 2) & ~largest, structure=TOUCHING)
    near = _near(tumors, largest, spacing_mm, near_mm)
    return np.where(largest | np.isin(tumors, near), label, 0).astype(np.uint8)


def _near(tumors: NDArray[Any], organ: NDArray[np.bool_], spacing_mm: Sequence[float], near_mm: float) -> list[int]:
    """Numbers of the components that reach within a distance of the organ; distances are taken only where one may be so near."""
    if not tumors.any():
        return []
    margin = [math.floor(near_mm / spacing) for spacing in spacing_mm]
    ends = zip(find_objects(organ.view(np.uint8))[0], margin, strict=True)
    box = tuple(slice(max(0, part.start - m), part.stop + m) for part, m in ends)
    distance_mm = distance_transform_edt(~organ[box], sampling=spacing_mm)
    reached = np.unique(tumors[box][distance_mm <= near_mm])
    return [int(n) for n in reached if n > 0]

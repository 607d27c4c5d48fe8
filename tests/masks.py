"""Random masks that look like organs and lesions, and label maps written as NIfTI files."""

from collections import deque
from itertools import product
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from gpu_synth.volumes import save_nifti

SHAPE = (32, 28, 20)
SPACING_MM = (1.5, 1.0, 3.0)
A = ((8, 12), (8, 12), (6, 10))  # 64 voxels of 4.5 mm³: 4.1 mm of equivalent radius
B = ((18, 22), (14, 18), (6, 10))  # as large
LARGE = ((8, 24), (6, 20), (5, 15))  # 13.4 mm


def blobs(seed: int, shape=SHAPE, share=0.15, sigma=1.5) -> np.ndarray:
    """A mask of several rounded pieces, some cut by a border."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return field > np.quantile(field, 1 - share)


def pieces(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Connected components, 26-neighbourhood, by flood fill."""
    left, found = {tuple(int(n) for n in at) for at in np.argwhere(mask)}, []
    while left:
        piece, queue = set(), deque([left.pop()])
        while queue:
            at = queue.popleft()
            piece.add(at)
            for step in product((-1, 0, 1), repeat=3):
                near = tuple(a + s for a, s in zip(at, step, strict=True))
                if near in left:
                    left.remove(near)
                    queue.append(near)
        found.append(piece)
    return found


def box(label: np.ndarray, value: int, *corners: tuple[int, int]) -> np.ndarray:
    """Write a value into a box, given as first and end along each axis."""
    label[tuple(slice(*corner) for corner in corners)] = value
    return label


def organ(tumors=()) -> np.ndarray:
    """An organ with boxes of tumour in it."""
    label = box(np.zeros(SHAPE, np.uint8), 1, (4, 28), (4, 24), (3, 17))
    for tumor in tumors:
        box(label, 2, *tumor)
    return label


def write(folder: Path, name: str, label: np.ndarray, spacing_mm=SPACING_MM, origin_mm=(0.0, 0.0, 0.0)) -> Path:
    """Write a map into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = origin_mm
    save_nifti(folder / f"{name}.nii.gz", label, affine)
    return folder / f"{name}.nii.gz"

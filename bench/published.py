"""The published liver-tumour method in plain NumPy and SciPy, one voxel a millimetre: what the engine is compared with.

It is the tests' oracle for the law and the benchmark's stand-in for what people run today, on one core. Nothing here is shared with the
engine: every step is the sentence of the method that it stands for, with SciPy's own filters and splines. Arrays are (i, j, k), k axial.

Source: Hu et al., "Synthetic Tumors Make AI Segment Tumors Better", 2022; "Label-Free Liver Tumor Segmentation", CVPR 2023.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Ints = NDArray[np.integer]
Range = tuple[float, float]

TIE = 1e-5  # integer semi-axes tie often, (6/10)² + (8/10)² = 1: a tie is outside


@dataclass(frozen=True)
class SizeClass:
    """What one size of lesion draws from; ranges of whole numbers include both ends."""

    base_radius_mm: int
    semi_axes_mm: tuple[int, int]
    lesions: tuple[int, int]
    elastic_sigma_mm: Range
    whole_sigma: bool  # the elastic sigma is a whole number, not a real one


TINY = SizeClass(4, (3, 5), (3, 10), (0.5, 1.0), whole_sigma=False)
SMALL = SizeClass(8, (6, 10), (3, 10), (1, 2), whole_sigma=True)
MEDIUM = SizeClass(16, (12, 20), (2, 5), (3, 6), whole_sigma=True)
LARGE = SizeClass(32, (24, 40), (1, 3), (5, 10), whole_sigma=True)
SMALL_OF_MIX = SizeClass(8, (6, 10), (5, 10), (1, 2), whole_sigma=True)  # the only count that differs in a mixed scan

CLASSES: dict[str, tuple[SizeClass, ...]] = {
    "tiny": (TINY,),
    "small": (SMALL,),
    "medium": (MEDIUM,),
    "large": (LARGE,),
    "mix": (TINY, SMALL_OF_MIX, MEDIUM, LARGE),
}


def mirror_b_spline(control: Floats, n: int) -> Floats:
    """Interpolate a 3×3 control grid onto n×n voxels: control points at the first voxel, halfway and at the last."""
    at = np.linspace(0, 2, n)
    field: Floats = map_coordinates(control, np.meshgrid(at, at, indexing="ij"), order=3, mode="mirror", prefilter=True)
    return field


@dataclass(frozen=True)
class Method:
    """The figures that a test of the comparison's power changes; the defaults are the published ones."""

    contrast_hu: Range = (65.0, 145.0)
    edge_sigma_vox: Range = (1.0, 2.0)
    slice_range: Range = (0.3, 0.7)
    sigma_b_vox: tuple[Range, Range] = ((3.0, 5.0), (5.0, 8.0))
    spline: Callable[[Floats, int], Floats] = field(default=mirror_b_spline)


PUBLISHED = Method()


class Scan(NamedTuple):
    """One altered scan: the HU that were taken away, the union of the lesions, and 0 or the number (from 1) of a voxel's lesion."""

    drop_hu: Floats
    tumour: Bools
    instances: Ints


def ellipsoid(base_radius_mm: int, semi_axes_mm: Ints | tuple[int, int, int]) -> Bools:
    """Axis-aligned ellipsoid in a box of four base radii a side; voxel i of an axis stands at i − 2·(base radius)."""
    x = np.arange(4 * base_radius_mm) - 2 * base_radius_mm
    a, b, c = ((x / r) ** 2 for r in semi_axes_mm)
    inside: Bools = a[:, None, None] + b[None, :, None] + c[None, None, :] < 1 - TIE
    return inside


def deform(box: Bools, axes: tuple[int, int], sigma_mm: float, rng: np.random.Generator, method: Method = PUBLISHED) -> Bools:
    """Push the box about in the plane of two axes, alike along the third: nearest voxel, 0 outside the box."""
    n = box.shape[0]
    u, v = (method.spline(rng.normal(0.0, sigma_mm, (3, 3)), n) for _ in range(2))
    at = np.arange(n)
    p, q = np.rint(at[:, None] + u).astype(int), np.rint(at[None, :] + v).astype(int)
    in_box = (p >= 0) & (p < n) & (q >= 0) & (q < n)
    plane_first = np.moveaxis(box, axes, (0, 1))
    moved = plane_first[p.clip(0, n - 1), q.clip(0, n - 1)] & in_box[:, :, None]
    return np.moveaxis(moved, (0, 1), axes)


def lesion(size: SizeClass, rng: np.random.Generator, method: Method = PUBLISHED) -> Bools:
    """One lesion in its box: an ellipsoid with whole semi-axes, deformed in the planes (0, 1), (1, 2), (0, 2) in turn."""
    box = ellipsoid(size.base_radius_mm, rng.integers(*size.semi_axes_mm, size=3, endpoint=True))
    low, high = size.elastic_sigma_mm
    sigma = float(rng.integers(int(low), int(high), endpoint=True)) if size.whole_sigma else rng.uniform(low, high)
    for axes in ((0, 1), (1, 2), (0, 2)):
        box = deform(box, axes, sigma, rng, method)
    return box


def place(organ: Bools, rng: np.random.Generator, method: Method = PUBLISHED) -> tuple[int, int, int]:
    """A voxel for a lesion: a slice of the organ's middle, its mask eroded by 5×5, a uniform pixel of what is left."""
    axial = np.flatnonzero(organ.any(axis=(0, 1)))
    z0, z1 = int(axial[0]), int(axial[-1])
    for _ in range(1000):
        z = round(z0 + rng.uniform(*method.slice_range) * (z1 - z0))
        pixels = np.argwhere(binary_erosion(organ[:, :, z], np.ones((5, 5), bool), border_value=1))
        if len(pixels):
            i, j = pixels[rng.integers(len(pixels))]
            return int(i), int(j), z
    raise ValueError("organ must leave a pixel in some slice of its middle after erosion by 5×5, got none in 1000 slices")


def stamp(box: Bools, centre_vox: tuple[int, int, int], shape: tuple[int, ...]) -> tuple[tuple[slice, ...], Bools]:
    """The part of the scan that the box covers, and the box's part in it; the box's voxel n/2 lies on the centre."""
    starts = [c - n // 2 for c, n in zip(centre_vox, box.shape, strict=True)]
    there = tuple(slice(max(s, 0), min(s + n, m)) for s, n, m in zip(starts, box.shape, shape, strict=True))
    here = tuple(slice(t.start - s, t.stop - s) for t, s in zip(there, starts, strict=True))
    return there, box[here]


def lesions(organ: Bools, size_class: str, rng: np.random.Generator, method: Method = PUBLISHED) -> Ints:
    """The instance map of one scan: 0 or a lesion's number; a voxel that several claim is the first one's; cut to the organ."""
    instances = np.zeros(organ.shape, np.int16)
    number = 0
    for size in CLASSES[size_class]:
        for _ in range(rng.integers(*size.lesions, endpoint=True)):
            number += 1
            there, mask = stamp(lesion(size, rng, method), place(organ, rng, method), organ.shape)
            instances[there][mask & (instances[there] == 0)] = number
    return np.where(organ, instances, 0)


def blur(volume: Floats, sigma_vox: float) -> Floats:
    """G_sigma: a separable Gaussian cut at four sigma, borders reflected."""
    out: Floats = gaussian_filter(volume, sigma_vox, mode="reflect", truncate=4.0)
    return out


def texture(shape: tuple[int, ...], rng: np.random.Generator, method: Method = PUBLISHED) -> Floats:
    """A fresh texture for one scan."""
    sigma_a = rng.uniform(3, 15)
    sigma_b = rng.uniform(*method.sigma_b_vox[0 if rng.random() < 0.7 else 1])
    return grains(shape, sigma_a, sigma_b, rng)


def grains(shape: tuple[int, ...], sigma_a: float, sigma_b: float, rng: np.random.Generator) -> Floats:
    """Blurred noise sets the density of salt, blurred salt is the texture, in [0, 1]."""
    a = blur(rng.random(shape, np.float32), sigma_a)
    a = (a - a.min()) / (a.max() - a.min()) * rng.uniform(0.19, 0.21) + rng.uniform(0.04, 0.06)
    salt = (a > rng.random(shape, np.float32)).astype(np.float32)
    t = blur(salt, sigma_b)
    beta = rng.uniform(0.5, 0.55) / t[t > 0.12].mean()
    out: Floats = np.clip(beta * t, 0, 1)
    return out


def texture_bank(edge_vox: int, rng: np.random.Generator) -> list[Floats]:
    """The ten textures that the authors make beforehand, as cubes: cropping them costs the same whatever they measure."""
    return [grains((edge_vox,) * 3, sigma_a, sigma_b, rng).astype(np.float64) for sigma_a in (3, 6, 9, 12, 15) for sigma_b in (4, 7)]


def cropped(bank: Sequence[Floats], shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """One texture of the bank, at a random place."""
    whole = bank[int(rng.integers(len(bank)))]
    start = [int(rng.integers(n - m, endpoint=True)) for n, m in zip(whole.shape, shape, strict=True)]
    return whole[tuple(slice(s, s + m) for s, m in zip(start, shape, strict=True))]


def synthesize(
    organ: Bools, size_class: str, rng: np.random.Generator, method: Method = PUBLISHED, bank: Sequence[Floats] | None = None
) -> Scan:
    """Alter one scan of the given class: HU' = HU − texture · G_sigma(mask) · difference inside the organ.

    Args:
        organ: The scan's organ.
        size_class: One of `CLASSES`.
        rng: Source of all randomness.
        method: The figures to draw from.
        bank: Textures to crop from; none: a fresh texture.
    """
    instances = lesions(organ, size_class, rng, method)
    tumour = instances > 0
    edge = blur(tumour.astype(np.float32), rng.uniform(*method.edge_sigma_vox))
    grain = texture(organ.shape, rng, method) if bank is None else cropped(bank, organ.shape, rng)
    drop = grain * edge * rng.uniform(*method.contrast_hu)
    return Scan(np.where(organ, drop, 0), tumour, instances)

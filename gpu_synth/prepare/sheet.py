"""Prepared cases as pictures: one of each, and a sheet of all of them. Patient's right on the left, anterior or superior up."""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave
from numpy.typing import NDArray
from scipy import ndimage

from gpu_synth.files import whole_file
from gpu_synth.manifest import Case, Manifest
from gpu_synth.preview.slices import ABDOMEN_HU, ORGAN_COLOUR, TUMOR_COLOUR, save_png
from gpu_synth.volumes import Volume

PIXEL_MM = 2.0
CORONAL_MARGIN_MM = 60.0  # above and below the organ
WIDEST = 6000  # pixels of a sheet; beyond it, every second pixel of the pictures is left out, and so on
_CAPTION, _GAP, _DPI = 46, 8, 100  # pixels
_BACKGROUND, _ODD = "#202020", "#ff5252"


def case_picture(image: Volume, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw the axial and the coronal slice that hold most organ, side by side, with outlines.

    Args:
        image: HU, RAS.
        label: 0 background, 1 organ, 2 tumour, on the same grid; holds some organ.

    Returns:
        (rows, columns, 3), pixels of 2 mm.
    """
    si, sj, sk = image.spacing_mm
    inside = label > 0
    k, j = int(inside.sum((0, 1)).argmax()), int(inside.sum((0, 2)).argmax())
    margin, rows = round(CORONAL_MARGIN_MM / sk), np.flatnonzero(inside.any((0, 1)))
    part = slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin)
    axial = _drawn(image.data[:, :, k], label[:, :, k], (si, sj))
    coronal = _drawn(image.data[:, j, part], label[:, j, part], (si, sk))
    height = max(len(axial), len(coronal))
    return np.concatenate([_padded(axial, height), _padded(coronal, height)], axis=1)


def _drawn(image_hu: NDArray[Any], label: NDArray[np.uint8], spacing_mm: tuple[float, float]) -> NDArray[np.uint8]:
    """One slice, its first axis towards right and its second up."""
    low, high = ABDOMEN_HU
    factors = [spacing / PIXEL_MM for spacing in spacing_mm]
    shape = [max(1, round(n * factor)) for n, factor in zip(image_hu.shape, factors, strict=True)]
    at = np.meshgrid(*((np.arange(n) + 0.5) / factor - 0.5 for n, factor in zip(shape, factors, strict=True)), indexing="ij")
    grey = ndimage.map_coordinates(np.clip(image_hu, low, high).astype(np.float32), at, order=1, mode="nearest")
    picture = np.repeat(((grey - low) / (high - low))[..., None], 3, axis=-1)
    labels = ndimage.map_coordinates(label, at, order=0, mode="nearest")
    for value, colour in ((1, ORGAN_COLOUR), (2, TUMOR_COLOUR)):
        inside = labels >= value
        picture[inside & ~ndimage.binary_erosion(inside)] = to_rgb(colour)
    return _trimmed(np.rint(255 * picture[::-1, ::-1].transpose(1, 0, 2)).astype(np.uint8))


def _trimmed(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture without the air around the patient; as it is where it shows nothing else."""
    if not picture.any():
        return picture
    rows, columns = (np.flatnonzero(picture.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _padded(picture: NDArray[np.uint8], height: int, width: int | None = None) -> NDArray[np.uint8]:
    """A picture in the middle of a black one."""
    missing = height - len(picture), (width or picture.shape[1]) - picture.shape[1]
    return np.pad(picture, [*((n // 2, n - n // 2) for n in missing), (0, 0)])


def save_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture as PNG, as a whole or not at all."""
    with whole_file(path) as stream:
        imsave(stream, picture, format="png")


def save_sheet(manifest: Manifest) -> None:
    """Write `sheet.png` into the manifest's folder: all cases, those that look odd in red, and the names of those refused."""
    save_png(contact_sheet(manifest), manifest.root / "sheet.png")


def contact_sheet(manifest: Manifest) -> Figure:
    """Draw all prepared cases on one sheet."""
    odd = dict(manifest.odd)
    pictures = [np.rint(255 * imread(manifest.root / case.picture)[..., :3]).astype(np.uint8) for case in manifest.cases]
    pictures = pictures or [np.zeros((60, 300, 3), np.uint8)]
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    columns = max(1, round(math.sqrt(1.5 * len(pictures) * (height + _CAPTION) / width)))
    stride = math.ceil(columns * (width + _GAP) / WIDEST)
    pictures = [_padded(picture, height, width)[::stride, ::stride] for picture in pictures]
    (height, width), rows = pictures[0].shape[:2], math.ceil(len(pictures) / columns)
    refused = [f"refused {name}: {why.splitlines()[0]}" for name, why in manifest.refused]
    total = columns * (width + _GAP), rows * (height + _CAPTION) + 14 * len(refused) + _GAP
    figure = Figure(figsize=(total[0] / _DPI, total[1] / _DPI), dpi=_DPI, facecolor=_BACKGROUND)
    for n, (case, picture) in enumerate(zip(manifest.cases, pictures, strict=False)):
        left, top = (n % columns) * (width + _GAP) + _GAP // 2, (n // columns) * (height + _CAPTION)
        figure.figimage(picture, left, total[1] - top - _CAPTION - height)
        for line, (text, colour) in enumerate(_caption(case, odd.get(case.name, ()))):
            at = left / total[0], 1 - (top + 14 * line + 4) / total[1]
            figure.text(*at, shorten(text, max(12, width // 5), placeholder=" …"), color=colour, fontsize=7, va="top", parse_math=False)
    for line, text in enumerate(reversed(refused)):
        at = _GAP / 2 / total[0], (14 * line + 4) / total[1]
        figure.text(*at, shorten(text, max(12, total[0] // 5), placeholder=" …"), color=_ODD, fontsize=7, va="bottom", parse_math=False)
    return figure


def _caption(case: Case, findings: Sequence[str]) -> list[tuple[str, str]]:
    enhanced = "contrast" if case.contrast else "no contrast"
    figures = f"{case.organ_ml:.0f} ml, {case.organ_mean_hu:.0f} HU, noise {case.noise_hu:.0f} HU, {enhanced}"
    return [(case.name, _ODD if findings else "white"), (figures, "#b0b0b0"), ("; ".join(findings), _ODD)]

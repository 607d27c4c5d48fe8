"""What the header of a DICOM file says: which series it belongs to, and where each of its slices lies.

A slice is stored in rows; here its axes are i along a row, j down a column, as in any file that SimpleITK writes from it. DICOM's own
millimetres run towards left, posterior, superior.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder

from gpu_synth.dicom.reading import reading
from gpu_synth.volumes import SPACING_LIMITS_MM, VolumeError

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
INSTALL = "pip install 'gpu-synth[dicom]'"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SAME_PLACE_MM = 0.01
_OFF_GRID = 0.1  # of a voxel; positions are often written with two decimals
_TAGS = [
    *("SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "SOPInstanceUID", "FrameOfReferenceUID", "Modality", "ImageType"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "BitsStored", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "PixelPaddingValue"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),  # of enhanced, multi-frame files
]


class Place(NamedTuple):
    """Where a slice lies, in DICOM's millimetres (left, posterior, superior).

    Attributes:
        origin_mm: centre of its first voxel.
        along_i: unit vector along a row.
        along_j: unit vector down a column.
        spacing_mm: distance between voxel centres along i and along j.
    """

    origin_mm: NDArray[np.float64]
    along_i: NDArray[np.float64]
    along_j: NDArray[np.float64]
    spacing_mm: tuple[float, float]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector that makes a right-handed system with i and j: the direction in which slices are ordered."""
        return np.cross(self.along_i, self.along_j)


class Slice(NamedTuple):
    """One image of a file.

    Attributes:
        path: its file.
        frame: its number in the file, from 0.
        shape: voxels along i and j.
        place: None where the header does not say.
        rescale: slope and intercept that make HU of stored values; None where the header does not say.
    """

    path: Path
    frame: int
    shape: tuple[int, int]
    place: Place | None
    rescale: tuple[float, float] | None


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        path: the file.
        dataset: the elements that are read here, without pixels.
        slices: its images; none where it holds no scan.
    """

    path: Path
    dataset: Any
    slices: tuple[Slice, ...]

    def text(self, keyword: str) -> str:
        """An element as text, empty where it is missing."""
        return str(self.dataset.get(keyword, "") or "").strip()

    @property
    def is_localizer(self) -> bool:
        """Whether it is a survey image."""
        return "LOCALIZER" in map(str, self.dataset.get("ImageType", None) or ())


def read_header(path: Path) -> Header | None:
    """Read a file's header.

    Args:
        path: any file.

    Returns:
        What it says; None where it is no DICOM.

    Raises:
        VolumeError: it is named or begins like a DICOM file but cannot be read.
    """
    with reading(path, "its DICOM header"):
        try:
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        except InvalidDicomError as error:
            if path.suffix.lower() not in DICOM_ENDINGS:
                return None
            raise VolumeError(
                f"{path}: is no readable DICOM file; it is empty, damaged or lacks the mark DICM, download it again"
            ) from error
        if not dataset.get("SeriesInstanceUID"):
            if "DICOMDIR" in path.name.upper():
                return None
            raise VolumeError(f"{path}: must name its series (SeriesInstanceUID), got none; the file is damaged, download it again")
        return Header(path, dataset, tuple(_slices(path, dataset)) if dataset.get("Modality") == "CT" else ())


def _slices(path: Path, dataset: Any) -> list[Slice]:
    """The images of a CT file: one, or as many as an enhanced one tells of."""
    shape = (int(dataset.get("Columns", 0) or 0), int(dataset.get("Rows", 0) or 0))
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        return [Slice(path, 0, shape, _place(dataset, dataset, dataset), _rescale(dataset))]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    out = []
    for n, own in enumerate(frames):
        position, orientation, measures, rescale = (
            (own.get(f"{name}Sequence") or shared.get(f"{name}Sequence") or [{}])[0]
            for name in ("PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation")
        )
        out.append(Slice(path, n, shape, _place(position, orientation, measures), _rescale(rescale)))
    return out


def _place(position: Any, orientation: Any, measures: Any) -> Place | None:
    origin, axes, spacing = (
        [float(number) for number in (item.get(keyword) or ())]
        for item, keyword in ((position, "ImagePositionPatient"), (orientation, "ImageOrientationPatient"), (measures, "PixelSpacing"))
    )
    if (len(origin), len(axes), len(spacing)) != (3, 6, 2):
        return None
    along_i, along_j = np.array(axes[:3]), np.array(axes[3:])
    lengths = np.linalg.norm(along_i), np.linalg.norm(along_j)
    if not (np.isfinite([*origin, *axes, *spacing]).all() and np.allclose(lengths, 1, atol=0.01) and abs(along_i @ along_j) < 0.01):
        return None
    between_rows, between_columns = spacing
    return Place(np.array(origin), along_i / lengths[0], along_j / lengths[1], (between_columns, between_rows))


def _rescale(item: Any) -> tuple[float, float] | None:
    slope, intercept = item.get("RescaleSlope"), item.get("RescaleIntercept")
    return None if slope is None or intercept is None else (float(slope), float(intercept))


def places(slices: Sequence[Slice]) -> list[Place]:
    """Where slices lie, without those whose header does not say."""
    return [s.place for s in slices if s.place is not None]


def in_order(slices: Sequence[Slice]) -> list[Slice]:
    """Sort slices along their common normal; where one has no place, by file and frame."""
    known = places(slices)
    heights = [round(float(place.origin_mm @ known[0].normal), 6) for place in known] if len(known) == len(slices) else [0.0] * len(slices)
    order = sorted(range(len(slices)), key=lambda n: (heights[n], str(slices[n].path), slices[n].frame))
    return [slices[n] for n in order]


def doubles(slices: Sequence[Slice]) -> list[tuple[Slice, Slice]]:
    """Neighbours, of ordered slices with a place, that lie in the same one."""
    neighbours = zip(pairwise(slices), pairwise(places(slices)), strict=True)
    return [pair for pair, (at, to) in neighbours if np.allclose(at.origin_mm, to.origin_mm, rtol=0, atol=_SAME_PLACE_MM)]


def check_alike(where: str, slices: Sequence[Slice]) -> None:
    """Refuse what does not stack: images without a place, of different sizes, or turned against each other.

    Args:
        where: path and series, for messages.
        slices: at least one.
    """
    lost = next((s for s in slices if s.place is None), None)
    if lost:
        raise VolumeError(
            f"{where}: every slice must give position, orientation and spacing, got none in {lost.path.name}; "
            "it may be a screenshot (move it out of the folder) or cut short (download it again)"
        )
    shapes = sorted({s.shape for s in slices})
    if len(shapes) > 1 or 0 in shapes[0]:
        sizes = ", ".join(f"{columns}×{rows}" for columns, rows in shapes)
        raise VolumeError(f"{where}: slices must have one size, got {sizes}; move the others into a folder of their own")
    axes = np.array([[*place.along_i, *place.along_j] for place in places(slices)])
    kinds, left = [], axes
    while len(left):
        alike = np.abs(left - left[0]).max(1) < 1e-3
        kinds.append((int(alike.sum()), np.cross(left[0][:3], left[0][3:])))
        left = left[~alike]
    if len(kinds) > 1:
        told = " and ".join(f"{n} along {(np.round(normal, 2) + 0.0).tolist()}" for n, normal in kinds)
        raise VolumeError(f"{where}: slices must be parallel, got {told}; move the others into a folder of their own")
    spacings = np.array([place.spacing_mm for place in places(slices)])
    if np.ptp(spacings, axis=0).max() > 1e-3 * spacings.min():
        raise VolumeError(
            f"{where}: slices must have one pixel spacing, got {spacings.min(0).tolist()} to {spacings.max(0).tolist()} mm; "
            "move the others into a folder of their own"
        )


def grid_of(where: str, slices: Sequence[Slice]) -> tuple[NDArray[np.float64], list[str]]:
    """Find the affine of ordered slices that stack.

    Args:
        where: path and series, for messages.
        slices: ordered, alike, none twice.

    Returns:
        (4, 4), voxel (i, j, k) to RAS millimetres, with a shear where the gantry was tilted; and what is odd, in words.

    Raises:
        VolumeError: there is one slice only, or slices are missing, unevenly spaced or shifted.
    """
    stack = places(slices)
    if len(stack) < 2:
        raise VolumeError(f"{where}: must hold at least 2 slices, got {len(stack)}; download the whole series")
    first, origins = stack[0], np.array([place.origin_mm for place in stack])
    step = (origins[-1] - origins[0]) / (len(stack) - 1)
    off = origins - origins[0] - np.arange(len(stack))[:, None] * step
    along = np.abs(off @ first.normal).max()
    aside = np.linalg.norm(off - np.outer(off @ first.normal, first.normal), axis=1).max()
    _check_even(where, origins @ first.normal, along)
    if aside > _OFF_GRID * min(first.spacing_mm):
        raise VolumeError(f"{where}: slices must lie one above the other, got shifts of {aside:.2f} mm; they may be of several scans")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = first.along_i * first.spacing_mm[0], first.along_j * first.spacing_mm[1], step
    affine[:3, 3] = origins[0]
    spacing, (least, most) = np.linalg.norm(affine[:3, :3], axis=0), SPACING_LIMITS_MM
    if not ((spacing >= least).all() and (spacing <= most).all()):
        raise VolumeError(f"{where}: voxel spacing must lie within {least} to {most} mm, got {spacing.tolist()}; the headers are wrong")
    uneven = [f"slices lie up to {along:.2f} mm off even spacing: taken as even"] if along > 0.02 else []
    return LPS_TO_RAS @ affine, uneven


def _check_even(where: str, height_mm: NDArray[np.float64], off_mm: float) -> None:
    """Refuse a stack with gaps; tell missing slices from slices that were never evenly spaced."""
    gaps = np.diff(height_mm)
    usual = float(np.median(gaps))
    if off_mm <= _OFF_GRID * usual:
        return
    times = np.rint(gaps / usual).astype(int)
    if (np.abs(gaps - times * usual) <= _OFF_GRID * usual).all() and (times > 1).any():
        holes = [f"{n - 1} after {at:.2f} mm" for n, at in zip(times, height_mm, strict=False) if n > 1]
        told = ", ".join(holes[:5]) + (", …" if len(holes) > 5 else "")
        raise VolumeError(f"{where}: no slice must be missing, got a gap for {told} (along the slices' normal); download it again")
    raise VolumeError(
        f"{where}: slices must be evenly spaced, got distances from {gaps.min():.2f} to {gaps.max():.2f} mm; "
        "resample it in another tool and give it as NIfTI"
    )


def check_decoder(header: Header) -> None:
    """Refuse pixels that nothing installed here can decompress."""
    syntax = header.dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_encapsulated:
        return
    missing: Sequence[str] = ("none is known",)
    with suppress(NotImplementedError):
        decoder = get_decoder(syntax)
        if decoder.is_available:
            return
        missing = decoder.missing_dependencies
    raise VolumeError(
        f"{header.path}: pixels must be stored as something installed here decodes, got {syntax.name}; {INSTALL} brings gdcm "
        f"(pydicom decodes it by {' or '.join(missing)})"
    )

"""Organ masks as DICOM: the contours of an RTSTRUCT, the segments of a DICOM-SEG, by name.

A contour is a line in millimetres; a voxel belongs to it where its centre lies inside or on it, and a contour within another is a hole.
pydicom reads the contours and matplotlib tells what lies inside. rt-utils, which does both, rounds contours to voxels and fills their
border too, which grows a mask by half a voxel all around, and mistakes rows for columns where a slice is not square.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from pydicom import dcmread

from gpu_synth.dicom.reading import UNREADABLE, reading
from gpu_synth.dicom.series import Series, find_series
from gpu_synth.dicom.slices import INSTALL, LPS_TO_RAS
from gpu_synth.volumes import Volume, VolumeError

MASKS = ("RTSTRUCT", "SEG")
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_OFF_PLANE_VOX = 0.25  # of a contour from its slice
_ON_LINE_VOX = 1e-4


class _Mask(NamedTuple):
    """A mask's file, its header, and its ROIs' or segments' names by number."""

    path: Path
    dataset: Any
    names: dict[int, str]


def read_mask(
    where: Path,
    organ_names: Sequence[str],
    tumor_names: Sequence[str],
    shape: Sequence[int],
    affine: NDArray[np.float64],
    image: Series | None = None,
) -> tuple[Volume, list[str]]:
    """Read an organ, and its tumours, from an RTSTRUCT or a DICOM-SEG.

    Args:
        where: its file, or a folder that holds it.
        organ_names: names, in any case, of ROIs or segments that are organ; several are joined.
        tumor_names: names of those that are tumour; they may be absent.
        shape: (i, j, k) of the CT that it was drawn on.
        affine: that CT's, voxel to RAS millimetres.
        image: that CT's series, where it is DICOM: says which mask of several is meant, and whether it is of the same patient and place.

    Returns:
        0 background, 1 organ, 2 tumour, on the CT's grid, or on its own where a SEG has another; and what is odd, in words.

    Raises:
        VolumeError: there is no such mask or no such name, it was drawn on another scan, or cannot be read.
        ImportError: a DICOM-SEG is to be read without highdicom.
    """
    path, dataset, known = mask = _find(where, organ_names, image)
    organ, tumor = ([number for number, name in known.items() if _is(name, wanted)] for wanted in (organ_names, tumor_names))
    if not organ:
        told = ", ".join(map(repr, known.values())) or "none"
        mend = "name the organ's: --organ_names" + (f" '[{next(iter(known.values()))}]'" if known else "")
        raise VolumeError(f"{path}: must hold one of {list(organ_names) or 'the names in --organ_names'}, got {told}; {mend}")
    theirs = _frames_of_reference(mask)
    if image and theirs and (ours := image.frame_of_reference) and ours not in theirs:
        raise VolumeError(f"{path}: must be drawn on {image.where}, got another frame of reference; pair it with its own scan")
    if dataset.Modality == "SEG":
        return _segments(path, organ, tumor, shape, affine)
    notes: list[str] = []
    label = np.zeros(tuple(shape), np.uint8, order="F")
    for value, numbers in ((1, organ), (2, tumor)):
        for number in numbers:
            inside, said = _contours(path, known[number], _lines(mask, number, affine), shape)
            label[inside] = value
            notes += said
    return Volume(label, affine), notes


def _is(name: str, wanted: Sequence[str]) -> bool:
    return name.strip().casefold() in {one.strip().casefold() for one in wanted}


def _find(where: Path, organ_names: Sequence[str], image: Series | None) -> _Mask:
    """The mask: of several the one that names the organ, and of those the one of this image."""
    found = sorted(header.path for series in find_series(where) if series.modality in MASKS for header in series.headers)
    masks = [_read(path) for path in found]
    if len(masks) > 1:
        masks = [mask for mask in masks if any(_is(name, organ_names) for name in mask.names.values())] or masks
    if len(masks) > 1 and image:
        masks = [mask for mask in masks if image.uid in _referenced(mask)] or masks
    if len(masks) != 1:
        told = ", ".join(mask.path.name for mask in masks) or ", ".join(map(str, find_series(where))) or "no DICOM"
        raise VolumeError(f"{where}: must hold one RTSTRUCT or DICOM-SEG with the organ, got {told}; give its own file or folder")
    return masks[0]


def _read(path: Path) -> _Mask:
    with reading(path, "what it names"):
        dataset = dcmread(path, stop_before_pixels=True)
        rois, segments = dataset.get("StructureSetROISequence") or (), dataset.get("SegmentSequence") or ()
        names = {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in rois}
        names |= {int(item.SegmentNumber): str(item.get("SegmentLabel", "")) for item in segments}
        # Segment 0 is a label map's background.
        return _Mask(path, dataset, {number: name for number, name in names.items() if number > 0 or rois})


def _frames_of_reference(mask: _Mask) -> set[str]:
    with reading(mask.path, "its frame of reference"):
        items = [mask.dataset, *(mask.dataset.get("ReferencedFrameOfReferenceSequence") or ())]
        return {str(uid) for item in items if (uid := item.get("FrameOfReferenceUID"))}


def _referenced(mask: _Mask) -> set[str]:
    """Identifiers of the series that a mask was drawn on."""
    with reading(mask.path, "which series it was drawn on"):
        uids = {str(element.value) for element in mask.dataset.iterall() if element.keyword == "SeriesInstanceUID"}
        return uids - {str(mask.dataset.SeriesInstanceUID)}


def _lines(mask: _Mask, number: int, affine: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """An ROI's closed contours in voxels, each once: a copy would turn back what the first one fills."""
    to_voxels = np.linalg.inv(affine) @ LPS_TO_RAS
    lines: dict[bytes, NDArray[np.float64]] = {}
    with reading(mask.path, f"contours of {mask.names[number]!r}"):
        items = [item for item in mask.dataset.get("ROIContourSequence") or () if int(item.ReferencedROINumber) == number]
        for contour in (contour for item in items for contour in item.get("ContourSequence") or ()):
            if contour.get("ContourGeometricType") not in _CLOSED:
                continue
            points = np.reshape([float(value) for value in contour.ContourData or ()], (-1, 3))
            if not np.isfinite(points).all():
                raise ValueError("a coordinate is no number")
            if len(points) > 2:
                lines[points.tobytes()] = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
    return list(lines.values())


def _contours(path: Path, name: str, lines: Sequence[NDArray[np.float64]], shape: Sequence[int]) -> tuple[NDArray[np.bool_], list[str]]:
    """The voxels inside an ROI's contours."""
    if not lines:
        raise VolumeError(f"{path}: ROI {name!r} must have closed contours, got none; export it from the planning system again")
    across = int(np.argmin(np.max([np.ptp(line, axis=0) for line in lines], axis=0)))  # the axis that the contours are planar in
    inside = np.zeros(tuple(shape), bool, order="F")
    planes = np.moveaxis(inside, across, 2)
    outside, drawn = 0, set()
    for line in lines:
        k = round(float(line[:, across].mean()))
        if np.abs(line[:, across] - k).max() > _OFF_PLANE_VOX:
            raise VolumeError(f"{path}: contours of {name!r} must lie in the scan's slices, got others; pair it with its own scan")
        if 0 <= k < planes.shape[2]:
            _fill(planes[..., k], np.delete(line, across, axis=1))
            drawn.add(k)
        else:
            outside += 1
    notes = [f"{outside} contours of {name!r} lie outside the scan"] if outside else []
    if drawn and (skipped := max(drawn) - min(drawn) + 1 - len(drawn)):
        notes.append(f"{skipped} slices between the first and the last contour of {name!r} have none: they are taken as empty")
    return inside, notes


def _fill(plane: NDArray[np.bool_], line: NDArray[np.float64]) -> None:
    """Turn the voxels of a slice whose centres lie in or on a line, in voxels; what a second line turns back is a hole."""
    low = np.clip(np.floor(line.min(0)).astype(int), 0, plane.shape)
    high = np.clip(np.ceil(line.max(0)).astype(int) + 1, 0, plane.shape)
    x, y = line[:, 0], line[:, 1]
    anticlockwise = x @ np.roll(y, -1) > y @ np.roll(x, -1)
    centres = np.moveaxis(np.mgrid[low[0] : high[0], low[1] : high[1]], 0, -1)
    radius = _ON_LINE_VOX if anticlockwise else -_ON_LINE_VOX  # outwards
    within = Outline(line, closed=False).contains_points(centres.reshape(-1, 2), radius=radius)
    plane[low[0] : high[0], low[1] : high[1]] ^= within.reshape(centres.shape[:2])


def _segments(
    path: Path, organ: Sequence[int], tumor: Sequence[int], shape: Sequence[int], affine: NDArray[np.float64]
) -> tuple[Volume, list[str]]:
    """The voxels of segments, on the CT's grid where theirs is a part of it."""
    try:
        from highdicom.seg import segread
    except ImportError as error:
        raise ImportError(f"highdicom must be installed to read DICOM-SEG, got none for {path}; {INSTALL}") from error
    try:
        volume = segread(path).get_volume(segment_numbers=[*organ, *tumor])
    except UNREADABLE as error:
        raise VolumeError(f"{path}: its segments make no volume ({error}); export it again, or as NIfTI") from error
    shares: NDArray[Any] = np.asarray(volume.array)  # slices, rows, columns, segments
    label: NDArray[np.uint8] = np.any(shares[..., : len(organ)] >= 0.5, axis=-1).astype(np.uint8)
    label[np.any(shares[..., len(organ) :] >= 0.5, axis=-1)] = 2
    own = LPS_TO_RAS @ np.asarray(volume.affine)[:, [2, 1, 0, 3]]
    label = label.transpose(2, 1, 0)
    step = np.linalg.inv(affine) @ own
    turn, at = np.rint(step[:3, :3]).astype(int), np.rint(step[:3, 3]).astype(int)
    turned = abs(np.linalg.det(turn)) == 1 and np.abs(step[:3, :3] - turn).max() < 1e-3
    if not (turned and np.abs(step[:3, 3] - at).max() < 0.1):
        return Volume(label, own), []
    whole, filled = np.zeros(tuple(shape), np.uint8, order="F"), np.argwhere(label)
    there = filled @ turn.T + at
    within = ((there >= 0) & (there < whole.shape)).all(1)
    whole[tuple(there[within].T)] = label[tuple(filled[within].T)]
    lost = len(filled) - int(within.sum())
    return Volume(whole, affine), [f"{lost} voxels of the mask lie outside the scan"] if lost else []

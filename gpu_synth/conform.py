"""One scan brought into the form that training reads: HU in int16, labels 0, 1 and 2, RAS, on the wanted spacing; and what it measures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label as connected

from gpu_synth.formats import is_dicom, read_dicom_mask, read_scan
from gpu_synth.grids import onto_grid, perpendicular, placed_as, resample, same_grid
from gpu_synth.kernels.tissue import tissue
from gpu_synth.manifest import Case
from gpu_synth.mask_fit import better_arrangement
from gpu_synth.oddities import SOFT_TISSUE_HU, cut_faces
from gpu_synth.sources import Source
from gpu_synth.volumes import AIR_HU, Volume, VolumeError, read_grid, read_nifti, to_hu, to_ras

ENHANCED_HU = 80  # an organ's median from here on means contrast
MOST_LABELS = 1 << 16


def prepare_ct(path: str | Path, spacing_mm: Sequence[float], series: str | None = None) -> tuple[Volume, list[str]]:
    """Read one CT as `prepare` does.

    Args:
        path: NIfTI file or DICOM folder.
        spacing_mm: wanted spacing, along right, anterior, superior.
        series: which series of a DICOM folder, where it holds several.

    Returns:
        int16 HU on the wanted spacing, RAS; and what was changed, in words.

    Raises:
        VolumeError: the file cannot be used.
    """
    scan, odd = read_scan(path, series)
    image, notes = conform_ct(path, scan, spacing_mm)
    return image, odd + notes


def conform_ct(path: str | Path, scan: Volume, spacing_mm: Sequence[float]) -> tuple[Volume, list[str]]:
    """Bring a CT that is read into the form that training reads: as `prepare_ct`."""
    volume, notes = to_hu(path, scan)
    upright, tilt = perpendicular(to_ras(volume), AIR_HU)
    return resample(upright, spacing_mm, np.int16), [*notes, *tilt]


def prepare_label(
    source: Source,
    image: Volume,
    organ_labels: Sequence[int],
    tumor_labels: Sequence[int],
    *,
    organ_names: Sequence[str] = (),
    tumor_names: Sequence[str] = (),
    series: str | None = None,
) -> tuple[Volume, list[str]]:
    """Read a case's mask onto its prepared CT's grid: see `conform_label`.

    Args:
        source: the case's files.
        image: from `prepare_ct`.
        organ_labels: values that become 1.
        tumor_labels: values that become 2.
        organ_names: names of ROIs or segments that become 1, where the mask is DICOM.
        tumor_names: names of those that become 2.
        series: which series of a DICOM folder is the CT.

    Returns:
        uint8 label on the image's grid, and what was changed, in words.

    Raises:
        VolumeError: there is no mask, it cannot be used, it holds no organ, or does not overlap the image.
        ImportError: the mask is DICOM-SEG and highdicom is not there.
    """
    if source.label is None:
        raise VolumeError(f"{source.image}: has no label in the list; healthy cases need the organ's mask")
    if is_dicom(source.label):
        mask, notes = read_dicom_mask(source.label, source.image, organ_names, tumor_names, series)
        organ_labels, tumor_labels = (1,), (2,)
    else:
        mask, notes = _placed(source.label, read_nifti(source.label), source.image, image.placed)
        if organ_names or tumor_names:
            notes.append("a NIfTI mask names nothing: its values are read by --organ_labels and --tumor_labels")
    label, label_notes = conform_label(source, mask, image, organ_labels, tumor_labels)
    return label, notes + label_notes


def conform_label(
    source: Source, mask: Volume, image: Volume, organ_labels: Sequence[int], tumor_labels: Sequence[int]
) -> tuple[Volume, list[str]]:
    """Bring a mask that is read onto its prepared CT's grid.

    A voxel belongs to the organ where at least half of it lies inside, by linear interpolation: a nearest neighbour would leave
    steps as high as the source's slices are thick, and displace the surface by up to half of one.

    Args:
        source: the case's files, for messages.
        mask: on any grid.
        image: from `prepare_ct` or `conform_ct`.
        organ_labels: values that become 1.
        tumor_labels: values that become 2.

    Returns:
        uint8 label on the image's grid, and what was changed, in words.

    Raises:
        VolumeError: the mask holds no organ, or does not overlap the image.
    """
    where = source.label or source.image
    mask = to_ras(mask)
    classes, notes = _classes(where, mask.data, organ_labels, tumor_labels)
    label = np.zeros(image.data.shape, np.uint8, order="F")
    for level in (1, 2) if classes.max() == 2 else (1,):  # the tumour is part of the organ, so that no gap opens between them
        upright, _ = perpendicular(Volume(classes >= level, mask.affine), outside=0)
        share = resample(upright, image.spacing_mm)
        same = same_grid(share, image)
        label += (share.data >= 0.5) if same else onto_grid(share, image.data.shape, image.affine)
    if not same:
        notes.append(f"the mask lay on another grid, {mask.data.shape} at {_mm(mask.spacing_mm)} mm: resampled onto the image's")
    before = np.count_nonzero(classes) * mask.voxel_ml
    after = np.count_nonzero(label) * image.voxel_ml
    if not (label == 1).any():
        why = f"vanishes at {_mm(image.spacing_mm)} mm; choose a finer --spacing_mm" if same else f"lies outside {source.image}"
        raise VolumeError(f"{where}: must overlap the image, got an organ of {before:.2f} ml that {why}")
    if abs(after / before - 1) > 0.05:
        notes.append(f"the organ has {after:.1f} ml here and {before:.1f} ml in its file")
    return Volume(label, image.affine), notes


def _placed(path: Path, mask: Volume, image: Path, image_placed: bool) -> tuple[Volume, list[str]]:
    """A mask where its image's file has it; refuse one of which no header tells where that is."""
    if mask.placed and image_placed:
        return mask, []
    if not is_dicom(image):
        mask, notes = placed_as(mask, *read_grid(image), image_placed)
        if notes:
            return mask, notes
    lost, other = (image, "mask") if mask.placed else (path, "image")
    raise VolumeError(f"{lost}: header must give position and orientation, got sform and qform codes 0; save it on the grid of its {other}")


def to_classes(path: Path, data: NDArray[Any], organ: Sequence[int], tumor: Sequence[int]) -> tuple[NDArray[np.uint8], list[int]]:
    """Turn any mask into 0 background, 1 organ, 2 tumour.

    Args:
        path: the file, for messages.
        data: its voxels.
        organ: values that become 1.
        tumor: values that become 2.

    Returns:
        The classes, and all values that the mask holds.

    Raises:
        VolumeError: it holds what is no whole number, or too large a one.
    """
    table = np.zeros(MOST_LABELS, np.uint8)
    table[list(organ)], table[list(tumor)] = 1, 2
    counts = np.zeros(MOST_LABELS, np.int64)
    classes = np.empty(data.shape, np.uint8, order="F")
    for k in range(data.shape[2]):
        plane = data[..., k].astype(np.float64)
        if not ((np.abs(plane - np.rint(plane)) < 1e-3) & (plane > -0.5) & (plane < MOST_LABELS - 0.5)).all():
            raise VolumeError(f"{path}: must hold whole numbers from 0, got others, such as in a probability map; threshold it first")
        values = np.rint(plane).astype(np.uint16)
        counts += np.bincount(values.ravel(), minlength=MOST_LABELS)
        classes[..., k] = table[values]
    return classes, np.flatnonzero(counts).tolist()


def _classes(path: Path, data: NDArray[Any], organ: Sequence[int], tumor: Sequence[int]) -> tuple[NDArray[np.uint8], list[str]]:
    """Turn a mask that holds organ into classes; say what else it holds."""
    classes, held = to_classes(path, data, organ, tumor)
    if not set(held) & set(organ):
        mend = f"name the organ's value: --organ_labels {held[-1]}" if held != [0] else "it is empty: is it the right file?"
        raise VolumeError(f"{path}: must hold organ label {_list(organ)}, got only {_list(held)}; {mend}")
    others = [value for value in held if value not in (0, *organ, *tumor)]
    if not others:
        return classes, []
    return classes, [f"mask values {_list(others)} are neither organ nor tumour: taken as background (see --organ_labels, --tumor_labels)"]


def describe(source: Source, image: Volume, label: NDArray[np.uint8], notes: Sequence[str], sha256: tuple[str, str] = ("", "")) -> Case:
    """Measure what training and people want to know of a prepared case.

    Args:
        source: the case's files.
        image: int16 HU, RAS.
        label: 0 background, 1 organ, 2 tumour, on the same grid.
        notes: what reading the files had to say; what is found here is added.
        sha256: of the content of image and label, where it is known.
    """
    notes = list(notes)
    inside = label > 0
    extent = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(int(at[0]), int(at[-1]) + 1) for at in extent)
    pieces, components = connected(inside[box], structure=np.ones((3, 3, 3)))
    if components > 1:
        largest = np.bincount(pieces.ravel())[1:].max() / np.count_nonzero(pieces)
        notes.append(f"the organ has {components} components, the largest {100 * largest:.1f} % of it: all are kept")
    bbox_vox = (box[0].start, box[1].start, box[2].start), (box[0].stop, box[1].stop, box[2].stop)
    if cut := cut_faces(bbox_vox, label.shape):
        notes.append(f"the organ is cut by the scan's {' and '.join(cut)}")
    organ_hu = image.data[box][label[box] == 1].astype(np.float64)
    if not SOFT_TISSUE_HU[0] <= organ_hu.mean() <= SOFT_TISSUE_HU[1]:
        notes.append(f"the organ's mean of {organ_hu.mean():.0f} HU is no soft tissue: is the image in HU, and is the mask its own?")
    if better := better_arrangement(image, label == 1):
        notes.append(f"the mask lies on no one tissue, and would if it were {better}: are image and mask stored the same way round?")
    noise_hu, contrast = _noise_and_contrast(image.data[box], label[box], image.spacing_mm)
    (i, j, k), (si, sj, sk) = image.data.shape, image.spacing_mm
    return Case(
        name=source.name,
        image=f"{source.name}/image.nii",
        label=f"{source.name}/label.nii",
        source_image=str(source.image.absolute()),
        source_label=str(source.label.absolute()) if source.label else "",
        image_sha256=sha256[0],
        label_sha256=sha256[1],
        shape=(i, j, k),
        spacing_mm=(round(si, 5), round(sj, 5), round(sk, 5)),
        organ_ml=round(np.count_nonzero(inside) * image.voxel_ml, 3),
        tumor_ml=round(np.count_nonzero(label == 2) * image.voxel_ml, 3),
        organ_bbox_vox=bbox_vox,
        organ_mean_hu=round(float(organ_hu.mean()), 2),
        organ_sd_hu=round(float(organ_hu.std()), 2),
        noise_hu=round(noise_hu, 2),
        contrast=contrast,
        components=int(components),
        fits_only=better,
        warnings=tuple(notes),
    )


def _noise_and_contrast(image_hu: NDArray[np.int16], label: NDArray[np.uint8], spacing_mm: Sequence[float]) -> tuple[float, bool]:
    """Measure the organ's noise, and tell whether it is enhanced.

    Vessels are what `tissue` finds brighter than the organ, where they are 1.5 % of it or more. In the livers of a CT with contrast and of
    phantoms in portal-venous phase, at 1 to 3 mm, they were 2.7 to 6.2 % at a median of 99 to 143 HU; in those of two CTs and of phantoms
    without contrast none was found, at 46 to 59 HU. The bound on the median is for organs whose vessels are too fine to see.
    """
    field = torch.from_numpy(np.ascontiguousarray(image_hu)).to(torch.float32)[None]
    found = tissue(field, torch.from_numpy(np.ascontiguousarray(label))[None], 1, spacing_mm)
    return float(found.noise_hu), bool(found.vessel.any()) or float(found.organ_hu) >= ENHANCED_HU


def _mm(spacing_mm: Sequence[float]) -> str:
    return "×".join(f"{mm:.3g}" for mm in spacing_mm)


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:12])) + (", …" if len(values) > 12 else "")

"""One scan scored: its files read onto one grid, overlap, surfaces and lesions of what each model predicted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_synth.conform import to_classes
from gpu_synth.evaluate.lesions import Lesion, find_lesions
from gpu_synth.evaluate.overlap import Overlap, overlap
from gpu_synth.evaluate.pairing import Files
from gpu_synth.evaluate.postprocess import keep_near_organ
from gpu_synth.formats import is_dicom, read_dicom_mask
from gpu_synth.grids import same_grid
from gpu_synth.volumes import Volume, VolumeError, read_nifti, to_ras

# PyTorch has no exception of its own for this on the CPU: its allocator raises RuntimeError.
_WANT_OF_MEMORY = re.compile("not enough memory|can't allocate memory|out of memory", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """How masks are read.

    Attributes:
        organ_labels: Values of the references that are organ.
        tumor_labels: Values of the references that are tumour.
        predicted_organ_labels: The same of the predictions.
        predicted_tumor_labels: The same of the predictions.
        postprocess: Keep the organ's largest component and tumours near it before scoring.
        organ_names: Names of ROIs or segments that are organ, where references are DICOM.
        tumor_names: Names of those that are tumour.
        series: Which CT of a DICOM folder a reference was drawn on, where it holds several.
    """

    organ_labels: tuple[int, ...]
    tumor_labels: tuple[int, ...]
    predicted_organ_labels: tuple[int, ...]
    predicted_tumor_labels: tuple[int, ...]
    postprocess: bool
    organ_names: tuple[str, ...] = ()
    tumor_names: tuple[str, ...] = ()
    series: str | None = None


@dataclass(frozen=True)
class Scores:
    """What one model made of one scan.

    Attributes:
        missing: It made nothing: counted as an empty prediction.
        organ: Agreement of the organ, its tumours included.
        tumor: Agreement of the tumours.
        organ_ml: Volume predicted.
        tumor_ml: Volume predicted.
        lesions: The reference's and the prediction's.
        notes: What was odd, in words.
    """

    missing: bool
    organ: Overlap
    tumor: Overlap
    organ_ml: float
    tumor_ml: float
    lesions: tuple[Lesion, ...]
    notes: tuple[str, ...]

    def count(self, kind: str, matched: bool | None = None, size: int | None = None) -> int:
        """How many lesions there are of a kind, and if asked, matched or not, or of a size."""
        return sum(lesion.kind == kind and matched in (None, lesion.matched) and size in (None, lesion.size) for lesion in self.lesions)


@dataclass(frozen=True)
class Case:
    """One scan, scored.

    Attributes:
        name: From the reference's file.
        organ_ml: Of the reference, tumours included.
        tumor_ml: Of the reference.
        models: One a model, in their order.
        organ_drawn: Whether the reference holds the organ's own label; a mask of tumours alone says nothing of the organ.
    """

    name: str
    organ_ml: float
    tumor_ml: float
    models: tuple[Scores, ...]
    organ_drawn: bool

    @property
    def organ_scored(self) -> bool:
        """Whether there is an organ to compare with, or known to be none."""
        return self.organ_drawn or self.organ_ml == 0


def score_case(files: Files, settings: Settings) -> Case | str:
    """Score a scan, or say why it cannot be."""
    try:
        stored, notes = read_reference(files, settings)
        reference = to_ras(stored)
        organ_drawn = bool((reference.data == 1).any())
        if not organ_drawn and reference.data.any():
            notes.append(f"{files.reference.name}: it holds tumours but no organ: the organ is not scored")
        models = tuple(
            _score(stored, notes, prediction, probability, settings)
            for prediction, probability in zip(files.predictions, files.probabilities, strict=True)
        )
    except VolumeError as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _WANT_OF_MEMORY.search(str(error)):
            raise
        return f"{files.reference}: not enough memory to score it; run again with fewer --workers, or use a machine with more"
    organ_ml, tumor_ml = (float(np.count_nonzero(reference.data >= least) * reference.voxel_ml) for least in (1, 2))
    return Case(files.case, organ_ml, tumor_ml, models, organ_drawn)


def _score(stored: Volume, notes: Sequence[str], prediction: Path | None, probability: Path | None, settings: Settings) -> Scores:
    """Score one model's prediction; none counts as an empty one."""
    reference = to_ras(stored)
    label, more = (np.zeros_like(reference.data), []) if prediction is None else read_prediction(prediction, stored, settings)
    organ, tumor = (overlap(reference.data >= least, label >= least, reference.spacing_mm) for least in (1, 2))
    score = None if probability is None else _read_probability(probability, stored)
    if prediction is None:  # it misses every lesion, whatever probability counts
        score = np.zeros(reference.data.shape, np.float32)
    lesions = find_lesions(reference.data == 2, label == 2, reference.affine, score)
    organ_ml, tumor_ml = (float(np.count_nonzero(label >= least) * reference.voxel_ml) for least in (1, 2))
    return Scores(prediction is None, organ, tumor, organ_ml, tumor_ml, tuple(lesions), (*notes, *more))


def read_reference(files: Files, settings: Settings) -> tuple[Volume, list[str]]:
    """Read a case's reference as 0 background, 1 organ, 2 tumour, in the file's own orientation; of DICOM, in its CT's.

    Raises:
        VolumeError: The file cannot be used, holds other labels only, or is DICOM without a CT to draw it on.
        ImportError: It is DICOM-SEG and highdicom is not there.
    """
    path = files.reference
    if is_dicom(path):
        image = next((each for each in (files.image, *files.predictions) if each is not None), None)
        if image is None:
            raise VolumeError(f"{path}: must have its CT, whose grid it is drawn on, got neither CT nor prediction; name the CTs: --images")
        return read_dicom_mask(path, image, settings.organ_names, settings.tumor_names, settings.series)
    volume = read_nifti(path)
    classes, notes = _classes(path, volume, settings.organ_labels, settings.tumor_labels, "")
    return Volume(classes, volume.affine, volume.placed), notes


def read_prediction(path: Path, reference: Volume, settings: Settings) -> tuple[NDArray[np.uint8], list[str]]:
    """Read a prediction as 0 background, 1 organ, 2 tumour, RAS, post-processed where that is asked for.

    Args:
        path: Its file.
        reference: On whose grid it must lie, as stored.
        settings: How it is read.

    Raises:
        VolumeError: The file cannot be used, holds other labels only, or lies on another grid.
    """
    volume = read_nifti(path)
    classes, notes = _classes(path, volume, settings.predicted_organ_labels, settings.predicted_tumor_labels, "predicted_")
    label, more = on_grid(path, Volume(classes, volume.affine, volume.placed), reference)
    if settings.postprocess:
        label = keep_near_organ(label, to_ras(reference).spacing_mm)
    return label, notes + more


def _classes(path: Path, volume: Volume, organ: Sequence[int], tumor: Sequence[int], prefix: str) -> tuple[NDArray[np.uint8], list[str]]:
    """Turn a mask into classes; it may be empty, but not of other labels only."""
    classes, held = to_classes(path, volume.data, organ, tumor)
    others = [value for value in held if value not in (0, *organ, *tumor)]
    listed, options = ", ".join(map(str, others)), f"--{prefix}organ_labels, --{prefix}tumor_labels"
    if others and not classes.any():
        raise VolumeError(f"{path}: must hold organ {list(organ)} or tumour {list(tumor)}, got only {listed}; name its values: {options}")
    return classes, [f"{path.name}: values {listed} are neither organ nor tumour: taken as background (see {options})"] if others else []


def on_grid(path: Path, volume: Volume, reference: Volume) -> tuple[NDArray[Any], list[str]]:
    """A volume's voxels, RAS; where a header tells no place, one shape is taken to be one grid.

    Raises:
        VolumeError: The volume lies on another grid than the reference.
    """
    notes: list[str] = []
    if not (volume.placed and reference.placed) and volume.data.shape == reference.data.shape:
        volume = Volume(volume.data, reference.affine)
        notes.append(f"{path.name}: it or its reference gives no position (sform and qform codes are 0): one grid is assumed")
    ras, wanted = to_ras(volume), to_ras(reference)
    if not same_grid(ras, wanted):
        raise VolumeError(
            f"{path}: must lie on the grid of its reference, {_grid(wanted)}, got {_grid(ras)}; gpu-synth predict writes on the CT's own "
            "grid: take the CT that the reference was drawn on, or resample the prediction onto it"
        )
    return ras.data, notes


def _read_probability(path: Path, reference: Volume) -> NDArray[np.float32]:
    volume = read_nifti(path)
    values, _ = on_grid(path, volume, reference)
    least, most = float(values.min()), float(values.max())
    if not 0.0 <= least <= most <= 1.0:  # NaN is none of them
        raise VolumeError(f"{path}: must hold probabilities from 0 to 1, got {least:.3g} to {most:.3g}; write them after the softmax")
    return values.astype(np.float32)


def _grid(volume: Volume) -> str:
    shape = "×".join(map(str, volume.data.shape))
    spacing = "×".join(f"{mm:.3g}" for mm in volume.spacing_mm)
    origin = ", ".join(f"{mm:.1f}" for mm in volume.affine[:3, 3])
    return f"{shape} voxels of {spacing} mm from ({origin}) mm in RAS"

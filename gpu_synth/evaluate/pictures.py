"""Pictures of the scans that went worst: reference and prediction over the CT."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from gpu_synth.evaluate.case import Case, Settings, on_grid, read_prediction, read_reference
from gpu_synth.evaluate.pairing import Files
from gpu_synth.evaluate.summary import DSC_ORGAN, DSC_TUMOR
from gpu_synth.preview import (
    ABDOMEN_HU,
    AXIAL,
    CORONAL,
    ORGAN_COLOUR,
    PREDICTED_COLOUR,
    TUMOR_COLOUR,
    Column,
    columns_figure,
    fullest,
    organ_box,
)
from gpu_synth.volumes import AIR_HU, Volume, VolumeError, read_nifti, to_ras

WORST = 4
FLAT_HU = (-160.0, 40.0)  # what stands for background and organ where there is no CT


def worst(cases: Sequence[Case], model: int = 0) -> list[Case]:
    """The scans with the least tumour DSC, the worst first; where none holds a tumour, those with the least organ DSC."""
    metric = DSC_TUMOR if any(DSC_TUMOR.counts(case) for case in cases) else DSC_ORGAN
    counted = [case for case in cases if metric.counts(case)]
    return sorted(counted, key=lambda case: (metric.value(case.models[model]), case.name))[:WORST]


def picture(files: Files, settings: Settings, title: str) -> tuple[bytes, str]:
    """Draw a scan where reference and first prediction differ most, as PNG; and why there is no CT in it, if there is none.

    Args:
        files: The scan's.
        settings: How its masks are read.
        title: What stands above.
    """
    stored, _ = read_reference(files.reference, settings)
    reference = to_ras(stored)
    path = files.predictions[0]
    predicted = np.zeros_like(reference.data) if path is None else read_prediction(path, stored, settings)[0]
    hu, why = _ct(files, stored)
    organ, tumor = reference.data > 0, reference.data == 2
    back = np.where(organ, FLAT_HU[1], FLAT_HU[0]) if hu is None else hu
    shown = _shown(reference.data, predicted)
    masks = [(organ, ORGAN_COLOUR, 0.6), (tumor, TUMOR_COLOUR, 1.3)]
    ours = [(predicted > 0, ORGAN_COLOUR, 0.6), (predicted == 2, PREDICTED_COLOUR, 1.3)]
    columns = [Column("CT", back)] if hu is not None else []
    columns += [Column("reference", back, masks), Column("prediction", back, ours)]
    rows = [(AXIAL, fullest(shown, AXIAL)), (CORONAL, fullest(shown, CORONAL))]
    box = organ_box(organ | (predicted > 0), reference.spacing_mm)
    figure = columns_figure(columns, rows, box, reference.spacing_mm, ABDOMEN_HU, title)
    stream = BytesIO()
    figure.savefig(stream, format="png", facecolor=figure.get_facecolor())
    return stream.getvalue(), why


def _shown(reference: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """What the slices should cut: tumours that differ, else tumours, else what else there is."""
    differs: NDArray[np.bool_] = (reference == 2) != (predicted == 2)
    for mask in (differs, reference == 2, reference > 0):
        if mask.any():
            return mask
    return predicted > 0


def _ct(files: Files, stored: Volume) -> tuple[NDArray[np.float32] | None, str]:
    """The CT in HU, or why there is none."""
    if files.image is None:
        return None, "no CT was given: --images"
    try:
        volume = read_nifti(files.image)
        data, _ = on_grid(files.image, volume, stored)
    except VolumeError as error:
        return None, str(error)
    return np.nan_to_num(data.astype(np.float32), nan=AIR_HU, neginf=AIR_HU), ""

"""Pictures of the scans that went worst: reference and prediction over the CT."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from gpu_synth.evaluate.case import Case, Settings, on_grid, read_prediction, read_reference
from gpu_synth.evaluate.pairing import Files
from gpu_synth.evaluate.summary import DSC_ORGAN, DSC_TUMOR
from gpu_synth.formats import read_scan
from gpu_synth.preview.slices import (
    ABDOMEN_HU,
    APART_MM,
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
from gpu_synth.volumes import AIR_HU, Volume, VolumeError, to_ras

WORST = 4
FLAT_HU = (-160.0, 40.0)  # what stands for background and organ where there is no CT


def worst(cases: Sequence[Case], model: int = 0) -> list[Case]:
    """The scans with the least tumour DSC, the worst first; where none holds a tumour, those with the least organ DSC."""
    metric = DSC_TUMOR if any(DSC_TUMOR.counts(case) for case in cases) else DSC_ORGAN
    counted = [case for case in cases if metric.counts(case)]
    return sorted(counted, key=lambda case: (metric.value(case.models[model]), case.name))[:WORST]


def picture(files: Files, settings: Settings) -> tuple[bytes, str]:
    """Draw a scan where the first model misses most and where it invents most, as PNG; and say why there is no CT in it, if so."""
    stored, _ = read_reference(files, settings)
    reference = to_ras(stored)
    path = files.predictions[0]
    predicted = np.zeros_like(reference.data) if path is None else read_prediction(path, stored, settings)[0]
    hu, why = _ct(files, stored, settings.series)
    organ, tumor = reference.data > 0, reference.data == 2
    back = np.where(organ, FLAT_HU[1], FLAT_HU[0]) if hu is None else hu
    masks = [(organ, ORGAN_COLOUR, 0.6), (tumor, TUMOR_COLOUR, 1.3)]
    ours = [(predicted > 0, ORGAN_COLOUR, 0.6), (predicted == 2, PREDICTED_COLOUR, 1.3)]
    columns = [Column("CT", back)] if hu is not None else []
    columns += [Column("reference", back, masks), Column("prediction", back, ours)]
    box = organ_box(organ | (predicted > 0), reference.spacing_mm)
    figure = columns_figure(columns, _rows(reference.data, predicted, reference.spacing_mm), box, reference.spacing_mm, ABDOMEN_HU, "")
    stream = BytesIO()
    figure.savefig(stream, format="png", facecolor=figure.get_facecolor())
    return stream.getvalue(), why


def _rows(reference: NDArray[np.uint8], predicted: NDArray[np.uint8], spacing_mm: Sequence[float]) -> list[tuple[int, int]]:
    """Axial slices through the tumour missed and, where that is elsewhere, the tumour invented; a coronal one through the first of them."""
    missed, invented = (reference == 2) & (predicted != 2), (predicted == 2) & (reference != 2)
    cut = [mask for mask in (missed, invented) if mask.any()]
    cut = cut or [next((mask for mask in (reference == 2, reference > 0) if mask.any()), predicted > 0)]
    axial = [fullest(mask, AXIAL) for mask in cut]
    axial = axial[:1] if abs(axial[0] - axial[-1]) * spacing_mm[AXIAL] < APART_MM else sorted(axial)
    return [*((AXIAL, k) for k in axial), (CORONAL, fullest(cut[0], CORONAL))]


def _ct(files: Files, stored: Volume, series: str | None) -> tuple[NDArray[np.float32] | None, str]:
    """The CT in HU, or why there is none."""
    if files.image is None:
        return None, "no CT was given: --images"
    try:
        volume, _ = read_scan(files.image, series)
        data, _ = on_grid(files.image, volume, stored)
    except VolumeError as error:
        return None, str(error)
    return np.nan_to_num(data.astype(np.float32), nan=AIR_HU, neginf=AIR_HU), ""

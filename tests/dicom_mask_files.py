"""Small made-up RTSTRUCTs, written by pydicom, and DICOM-SEGs, written by highdicom."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from dicom_files import FRAME_OF_REFERENCE, LPS, blank
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RTStructureSetStorage, generate_uid


def ellipse_contours(centre_mm, radii_mm, heights_mm, points=720):
    """An ellipsoid's outlines at some heights, in RAS millimetres: what its voxels are inside of."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    out = []
    for z in heights_mm:
        share = 1 - ((z - centre_mm[2]) / radii_mm[2]) ** 2
        if share > 0:
            x, y = (centre_mm[n] + radii_mm[n] * np.sqrt(share) * f(angle) for n, f in enumerate((np.cos, np.sin)))
            out.append(np.stack([x, y, np.full_like(x, z)], -1))
    return out


def write_rtstruct(path: Path, rois, series_uid="1.2.3", frame_of_reference=FRAME_OF_REFERENCE, kind="CLOSED_PLANAR") -> Path:
    """Write contours (RAS millimetres) by ROI name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = blank(RTStructureSetStorage, generate_uid())
    dataset.Modality, dataset.SeriesDescription = "RTSTRUCT", "Contours"
    del dataset.FrameOfReferenceUID
    series, study, reference = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = series_uid
    study.RTReferencedSeriesSequence = Sequence([series])
    reference.FrameOfReferenceUID, reference.RTReferencedStudySequence = frame_of_reference, Sequence([study])
    dataset.ReferencedFrameOfReferenceSequence = Sequence([reference])
    names, drawn = [], []
    for number, (name, contours) in enumerate(rois.items(), 1):
        roi, item, lines = Dataset(), Dataset(), []
        roi.ROINumber, roi.ROIName, item.ReferencedROINumber = number, name, number
        for points in contours:
            line = Dataset()
            line.ContourGeometricType, line.NumberOfContourPoints = kind, len(points)
            line.ContourData = [f"{x:.8g}" for x in (points @ LPS[:3, :3]).ravel()]
            lines.append(line)
        if lines:
            item.ContourSequence = Sequence(lines)
        names.append(roi)
        drawn.append(item)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Sequence(names), Sequence(drawn)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_seg(path: Path, masks, files, kind="BINARY", **how) -> Path:
    """Write masks (i, j, k), in the order of the files' slices, by segment name; empty slices are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = [pydicom.dcmread(file) for file in files]
    organ = CodedConcept("123037004", "SCT", "Anatomical Structure")
    algorithm = hd.AlgorithmIdentificationSequence("by hand", organ, "1")
    segments = [
        hd.seg.SegmentDescription(n, name, organ, organ, hd.seg.SegmentAlgorithmTypeValues.MANUAL, algorithm)
        for n, name in enumerate(masks, 1)
    ]
    arrays = np.stack([np.moveaxis(mask, (0, 1, 2), (2, 1, 0)) for mask in masks.values()], -1)
    seg = hd.seg.Segmentation(
        source,
        arrays.astype(np.uint8 if kind == "BINARY" else np.float32),
        kind,
        segments,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="1",
        device_serial_number="1",
        **how,
    )
    seg.save_as(path)
    return path

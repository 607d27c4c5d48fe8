"""Small made-up CT series as DICOM files, written by pydicom."""

from pathlib import Path

import numpy as np
from ct_files import affine, ct
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
STUDY, FRAME_OF_REFERENCE = generate_uid(), generate_uid()


def dicom_affine(ras=None):
    """Affine, voxel to RAS millimetres, of the array that `write_series` writes: i towards left, j towards posterior."""
    return LPS @ (affine() if ras is None else ras)


def to_slices(data):
    """RAS data as the array (i, j, k) whose i runs towards left and j towards posterior, as an axial scan is stored."""
    return data[::-1, ::-1]


def write_series(
    folder: Path,
    data=None,
    at=None,
    *,
    uid=None,
    intercept=-1024,
    slope=1,
    signed=False,
    skip=(),
    prefix="slice",
    first=0,
    **elements,
) -> list[Path]:
    """Write an array (i, j, k) of HU, with its affine to RAS millimetres, as a file a slice, in a scrambled order of names.

    Without an array, `ct()` as an axial scan. `elements` are set in every file; a callable gets k; None deletes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, at = (to_slices(ct()), axial_affine()) if data is None else (data, at)
    lps = LPS @ at
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    uid = uid or generate_uid()
    names = np.random.default_rng(0).permutation(data.shape[2])
    paths = []
    for k in range(data.shape[2]):
        if k in skip:
            continue
        dataset = blank(CTImageStorage, uid)
        dataset.ImagePositionPatient = [f"{x:.10g}" for x in lps[:3, 3] + k * lps[:3, 2]]
        dataset.ImageOrientationPatient = [f"{x:.10g}" for x in (lps[:3, :2] / spacing[:2]).T.ravel()]
        dataset.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
        dataset.SliceThickness = f"{spacing[2]:.10g}"
        dataset.InstanceNumber = int(names[k]) + 1
        dataset.RescaleSlope, dataset.RescaleIntercept = str(slope), str(intercept)
        _pixels(dataset, data[..., k].T, slope, intercept, signed)
        _set(dataset, elements, k)
        paths.append(folder / f"{prefix}-{first + names[k]:03d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_enhanced(path: Path, data, at, intercept=-1024, slope=1) -> Path:
    """Write the array as one multi-frame file, its frames from the last to the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = LPS @ at
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    dataset = blank(EnhancedCTImageStorage, generate_uid())
    order = range(data.shape[2])[::-1]
    dataset.NumberOfFrames = data.shape[2]
    measures, orientation, values = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [float(spacing[1]), float(spacing[0])], float(spacing[2])
    orientation.ImageOrientationPatient = (lps[:3, :2] / spacing[:2]).T.ravel().tolist()
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, intercept, "HU"
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    shared.PixelValueTransformationSequence = Sequence([values])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k in order:
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = (lps[:3, 3] + k * lps[:3, 2]).tolist()
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    _pixels(dataset, np.stack([data[..., k].T for k in order]), slope, intercept, signed=False)
    dataset.save_as(path, enforce_file_format=True)
    return path


def axial_affine(ras=None, shape=None):
    """The affine of `to_slices(data)`, where `ras` is that of the RAS data."""
    ras = affine() if ras is None else ras
    shape = ct().shape if shape is None else shape
    turned = ras.copy()
    turned[:3, :2] *= -1
    turned[:3, 3] += ras[:3, :2] @ (np.array(shape[:2]) - 1)
    return turned


def blank(kind, uid) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, kind, generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = STUDY, uid, FRAME_OF_REFERENCE
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Doe^Jane", "1", "CT"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.SeriesNumber = "20200101", "120000", "1", 2
    dataset.PatientBirthDate, dataset.PatientSex, dataset.AccessionNumber = "", "", ""
    dataset.SeriesDescription, dataset.ImageType = "Portal venous 3.0", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientPosition = "HFS"
    return dataset


def _pixels(dataset, hu, slope, intercept, signed) -> None:
    """Store HU, which must be such as slope and intercept can give."""
    stored = np.rint((hu.astype(np.float64) - intercept) / slope)
    dtype = np.int16 if signed else np.uint16
    assert np.iinfo(dtype).min <= stored.min() <= stored.max() <= np.iinfo(dtype).max
    *_, dataset.Rows, dataset.Columns = hu.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = (
        16,
        16 if signed else 13,
        15 if signed else 12,
        int(signed),
    )
    dataset.PixelData = stored.astype(dtype).tobytes()


def _set(dataset, elements, k) -> None:
    for keyword, value in elements.items():
        value = value(k) if callable(value) else value
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)

"""References as RTSTRUCT or DICOM-SEG: scored as the same masks in NIfTI are, with the CT as DICOM or not there at all."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from ct_files import CENTRE_MM, RADII_MM, affine, organ, positions_mm, write
from dicom_files import to_slices, write_series
from dicom_mask_files import ellipse_contours, write_rtstruct, write_seg

from gpu_synth.cli import main
from gpu_synth.evaluate.run import evaluate

TUMOR_MM = np.array([9.0, 8.0, 12.0])
NAMES = {"organ_names": ("liver",), "tumor_names": ("Tumour",)}


def ball(share=1.0):
    """A tumour in the organ's middle."""
    return ((((positions_mm() - CENTRE_MM) / (share * TUMOR_MM)) ** 2).sum(-1) < 1).astype(np.uint8)


def score(folder, **options):
    where = {name: str(folder / name) for name in ("predictions", "references", "out")}
    return evaluate(**{**where, "images": str(folder / "images"), **options})["scores"]["predictions"]


@pytest.fixture
def patient(tmp_path):
    """One patient's CT as DICOM, a prediction that finds part of the tumour, and the files of the CT, by height."""
    files = write_series(tmp_path / "images" / "a", uid="1.2.3")
    write(tmp_path / "predictions" / "a_seg.nii.gz", organ() + ball(0.7), orientation="LPS")
    return tmp_path, sorted(files, key=lambda path: float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]))


def as_nifti(folder, label=None):
    """The same as NIfTI, on its own."""
    write(folder / "nifti" / "a_liver.nii.gz", organ() + ball() if label is None else label)
    return score(folder, references=str(folder / "nifti"), images=None, out=str(folder / "out-nifti"))


@pytest.mark.parametrize("ct", ["as DICOM", "beside the mask", "not there"])
def test_a_dicom_seg_is_scored_as_the_same_mask_in_nifti(patient, ct):
    folder, files = patient
    where = folder / "images" / "a" / "seg.dcm" if ct == "beside the mask" else folder / "references" / "a.dcm"
    write_seg(where, {"Liver": to_slices(organ()), "Tumour": to_slices(ball())}, files)
    how = {"references": str(folder / "images")} if ct == "beside the mask" else {"images": None} if ct == "not there" else {}
    got, expected = score(folder, **NAMES, **how), as_nifti(folder)
    assert got.keys() == expected.keys()
    for name in ("dsc_tumor", "nsd_tumor", "dsc_organ", "nsd_organ", "lesions_found", "false_positives_per_scan"):
        assert got[name]["value"] == pytest.approx(expected[name]["value"], abs=1e-6), "NIfTI writes the spacing as float32"
    assert got["dsc_organ"]["value"] == 1.0
    assert 0.3 < got["dsc_tumor"]["value"] < 0.7
    page = (folder / "out" / "report.html").read_text()
    assert ("no CT was given: --images" in page) == (ct == "not there")
    assert "of references that are DICOM, ['liver'] and ['Tumour']" in page


def test_contours_are_scored_on_their_cts_grid(patient):
    folder, _ = patient
    heights_mm = affine()[2, 3] + 3.0 * np.arange(23)
    contours = {"Liver": ellipse_contours(CENTRE_MM, RADII_MM, heights_mm), "Tumour": ellipse_contours(CENTRE_MM, TUMOR_MM, heights_mm)}
    write_rtstruct(folder / "references" / "a" / "rt.dcm", contours)
    got, expected = score(folder, **NAMES), as_nifti(folder)
    assert got["dsc_tumor"]["value"] == pytest.approx(expected["dsc_tumor"]["value"], abs=0.01), "voxels whose centres lie on the line"
    assert got["dsc_organ"]["value"] == pytest.approx(1.0, abs=0.001)


def test_a_case_that_cannot_be_drawn_is_refused_by_name(patient, capsys):
    folder, files = patient
    write_seg(folder / "references" / "a.dcm", {"Liver": to_slices(organ())}, files)
    write_seg(folder / "references" / "b.dcm", {"Liver": to_slices(organ())}, files)
    arguments = [f"--{name}={folder / name}" for name in ("predictions", "references", "out")]
    assert main(["evaluate", *arguments, "--organ_names", "Liver"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "b.dcm: must have its CT, whose grid it is drawn on, got neither CT nor prediction; name the CTs: --images" in said
    assert main(["evaluate", *arguments, "--organ_names", "Spleen"]) == 2
    error = capsys.readouterr().err
    assert "a.dcm: must hold one of ['Spleen'], got 'Liver'; name the organ's: --organ_names '[Liver]'" in error


def test_a_prediction_on_another_grid_than_the_dicom_ct_is_refused(patient):
    folder, files = patient
    write_seg(folder / "references" / "a.dcm", {"Liver": to_slices(organ())}, files)
    nib.save(nib.Nifti1Image(organ(), affine(origin_mm=(0, 0, 0))), folder / "predictions" / "a_seg.nii.gz")
    with pytest.raises(ValueError, match=r"a_seg\.nii\.gz: must lie on the grid of its reference"):
        score(folder, **NAMES)

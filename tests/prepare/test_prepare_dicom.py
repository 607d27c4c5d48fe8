"""`gpu-synth prepare` on DICOM: the same files as from NIfTI; where nothing is resampled, every voxel and the affine as they were."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from ct_files import CENTRE_MM, RADII_MM, affine, ct, organ, positions_mm, real_ct, write
from dicom_files import axial_affine, to_slices, write_series
from dicom_mask_files import ellipse_contours, write_rtstruct, write_seg

from gpu_synth.cli import main
from gpu_synth.grids import to_native
from gpu_synth.manifest import load_case
from gpu_synth.phantom import phantom
from gpu_synth.prepare.run import prepare
from gpu_synth.volumes import read_nifti, to_ras

OWN_MM = (1.4, 1.1, 3.0)
LIVER = ellipse_contours(CENTRE_MM, RADII_MM, affine()[2, 3] + 3.0 * np.arange(23))


def run(folder: Path, **how):
    return prepare(**{"images": folder / "images", "labels": folder / "labels", "out": folder / "out", "spacing_mm": OWN_MM} | how)


def write_dicom_case(folder: Path, name="a", **how) -> None:
    write_series(folder / "images" / name, uid="1.2.3", **how)
    write(folder / "labels" / f"{name}.nii.gz", organ())


def whole(manifest, name="a") -> tuple[np.ndarray, ...]:
    """Image, label and affine as they lie on disk."""
    image, label = (nib.load(manifest.root / name / f"{kind}.nii") for kind in ("image", "label"))
    return np.asarray(image.dataobj), np.asarray(label.dataobj), image.affine


@pytest.fixture(scope="module")
def from_nifti(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nifti")
    write(folder / "images" / "a.nii", ct())
    write(folder / "labels" / "a.nii", organ())
    return {spacing: whole(run(folder, spacing_mm=spacing)) for spacing in (OWN_MM, (2.0, 1.5, 4.0))}


@pytest.mark.parametrize("mask", ["NIfTI", "RTSTRUCT", "SEG", "SEG beside the CT"])
@pytest.mark.parametrize("spacing_mm", [OWN_MM, (2.0, 1.5, 4.0)])
def test_dicom_gives_the_same_files_as_nifti(tmp_path, from_nifti, mask, spacing_mm):
    write_dicom_case(tmp_path)
    how = {"spacing_mm": spacing_mm}
    if mask != "NIfTI":
        (tmp_path / "labels" / "a.nii.gz").unlink()
        how["organ_names"] = ("Liver",)
        slices = sorted((tmp_path / "images" / "a").iterdir(), key=_height)
        if mask == "RTSTRUCT":
            write_rtstruct(tmp_path / "labels" / "a" / "rt.dcm", {"Liver": LIVER})
        elif mask == "SEG":
            write_seg(tmp_path / "labels" / "a.dcm", {"Liver": to_slices(organ())}, slices)
        else:
            write_seg(tmp_path / "images" / "a" / "seg" / "a.dcm", {"Liver": to_slices(organ())}, slices)
            how["labels"] = tmp_path / "images"
    manifest = run(tmp_path, **how)
    assert not manifest.refused
    assert not manifest.cases[0].warnings
    image, label, at = whole(manifest)
    np.testing.assert_array_equal(image, from_nifti[spacing_mm][0])
    np.testing.assert_array_equal(at, from_nifti[spacing_mm][2])
    # NIfTI writes the spacing as float32, which tips voxels of which just one half is organ
    assert np.count_nonzero(label != from_nifti[spacing_mm][1]) <= (0 if spacing_mm == OWN_MM else 5)


def _height(path: Path) -> float:
    return float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])


def check_exact(manifest, name: str, series: Path, data: np.ndarray, at: np.ndarray, mask: np.ndarray) -> None:
    """Nothing was resampled: RAS data, affine and mask are in the prepared files, by nibabel and by SimpleITK, as in the DICOM series."""
    image, label = (nib.load(manifest.root / name / f"{kind}.nii") for kind in ("image", "label"))
    np.testing.assert_array_equal(np.asarray(image.dataobj), data)
    np.testing.assert_array_equal(np.asarray(label.dataobj), mask)
    np.testing.assert_array_equal(image.affine, at.astype(np.float32))  # what NIfTI stores
    np.testing.assert_array_equal(label.affine, image.affine)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    source, prepared = sitk.DICOMOrient(reader.Execute(), "RAS"), sitk.ReadImage(str(manifest.root / name / "image.nii"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(prepared), np.clip(sitk.GetArrayFromImage(source), -1024, 3071))
    np.testing.assert_allclose(prepared.GetSpacing(), source.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(prepared.GetOrigin(), source.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(prepared.GetDirection(), source.GetDirection(), atol=1e-6)


def test_where_nothing_is_resampled_voxels_and_affine_are_exact(tmp_path):
    write_dicom_case(tmp_path)
    check_exact(run(tmp_path), "a", tmp_path / "images" / "a", ct(), affine(), organ())


@pytest.mark.parametrize(("uid", "phase"), [(0, "venous"), (1, "none")])
def test_a_phantom_goes_through_dicom_unchanged(tmp_path, uid, phase):
    spacing_mm = (3.0, 2.5, 4.0)
    drawn = phantom(uid, (100, 90, 52), spacing_mm, phase=phase)
    hu, mask = np.rint(drawn.image[0, 0].numpy()).astype(np.int16), drawn.label[0, 0].numpy()
    at = affine(spacing_mm, (-150.0, -110.0, 40.0))
    files = write_series(tmp_path / "images" / "p", to_slices(hu), axial_affine(at, hu.shape), intercept=-2048)
    write_seg(tmp_path / "labels" / "p.dcm", {"Liver": to_slices(mask)}, files)
    manifest = run(tmp_path, organ_names=("liver",), spacing_mm=spacing_mm)
    check_exact(manifest, "p", tmp_path / "images" / "p", np.clip(hu, -1024, 3071), at, mask)
    assert manifest.cases[0].contrast == (phase == "venous")


@pytest.mark.real_ct
@pytest.mark.parametrize("name", ["ccth_a01", "totalseg_example", "chaos_ctset3"])
def test_a_real_ct_goes_through_dicom_unchanged(tmp_path, name):
    folder = real_ct()
    scan, mask = (to_ras(read_nifti(folder / f"{name}_{kind}.nii.gz")) for kind in ("ct", "liver"))
    hu = np.clip(scan.data, -3024, 4000)
    files = write_series(tmp_path / "images" / name, to_slices(hu), axial_affine(scan.affine, hu.shape), intercept=-3024)
    write_seg(tmp_path / "labels" / f"{name}.dcm", {"Liver": to_slices(mask.data > 0)}, files)
    manifest = run(tmp_path, organ_names=("liver",), spacing_mm=scan.spacing_mm)
    assert not manifest.refused
    image = nib.load(manifest.root / name / "image.nii")
    np.testing.assert_allclose(image.affine, scan.affine, atol=2e-4)  # DICOM writes ten digits, NIfTI seven
    check_exact(manifest, name, tmp_path / "images" / name, np.clip(hu, -1024, 3071), image.affine, mask.data > 0)
    assert manifest.cases[0].contrast == (name == "chaos_ctset3")


@pytest.mark.parametrize("kind", ["NIfTI", "RTSTRUCT"])
def test_a_tilted_gantry_is_set_upright(tmp_path, kind):
    at = axial_affine()
    at[1, 2] = 3 * np.tan(np.deg2rad(12))
    shape = (41, 60, 23)  # the organ stays inside
    write_series(tmp_path / "images" / "a", ct(shape, at), at)
    write(tmp_path / "labels" / "a.nii", organ(shape, at), at)
    how = {}
    if kind == "RTSTRUCT":
        (tmp_path / "labels" / "a.nii").unlink()
        write_rtstruct(tmp_path / "labels" / "a.dcm", {"Liver": LIVER})
        how["organ_names"] = ("Liver",)
    manifest = run(tmp_path, spacing_mm=(1.0, 1.0, 1.0), **how)
    (case,) = manifest.cases
    assert "; ".join(case.warnings) == "the axes are not perpendicular (a gantry tilted by 12.0°): resampled onto perpendicular ones"
    image, label, _ = load_case(manifest, case)
    prepared = nib.load(manifest.root / case.image).affine
    np.testing.assert_allclose(prepared[:3, :3], np.eye(3), atol=1e-6)
    where = positions_mm(case.shape, prepared)
    inside = label[0].numpy() > 0
    np.testing.assert_allclose(where[inside].mean(0), CENTRE_MM, atol=0.5)
    assert case.organ_ml == pytest.approx(4 / 3 * np.pi * RADII_MM.prod() / 1000, rel=0.05)
    core = np.linalg.norm((where - CENTRE_MM) / RADII_MM, axis=-1) < 0.7
    np.testing.assert_allclose(image[0].numpy()[core], 60 + (where[core] - CENTRE_MM) @ [1.0, -2.0, 0.5], atol=1.6)
    assert sitk.ReadImage(str(manifest.root / case.image)).GetSize() == case.shape  # SimpleITK refuses sheared files


def test_a_bad_series_is_refused_by_name_and_the_others_go_on(tmp_path):
    for name in ("good", "gap", "cut", "many", "slice"):
        write_dicom_case(tmp_path, name, skip=(9,) if name == "gap" else range(1, 23) if name == "slice" else ())
    write_series(tmp_path / "images" / "many" / "thin", uid="1.2.9", SeriesDescription="Thin")
    path = sorted((tmp_path / "images" / "cut").iterdir())[5]
    path.write_bytes(path.read_bytes()[:-500])
    manifest = run(tmp_path)
    assert [case.name for case in manifest.cases] == ["good"]
    said = {
        "gap": "no slice must be missing",
        "cut": f"{path.name}: its pixels",
        "many": "name one by --series",
        "slice": "at least 2 slices",
    }
    assert {name for name, why in manifest.refused if said[name] in why} == set(said)
    assert all(why.startswith(str(tmp_path / "images" / name)) for name, why in manifest.refused)
    assert {name for name, _ in run(tmp_path, series="thin").refused} == {"good", "gap", "cut", "slice"}
    again = run(tmp_path, series="Portal")
    assert {case.name for case in again.cases} == {"good", "many"}
    for many, good in zip(whole(again, "many"), whole(again, "good"), strict=True):
        np.testing.assert_array_equal(many, good)


def test_a_slice_that_changed_or_was_added_makes_the_case_anew(tmp_path):
    write_dicom_case(tmp_path)
    first = run(tmp_path)
    stamp = (first.root / "a" / "image.nii").stat().st_mtime_ns
    slices = sorted((tmp_path / "images" / "a").iterdir())
    for path in slices:
        path.rename(path.with_suffix(".ima"))  # other names, the same content
    assert run(tmp_path).cases == first.cases
    assert (first.root / "a" / "image.nii").stat().st_mtime_ns == stamp
    for path in slices:
        path.with_suffix(".ima").unlink()
    write_series(tmp_path / "images" / "a", to_slices(ct() + 5), axial_affine(), uid="1.2.3")
    assert run(tmp_path).cases[0].organ_mean_hu == pytest.approx(first.cases[0].organ_mean_hu + 5)


def test_folders_and_globs_of_dicom_are_found(tmp_path):
    write_dicom_case(tmp_path, "p1")
    write_series(tmp_path / "patients" / "p1" / "study" / "ct", uid="1.2.3")
    write_rtstruct(tmp_path / "patients" / "p1" / "study" / "rt" / "rt.dcm", {"Liver": LIVER})
    (tmp_path / "patients" / "empty").mkdir()
    ways = [
        {"images": tmp_path / "images" / "p1", "labels": tmp_path / "labels" / "p1.nii.gz"},
        {"images": f"{tmp_path}/patients/*/study/ct", "labels": f"{tmp_path}/labels/*.nii.gz"},
        {"images": f"{tmp_path}/patients/*", "labels": f"{tmp_path}/patients/*/study/rt", "organ_names": ("Liver",)},
        {"images": tmp_path / "patients", "labels": tmp_path / "patients", "organ_names": ("Liver",)},
    ]
    found = [run(tmp_path, **way) for way in ways]
    assert [[case.name for case in manifest.cases] for manifest in found] == [["p1"]] * 4
    with pytest.raises(ValueError, match=r"labels must be a folder of \.nii or \.nii\.gz files or of DICOM folders"):
        run(tmp_path, labels=tmp_path / "patients" / "empty")


def test_a_damaged_file_does_not_hide_the_others(tmp_path):
    for name in "ab":
        write_dicom_case(tmp_path, name)
        (tmp_path / "labels" / f"{name}.nii.gz").unlink()
        write_rtstruct(tmp_path / "labels" / f"{name}.dcm", {"Liver": LIVER})
    (tmp_path / "labels" / "a.dcm").write_bytes(b"")
    manifest = run(tmp_path, organ_names=("Liver",))
    assert [case.name for case in manifest.cases] == ["b"]
    assert manifest.refused[0][1].startswith(f"{tmp_path}/labels/a.dcm: is no readable DICOM file")


def test_files_may_lack_an_ending(tmp_path):
    """As they come from archives: a mask is known by its mark."""
    write_dicom_case(tmp_path)
    (tmp_path / "labels" / "a.nii.gz").unlink()
    write_rtstruct(tmp_path / "labels" / "a", {"Liver": LIVER})
    for path in (tmp_path / "images" / "a").iterdir():
        path.rename(path.with_suffix(""))
    (case,) = run(tmp_path, organ_names=("Liver",)).cases
    assert case.organ_ml == pytest.approx(4 / 3 * np.pi * RADII_MM.prod() / 1000, rel=0.05)


def test_a_prediction_goes_back_onto_the_grid_of_its_dicom_scan(tmp_path):
    write_dicom_case(tmp_path)
    manifest = run(tmp_path, spacing_mm=(1.0, 1.0, 1.0))
    _, label, _ = load_case(manifest, "a")
    native = to_native(label[0].numpy(), nib.load(manifest.root / "a" / "label.nii").affine, tmp_path / "images" / "a")
    np.testing.assert_allclose(native.affine, axial_affine(), atol=1e-6)
    both = 2 * (native.data & to_slices(organ())).sum() / (native.data.sum() + organ().sum())
    assert both > 0.97


def test_a_mask_without_a_place_is_no_mask_of_a_dicom_scan(tmp_path):
    write_dicom_case(tmp_path)
    image = nib.Nifti1Image(organ(), None)
    nib.save(image, tmp_path / "labels" / "a.nii.gz")
    ((_, why),) = run(tmp_path).refused
    assert "header must give position and orientation" in why


def test_what_the_command_line_says(tmp_path, capsys, monkeypatch):
    files = write_series(tmp_path / "images" / "a")
    write_seg(tmp_path / "labels" / "a.dcm", {"Liver": to_slices(organ()), "Left kidney": to_slices(organ())}, files)
    options = [
        "prepare",
        "--images",
        f"{tmp_path}/images",
        "--labels",
        f"{tmp_path}/labels",
        "--out",
        f"{tmp_path}/out",
        "--spacing_mm=2,2,3",
    ]
    assert main(options) == 1
    assert "got 'Liver', 'Left kidney'; name the organ's: --organ_names '[Liver]'" in capsys.readouterr().out
    assert main([*options, "--organ_names", "[Liver]"]) == 0
    assert main([*options, "--organ_names", "left kidney, right kidney"]) == 0
    monkeypatch.setitem(sys.modules, "highdicom.seg", None)
    assert main([*options, "--organ_names", "Left kidney"]) == 2
    assert "pip install 'gpu-synth[dicom]'" in capsys.readouterr().err

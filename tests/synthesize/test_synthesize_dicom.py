"""DICOM through prepare and synthesize, re-read by nibabel and SimpleITK: the scan's own voxels outside the organ, the affine exact."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from ct_files import affine, real_ct, write
from dicom_files import axial_affine, to_slices, write_series

from gpu_synth.phantom import phantom
from gpu_synth.prepare.run import prepare
from gpu_synth.synthesize.run import synthesize
from gpu_synth.volumes import Volume, read_nifti, to_ras

LPS = np.array([-1.0, -1.0, 1.0])


def of_phantom():
    spacing_mm = (3.0, 2.5, 4.0)
    drawn = phantom(2, (110, 96, 50), spacing_mm, seed=1)
    at = affine(spacing_mm)
    return Volume(drawn.image[0, 0].numpy().astype(np.int16), at), Volume(drawn.label[0, 0].numpy().astype(np.uint8), at)


def of_file(name):
    scan, mask = (to_ras(read_nifti(real_ct() / f"{name}_{kind}.nii.gz")) for kind in ("ct", "liver"))
    return Volume(np.clip(scan.data, -1024, 3071).astype(np.int16), scan.affine), Volume(mask.data.astype(np.uint8), mask.affine)


@pytest.mark.parametrize(
    "name", ["phantom", *(pytest.param(name, marks=pytest.mark.real_ct) for name in ("ccth_a01", "totalseg_example", "chaos_ctset3"))]
)
def test_dicom_to_tumours_leaves_all_else_as_it_was(tmp_path, name):
    scan, mask = of_phantom() if name == "phantom" else of_file(name)
    write_series(tmp_path / "images" / name, to_slices(scan.data), axial_affine(scan.affine, scan.data.shape))
    write(tmp_path / "labels" / f"{name}.nii.gz", mask.data, at=mask.affine)
    where = {"images": tmp_path / "images", "labels": tmp_path / "labels", "out": tmp_path / "cache"}
    manifest = prepare(**where, spacing_mm=scan.spacing_mm)
    result = synthesize(out=str(tmp_path / "out"), data_dir=str(tmp_path / "cache"), preset="liver-hu2022")
    assert (result.made, result.refused) == ((f"{name}_v0",), ())
    made, label = (tmp_path / "out" / folder / f"{name}_v0.nii.gz" for folder in ("images", "labels"))
    new, new_label, prepared = nib.load(made), nib.load(label), nib.load(manifest.root / name / "image.nii")
    assert np.array_equal(new.affine, prepared.affine)
    np.testing.assert_allclose(new.affine, scan.affine, atol=2e-4)  # DICOM writes ten digits, NIfTI seven
    hu, tumor = np.asarray(new.dataobj), np.asarray(new_label.dataobj) == 2
    assert np.array_equal(hu[mask.data == 0], scan.data[mask.data == 0])
    assert (hu != scan.data)[tumor].mean() > 0.5
    assert not tumor[mask.data == 0].any()
    itk = sitk.ReadImage(str(made))
    assert np.array_equal(sitk.GetArrayViewFromImage(itk).T, hu)
    np.testing.assert_allclose(itk.GetOrigin(), LPS * new.affine[:3, 3], atol=1e-4)
    np.testing.assert_allclose(itk.GetSpacing(), scan.spacing_mm, atol=1e-5)

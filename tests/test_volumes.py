import gzip

import nibabel as nib
import numpy as np
import pytest
from ct_files import ORIENTATIONS, affine, ct, write

from gpu_synth.volumes import Volume, VolumeError, read_grid, read_nifti, save_nifti, to_hu, to_ras


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_any_orientation_comes_out_as_the_same_ras_volume(tmp_path, orientation):
    volume = to_ras(read_nifti(write(tmp_path / "ct.nii", ct(), orientation=orientation)))
    np.testing.assert_array_equal(volume.data, ct())
    np.testing.assert_allclose(volume.affine, affine(), atol=1e-4)
    assert volume.data.dtype == np.int16


def test_an_oblique_volume_keeps_its_rotation_and_its_voxels_their_place(tmp_path):
    angle = np.deg2rad(20)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    at = turned @ affine()
    volume = to_ras(read_nifti(write(tmp_path / "ct.nii", ct(), at=at, orientation="SPL")))
    np.testing.assert_array_equal(volume.data, ct())
    np.testing.assert_allclose(volume.affine, at, atol=1e-4)
    np.testing.assert_allclose(volume.spacing_mm, (1.4, 1.1, 3.0), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", ">i2", "i4", "i8", "f4", ">f4", "f8"])
def test_every_number_type_is_read(tmp_path, dtype):
    data = np.arange(60).reshape(3, 4, 5).astype(dtype)
    nib.save(nib.Nifti1Image(data, affine(), dtype=data.dtype), tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "x.nii.gz").data, data)


def test_scaled_files_are_read_in_hu(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint16)
    header.set_slope_inter(1, -1024)
    nib.save(nib.Nifti1Image(ct().astype(np.float32), affine(), header), tmp_path / "x.nii.gz")
    volume = read_nifti(tmp_path / "x.nii.gz")
    assert nib.load(tmp_path / "x.nii.gz").get_data_dtype() == np.uint16
    np.testing.assert_allclose(volume.data, ct(), atol=1)
    assert volume.data.dtype.itemsize <= 4


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 1), (3, 4, 5, 1, 1)])
def test_trailing_axes_of_one_are_dropped(tmp_path, shape):
    data = np.arange(60, dtype=np.int16).reshape(shape, order="F")
    nib.save(nib.Nifti1Image(data, affine()), tmp_path / "x.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "x.nii").data, data.reshape(3, 4, 5, order="F"))
    assert read_grid(tmp_path / "x.nii")[0] == (3, 4, 5)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5, 2), (3, 4, 1, 3)])
def test_other_dimensions_are_refused(tmp_path, shape):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), affine()), tmp_path / "odd.nii")
    with pytest.raises(VolumeError, match=r"odd\.nii: must hold one volume"):
        read_nifti(tmp_path / "odd.nii")


@pytest.mark.parametrize("dtype", [[("R", "u1"), ("G", "u1"), ("B", "u1")], "c8"], ids=["rgb", "complex"])
def test_colour_and_complex_numbers_are_refused(tmp_path, dtype):
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), dtype), affine()), tmp_path / "odd.nii")
    with pytest.raises(VolumeError, match=r"odd\.nii: must hold one number a voxel"):
        read_nifti(tmp_path / "odd.nii")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("left", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused_by_name(tmp_path, ending, left):
    path = write(tmp_path / f"cut{ending}", np.random.default_rng(0).integers(-1000, 1000, (20, 21, 22)).astype(np.int16))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(VolumeError, match=rf"cut{ending}: (cannot be read to its end|is no readable NIfTI)"):
        read_nifti(path)


def test_a_file_cut_within_its_checksum_or_with_a_flipped_bit_is_refused(tmp_path):
    path = write(tmp_path / "cut.nii.gz", ct())
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(VolumeError, match="cannot be read to its end"):
        read_nifti(path)
    content = bytearray(gzip.decompress(whole))
    content[2000] ^= 1
    path.write_bytes(gzip.compress(bytes(content))[:-8] + whole[-8:])
    with pytest.raises(VolumeError, match="cannot be read to its end"):
        read_nifti(path)


@pytest.mark.parametrize("content", [b"", b"not a scan", gzip.compress(b"not a scan"), b"\0" * 400], ids=["empty", "text", "gz", "zeros"])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.txt"])
def test_what_is_no_nifti_is_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VolumeError, match=rf"{name}: "):
        read_nifti(tmp_path / name)


def test_missing_files_folders_and_other_formats_are_refused(tmp_path):
    nib.save(nib.MGHImage(np.zeros((3, 4, 5), np.float32), np.eye(4)), tmp_path / "x.mgz")
    for name, why in {"none.nii": "no such file", ".": "got a folder", "x.mgz": "must be a .nii"}.items():
        with pytest.raises(VolumeError, match=why):
            read_nifti(tmp_path / name)


@pytest.mark.parametrize("spacing_mm", [(0.0, 1, 1), (1, 1, 0.001), (1, 1, 500.0), (np.nan, 1, 1)])
def test_impossible_spacing_is_refused(tmp_path, spacing_mm):
    image = nib.Nifti1Image(ct(), None)
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = np.diag([*spacing_mm, 1])[:3]
    image.header["sform_code"] = 1
    with (tmp_path / "x.nii").open("wb") as stream:
        image.header.set_data_offset(352)
        stream.write(image.header.binaryblock + bytes(4) + ct().tobytes(order="F"))
    with pytest.raises(VolumeError, match=r"x\.nii: voxel spacing must lie within"):
        read_nifti(tmp_path / "x.nii")


def test_padding_nan_and_metal_become_hu_and_are_told():
    data = ct().astype(np.float64)
    data[:3, 0, 0] = np.nan, np.inf, -np.inf
    data[:, -1] = -3024
    data[5, 5, 5:8] = 0.4, 0.6, 31743
    hu, notes = to_hu("x.nii", Volume(data, affine()))
    assert hu.data.dtype == np.int16
    assert hu.data[:3, 0, 0].tolist() == [-1024, 3071, -1024]
    assert hu.data[5, 5, 5:8].tolist() == [0, 1, 3071]
    assert (hu.data[:, -1] == -1024).all()
    untouched = np.isfinite(data) & (data >= -1024) & (data <= 3071)
    np.testing.assert_array_equal(hu.data[untouched], np.rint(data[untouched]))
    assert any(note.startswith("1 NaN voxels") for note in notes)
    assert any("padding" in note and "2.7 %" in note for note in notes)  # one of 37 rows


@pytest.mark.parametrize("data", [np.linspace(0, 1, 60), np.arange(60) * 4, np.zeros(60)], ids=["0-1", "0-255", "constant"])
def test_an_image_that_is_no_hu_is_refused(data):
    with pytest.raises(VolumeError, match=r"x\.nii: must be a CT in HU"):
        to_hu("x.nii", Volume(data.reshape(3, 4, 5), affine()))


def test_a_header_without_orientation_is_told(tmp_path):
    image = nib.Nifti1Image(ct(), affine())
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "x.nii")
    _, notes = to_hu("x.nii", read_nifti(tmp_path / "x.nii"))
    assert any("no orientation" in note for note in notes)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, bool])
def test_what_is_saved_is_read_back(tmp_path, ending, dtype):
    data = (np.arange(60).reshape(3, 4, 5) % 2).astype(dtype)
    save_nifti(tmp_path / f"x{ending}", data, affine())
    volume = read_nifti(tmp_path / f"x{ending}")
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, affine(), atol=1e-5)
    assert volume.placed
    assert volume.data.dtype == (np.uint8 if dtype is bool else dtype)
    assert [path.name for path in tmp_path.iterdir()] == [f"x{ending}"]


def test_a_write_that_fails_leaves_the_old_file_and_no_half_one(tmp_path, monkeypatch):
    save_nifti(tmp_path / "x.nii", np.ones((3, 4, 5), np.uint8), affine())

    def full(self, stream):
        stream.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", full)
    with pytest.raises(OSError, match="No space"):
        save_nifti(tmp_path / "x.nii", np.zeros((3, 4, 5), np.uint8), affine())
    assert [path.name for path in tmp_path.iterdir()] == ["x.nii"]
    assert read_nifti(tmp_path / "x.nii").data.all()
    with pytest.raises(ValueError, match=r"path must end in \.nii"):
        save_nifti(tmp_path / "x.png", np.zeros((3, 4, 5), np.uint8), affine())

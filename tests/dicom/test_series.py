"""A CT series as DICOM: the same voxels and the same affine as SimpleITK, and a reason where it makes no volume."""

import locale
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from ct_files import affine, ct
from dicom_files import LPS, axial_affine, to_slices, write_enhanced, write_series
from pydicom.pixels.decoders import JPEGLosslessSV1Decoder
from pydicom.uid import CTImageStorage, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless, generate_uid

from gpu_synth.dicom.series import find_series, read_series
from gpu_synth.volumes import VolumeError, to_ras


def by_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (i, j, k) and affine to RAS millimetres, as SimpleITK reads a folder or a file."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute() if folder.is_dir() else sitk.ReadImage(str(folder))
    at = np.eye(4)
    at[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    at[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, LPS @ at


def turned(degrees: float, axis: int, at=None) -> np.ndarray:
    """An affine turned about an axis of patient space."""
    turn, (a, b), angle = np.eye(4), [n for n in range(3) if n != axis], np.deg2rad(degrees)
    turn[a, a], turn[a, b], turn[b, a], turn[b, b] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return turn @ (affine() if at is None else at)


# How slices may lie: the array that is written, and its affine
STACKS = {
    "axial": (to_slices(ct()), axial_affine()),
    "prone": (ct()[..., ::-1], affine() @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 22], [0, 0, 0, 1.0]])),
    "coronal": (ct().transpose(0, 2, 1), affine()[:, [0, 2, 1, 3]]),
    "sagittal": (ct().transpose(1, 2, 0), affine()[:, [1, 2, 0, 3]]),
    "oblique": (to_slices(ct()), turned(17, 2, turned(8, 0, axial_affine()))),
}


@pytest.mark.parametrize("stack", STACKS)
def test_voxels_and_affine_are_those_of_simpleitk(tmp_path, stack):
    data, at = STACKS[stack]
    write_series(tmp_path, data, at)
    volume, notes = read_series(tmp_path)
    voxels, affine_itk = by_simpleitk(tmp_path)
    np.testing.assert_array_equal(volume.data, voxels)
    np.testing.assert_allclose(volume.affine, affine_itk, atol=1e-7)
    assert not notes
    # and, against what was written: every value where it was, whichever end the slices are counted from
    np.testing.assert_allclose(volume.spacing_mm, np.linalg.norm(at[:3, :3], axis=0), rtol=1e-8)
    flipped = np.linalg.det(at[:3, :3]) > 0  # (i, j, k) of DICOM are right-handed in left, posterior, superior
    np.testing.assert_array_equal(volume.data if flipped else volume.data[..., ::-1], data)


def test_ras_is_the_scan_itself(tmp_path):
    write_series(tmp_path)
    volume = to_ras(read_series(tmp_path)[0])
    np.testing.assert_array_equal(volume.data, ct())
    np.testing.assert_allclose(volume.affine, affine(), atol=1e-9)
    assert volume.data.dtype == np.int16


@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        ({"intercept": -3000}, np.int16),
        ({"slope": 2}, np.int16),
        ({"signed": True, "intercept": 0}, np.int16),
        ({"signed": True, "intercept": -1024}, np.int32),  # the headers allow −33792
        ({"slope": 0.5, "intercept": -1024.5}, np.float32),
    ],
)
def test_rescaled_values_are_those_of_simpleitk(tmp_path, how, dtype):
    data = ct() // 2 * 2 - (0.5 if how.get("slope") == 0.5 else 0)
    write_series(tmp_path, to_slices(data), axial_affine(), **how)
    volume, notes = read_series(tmp_path)
    np.testing.assert_array_equal(volume.data, to_slices(data))
    np.testing.assert_array_equal(volume.data, by_simpleitk(tmp_path)[0])
    assert volume.data.dtype == dtype
    assert not notes


def test_each_slice_has_its_own_rescale(tmp_path):
    write_series(tmp_path, RescaleIntercept=lambda k: str(-1024 + 10 * k))
    volume, _ = read_series(tmp_path)
    np.testing.assert_array_equal(volume.data, to_slices(ct()) + 10 * np.arange(23))
    np.testing.assert_array_equal(volume.data, by_simpleitk(tmp_path)[0])


def test_without_a_rescale_stored_values_are_hu_and_that_is_told(tmp_path):
    write_series(tmp_path, signed=True, intercept=0, RescaleSlope=None, RescaleIntercept=None)
    volume, notes = read_series(tmp_path)
    np.testing.assert_array_equal(volume.data, to_slices(ct()))
    assert notes == ["the headers give no rescale slope and intercept: stored values are taken as HU"]


def test_padding_that_would_look_like_metal_becomes_air(tmp_path):
    data = to_slices(ct()).copy()
    data[:2, :3] = 5000
    write_series(tmp_path, data, axial_affine(), PixelPaddingValue=6024)
    volume, notes = read_series(tmp_path)
    np.testing.assert_array_equal(volume.data, np.where(data == 5000, -1024, data))
    assert notes == [f"{2 * 3 * 23} voxels of padding set to -1024 HU"]


def test_a_tilted_gantry_makes_a_sheared_affine(tmp_path):
    at = axial_affine()
    at[1, 2] = 3 * np.tan(np.deg2rad(15))
    write_series(tmp_path, to_slices(ct()), at)
    volume, _ = read_series(tmp_path)
    np.testing.assert_array_equal(volume.data, to_slices(ct()))
    np.testing.assert_allclose(volume.affine, at, atol=1e-7)


def test_an_enhanced_file_is_its_frames_in_order(tmp_path):
    path = write_enhanced(tmp_path / "one.dcm", to_slices(ct()), axial_affine())
    for source in (path, tmp_path):
        volume, notes = read_series(source)
        np.testing.assert_array_equal(volume.data, to_slices(ct()))
        np.testing.assert_allclose(volume.affine, axial_affine(), atol=1e-9)
        assert not notes
    voxels, at = by_simpleitk(path)  # it takes frames as they come, here from the last
    np.testing.assert_array_equal(volume.data, voxels[..., ::-1])
    np.testing.assert_allclose(volume.affine[:3, :2], at[:3, :2], atol=1e-9)
    (series,) = find_series(tmp_path)
    assert (len(series.slices), series.files) == (23, (path,))


def compress(folder: Path, syntax: str) -> None:
    """Compress every file in place: by pydicom, or by GDCM through SimpleITK what it cannot."""
    locale_before = locale.setlocale(locale.LC_ALL)
    for path in sorted(folder.glob("*.dcm")):
        if syntax in (RLELossless, JPEGLSLossless):
            dataset = pydicom.dcmread(path)
            dataset.compress(syntax, generate_instance_uid=False)
            dataset.save_as(path)
            continue
        image, writer = sitk.ReadImage(str(path)), sitk.ImageFileWriter()
        writer.SetFileName(str(path))
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG" if syntax == JPEGLosslessSV1 else "JPEG2000")
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, locale_before)  # writing through SimpleITK leaves the process in "C", where text is ASCII


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless, RLELossless], ids=lambda uid: uid.name)
def test_compressed_pixels_are_the_same(tmp_path, syntax):
    paths = write_series(tmp_path)
    compress(tmp_path, syntax)
    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_series(tmp_path)[0].data, to_slices(ct()))


def test_without_a_decoder_the_package_is_named(tmp_path, monkeypatch):
    write_series(tmp_path)
    compress(tmp_path, JPEGLosslessSV1)
    monkeypatch.setattr(JPEGLosslessSV1Decoder, "_available", {})
    with pytest.raises(VolumeError, match=r"got JPEG Lossless.*pip install 'gpu-synth\[dicom\]' brings gdcm"):
        read_series(tmp_path)
    assert len(find_series(tmp_path)[0].slices) == 23  # headers need none


def test_series_are_found_with_subfolders_and_strangers_passed_over(tmp_path):
    write_series(tmp_path / "study" / "a", uid="1.2.3", skip=range(5, 23))
    write_series(tmp_path / "study" / "b", uid="1.2.4", SeriesDescription="Arterial 1.0", SeriesNumber=7)
    write_series(tmp_path / "study" / "a", uid="1.2.3", prefix="scout", skip=range(2, 23), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "study" / "pet", uid="1.2.5", Modality="PT")
    for name in ("notes.txt", "study/LICENSE", "study/.hidden.dcm", "__MACOSX/slice-000.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no DICOM")
    found = find_series(tmp_path)
    assert [(s.uid, s.modality, s.localizer, len(s.files)) for s in found] == [
        ("1.2.4", "CT", False, 23),
        ("1.2.3", "CT", False, 5),
        ("1.2.3", "CT", True, 2),
        ("1.2.5", "PT", False, 23),
    ]
    heights = [pydicom.dcmread(path).ImagePositionPatient[2] for path in found[0].files]
    assert heights == sorted(heights)
    with pytest.raises(
        VolumeError, match=r"(?s)must hold one CT series, got 2; give its own folder.*name one by --series.*Arterial 1.0.*Portal venous 3.0"
    ):
        read_series(tmp_path)
    for choose, slices in {"1.2.3": 5, "arterial": 23, "7": 23, "portal": 5}.items():
        assert read_series(tmp_path, choose)[0].data.shape[2] == slices
    for choose, n in {"delayed": 0, "0": 2, "1.2.5": 0}.items():
        with pytest.raises(VolumeError, match=rf"series must be that of one CT, got '{choose}', which fits {n} of"):
            read_series(tmp_path, choose)
    with pytest.raises(VolumeError, match="must be a CT, got PT"):
        read_series(found[3])


def test_a_copy_of_a_slice_counts_once(tmp_path):
    paths = write_series(tmp_path)
    for path in paths[4:7]:
        path.with_name(f"copy of {path.name}").write_bytes(path.read_bytes())
    volume, notes = read_series(tmp_path)
    np.testing.assert_array_equal(volume.data, to_slices(ct()))
    assert notes == ["3 slices are there twice, and alike: one of each is taken"]


def test_positions_that_were_rounded_make_an_even_stack_and_that_is_told(tmp_path):
    at = axial_affine()
    at[2, 2] = 1.25
    write_series(tmp_path, to_slices(ct()), at, ImagePositionPatient=lambda k: [-46, 10.4, f"{110 + 1.25 * k:.1f}"])
    volume, notes = read_series(tmp_path)
    assert volume.spacing_mm[2] == pytest.approx(1.25, abs=0.005)
    assert notes == ["slices lie up to 0.05 mm off even spacing: taken as even"]


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


# What is done to 23 slices, and what is said of it
FAULTS = {
    "missing": (
        lambda to: write_series(to, skip=(5, 11, 12)),
        r"no slice must be missing, got a gap for 1 after 122\.00 mm, 2 after 140\.00",
    ),
    "uneven": (
        lambda to: write_series(to, ImagePositionPatient=lambda k: [0, 0, 3 * k + 2 * max(0, k - 11)]),
        r"must be evenly spaced, got distances from 3\.00 to 5\.00 mm; resample it in another tool",
    ),
    "shifted": (
        lambda to: write_series(to, ImagePositionPatient=lambda k: [9 * (k == 3), 0, 3 * k]),
        r"must lie one above the other, got shifts of 9\.00 mm",
    ),
    "two phases": (
        lambda to: [write_series(to, uid="1.2.3", prefix=p, intercept=i) for p, i in (("a", -1024), ("b", -1000))],
        r"must hold each slice once, got 23 twice, the first a-\d+.dcm and b-\d+.dcm, which differ: .* two scans or phases",
    ),
    "two directions": (
        lambda to: [write_series(to, *STACKS[s], uid="1.2.3", prefix=s) for s in ("axial", "coronal")],
        r"must have one size, got 41×23, 41×37",
    ),
    "turned slices": (
        lambda to: write_series(to, ImageOrientationPatient=lambda k: [1, 0, 0, 0, 0, -1] if k < 3 else [1, 0, 0, 0, 1, 0]),
        r"must be parallel, got 3 along \[0\.0, 1\.0, 0\.0\] and 20 along \[0\.0, 0\.0, 1\.0\]",
    ),
    "two spacings": (
        lambda to: write_series(to, PixelSpacing=lambda k: [1.1, 1.4 - 0.2 * (k == 9)]),
        r"must have one pixel spacing, got \[1\.2, 1\.1\] to \[1\.4, 1\.1\] mm",
    ),
    "no position": (
        lambda to: write_series(to, ImagePositionPatient=lambda k: None if k == 2 else [0, 0, 3 * k]),
        r"must give position, orientation and spacing, got none in slice-\d+\.dcm; .*screenshot",
    ),
    "wild position": (lambda to: write_series(to, ImagePositionPatient=lambda k: ["0", "0", "nan" if k == 2 else k]), r"got none in slice"),
    "wide": (lambda to: write_series(to, PixelSpacing=[40, 40]), r"voxel spacing must lie within 0\.05 to 30\.0 mm"),
    "one slice": (lambda to: write_series(to, skip=range(1, 23)), "at least 2 slices, got 1"),
    "MR": (lambda to: write_series(to, Modality="MR"), r"must hold a CT series, got .*\(MR, 23 images"),
    "localizer alone": (
        lambda to: write_series(to, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        r"must hold a CT series, got .*\(localizer",
    ),
    "nothing": (lambda to: to.mkdir(), "must hold a CT series, got no DICOM file"),
    "no such folder": (lambda to: None, "no such file or folder"),
    "empty file": (lambda to: cut(write_series(to)[7], 0), r"slice-\d+\.dcm: is no readable DICOM file; .* download it again"),
    "cut header": (lambda to: cut(write_series(to)[7], 0.2), r"got none in slice-\d+\.dcm; .* cut short \(download it again\)"),
    "cut pixels": (lambda to: cut(write_series(to)[7], 0.8), r"slice-\d+\.dcm: its pixels cannot be read .* download it again"),
    "text": (lambda to: write_series(to)[7].write_text("<html>404</html>" * 100), r"slice-\d+\.dcm: is no readable DICOM file"),
    "colour": (
        lambda to: write_series(to, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, Columns=13, Rows=37),
        r"must hold one number a pixel|its pixels cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_makes_no_volume_is_refused_by_name(tmp_path, fault):
    make, why = FAULTS[fault]
    make(tmp_path / "scan")
    with pytest.raises(VolumeError, match=f"(?s){why}") as error:
        read_series(tmp_path / "scan")
    assert str(error.value).startswith(str(tmp_path / "scan"))


def test_a_file_that_is_not_there_at_the_last_moment_is_said(tmp_path):
    paths = write_series(tmp_path)
    (series,) = find_series(tmp_path)
    paths[3].unlink()
    with pytest.raises(VolumeError, match=rf"{paths[3].name}: its pixels cannot be read"):
        read_series(series)


def test_screenshots_of_a_ct_do_not_stand_in_the_way(tmp_path):
    write_series(tmp_path)
    write_series(
        tmp_path, uid=generate_uid(), prefix="report", SOPClassUID=CTImageStorage, ImagePositionPatient=None, SeriesDescription="Dose"
    )
    assert read_series(tmp_path)[0].data.shape == (41, 37, 23)

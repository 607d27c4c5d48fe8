"""Masks as DICOM: RTSTRUCT contours and DICOM-SEG segments lie where the CT's voxels are."""

import sys

import numpy as np
import pytest
from ct_files import CENTRE_MM, RADII_MM, affine, ct, organ, positions_mm
from dicom_files import axial_affine, to_slices, write_series
from dicom_mask_files import ellipse_contours, write_rtstruct, write_seg
from pydicom import config, dcmread
from pydicom.uid import generate_uid

from gpu_synth.dicom.masks import read_mask
from gpu_synth.dicom.series import find_series, read_series, read_series_grid
from gpu_synth.volumes import VolumeError, to_ras

HEIGHTS_MM = affine()[2, 3] + 3.0 * np.arange(23)
LIVER = ellipse_contours(CENTRE_MM, RADII_MM, HEIGHTS_MM)
TUMOR_MM = CENTRE_MM + np.array([5.0, 2.0, 4.0])


def scan(folder, data=None, at=None, **how):
    """A CT series, and what reading a mask of it needs."""
    write_series(folder, data, at, uid="1.2.3", **how)
    (series,) = find_series(folder)
    shape, grid = read_series_grid(series)
    volume, _ = read_series(series)
    assert shape == volume.data.shape
    np.testing.assert_array_equal(grid, volume.affine)
    return series, shape, grid


def ellipsoid(radius_mm, centre_mm=TUMOR_MM):
    return (np.linalg.norm(positions_mm() - centre_mm, axis=-1) < radius_mm).astype(np.uint8)


def test_contours_hold_the_voxels_whose_centres_are_inside(tmp_path):
    series, *grid = scan(tmp_path / "ct")
    tumor = ellipse_contours(TUMOR_MM, [6.0] * 3, HEIGHTS_MM)
    path = write_rtstruct(tmp_path / "rt.dcm", {"Body": [], "Liver ": LIVER, "GTV": tumor})
    mask, notes = read_mask(path, ["liver"], ["gtv", "other"], *grid, series)
    np.testing.assert_array_equal(to_ras(mask).data, np.where(ellipsoid(6), 2, organ()))
    assert not notes
    mask, _ = read_mask(path, ["Liver"], [], *grid)
    np.testing.assert_array_equal(to_ras(mask).data, organ())


@pytest.mark.parametrize("axes", [(0, 2, 1), (1, 2, 0)], ids=["coronal", "sagittal"])
def test_contours_may_lie_in_slices_of_any_direction(tmp_path, axes):
    data, at = ct().transpose(axes), affine()[:, [*axes, 3]]
    series, *grid = scan(tmp_path / "ct", data, at)
    across = axes[2]
    turn = np.roll(np.arange(3), 2 - across)  # an ellipsoid is one in any order of its axes
    heights = affine()[across, 3] + at[across, 2] * np.arange(data.shape[2])
    contours = [line[:, np.argsort(turn)] for line in ellipse_contours(CENTRE_MM[turn], RADII_MM[turn], heights)]
    mask, _ = read_mask(write_rtstruct(tmp_path / "rt.dcm", {"Liver": contours}), ["Liver"], [], *grid, series)
    np.testing.assert_array_equal(to_ras(mask).data, organ())


def test_contours_follow_a_tilted_gantry(tmp_path):
    at = axial_affine()
    at[1, 2] = 3 * np.tan(np.deg2rad(15))
    series, *grid = scan(tmp_path / "ct", to_slices(ct()), at)
    mask, _ = read_mask(write_rtstruct(tmp_path / "rt.dcm", {"Liver": LIVER}), ["Liver"], [], *grid, series)
    np.testing.assert_array_equal(mask.data, organ(mask.data.shape, at))


def test_a_contour_within_another_is_a_hole_and_voxels_on_a_line_are_inside(tmp_path):
    series, *grid = scan(tmp_path / "ct")

    def square(low, high, k):
        corners = [(low, low), (high, low), (high, high), (low, high)]
        return np.array([affine()[:3, :3] @ [i, j, k] + affine()[:3, 3] for i, j in corners])

    for turn in (1, -1):  # whichever way a line runs round
        path = write_rtstruct(tmp_path / "rt.dcm", {"Liver": [square(5, 20, 7)[::turn], square(9, 12, 7)], "Dot": [square(3, 3.5, 3)]})
        mask, _ = read_mask(path, ["Liver"], ["Dot"], *grid, series)
        want = np.zeros_like(organ())
        want[5:21, 5:21, 7], want[9:13, 9:13, 7], want[3, 3, 3] = 1, 0, 2
        np.testing.assert_array_equal(to_ras(mask).data, want)


def test_contours_above_the_scan_are_told_and_those_between_slices_refused(tmp_path):
    series, *grid = scan(tmp_path / "ct")
    beyond = [*LIVER, *ellipse_contours(CENTRE_MM, RADII_MM * [1, 1, 9], [HEIGHTS_MM[-1] + 3])]
    _, notes = read_mask(write_rtstruct(tmp_path / "rt.dcm", {"Liver": beyond}), ["Liver"], [], *grid, series)
    assert notes == ["1 contours of 'Liver' lie outside the scan"]
    between = ellipse_contours(CENTRE_MM, RADII_MM, HEIGHTS_MM + 1.2)
    with pytest.raises(VolumeError, match="must lie in the scan's slices"):
        read_mask(write_rtstruct(tmp_path / "rt.dcm", {"Liver": between}), ["Liver"], [], *grid, series)


def test_a_copy_of_a_contour_changes_nothing_and_slices_without_one_are_told(tmp_path):
    series, *grid = scan(tmp_path / "ct")
    mask, notes = read_mask(write_rtstruct(tmp_path / "rt.dcm", {"Liver": [*LIVER, *LIVER[3:6]]}), ["Liver"], [], *grid, series)
    np.testing.assert_array_equal(to_ras(mask).data, organ())
    assert not notes
    mask, notes = read_mask(write_rtstruct(tmp_path / "rt.dcm", {"Liver": LIVER[::2]}), ["Liver"], [], *grid, series)
    drawn = np.flatnonzero(organ().any((0, 1)))[::2]
    np.testing.assert_array_equal(np.flatnonzero(to_ras(mask).data.any((0, 1))), drawn)
    assert notes == [f"{len(drawn) - 1} slices between the first and the last contour of 'Liver' have none: they are taken as empty"]


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segments_lie_on_the_scans_voxels(tmp_path, kind):
    series, *grid = scan(tmp_path / "ct")
    masks = {"Spleen": ellipsoid(8, CENTRE_MM + np.array([20, 0, 0])) & ~organ(), "LIVER": organ() & ~ellipsoid(6), "Tumour": ellipsoid(6)}
    path = write_seg(tmp_path / "seg.dcm", {name: to_slices(mask) for name, mask in masks.items()}, series.files, kind)
    mask, notes = read_mask(tmp_path, ["Liver"], ["tumour"], *grid, series)
    np.testing.assert_array_equal(to_ras(mask).data, np.where(ellipsoid(6), 2, organ()))
    np.testing.assert_array_equal(mask.affine, grid[1])
    assert not notes
    with pytest.raises(
        VolumeError, match=r"must hold one of \['Kidney'\], got 'Spleen', 'LIVER', 'Tumour'; name the organ's: --organ_names"
    ):
        read_mask(path, ["Kidney"], [], *grid, series)


def test_segments_on_a_part_or_another_grid_keep_their_place(tmp_path):
    series, *_ = scan(tmp_path / "ct")
    path = write_seg(tmp_path / "seg.dcm", {"Liver": to_slices(organ())}, series.files)
    inner, *_ = scan(tmp_path / "part", to_slices(ct())[..., 8:17], axial_affine() @ _shift(8), prefix="part")
    shape, at = read_series_grid(inner)
    mask, notes = read_mask(path, ["Liver"], [], shape, at)
    np.testing.assert_array_equal(mask.data, to_slices(organ())[..., 8:17])
    lost = int(organ().sum() - organ()[..., 8:17].sum())
    assert notes == [f"{lost} voxels of the mask lie outside the scan"]
    other = at @ np.diag([0.5, 0.5, 1, 1])
    mask, _ = read_mask(path, ["Liver"], [], (60, 60, 9), other)
    at_mask = positions_mm(mask.data.shape, mask.affine)[mask.data == 1]
    np.testing.assert_allclose(at_mask.mean(0), positions_mm()[organ() == 1].mean(0), atol=1e-6)


def _shift(k):
    shift = np.eye(4)
    shift[2, 3] = k
    return shift


def test_of_several_masks_the_one_of_the_organ_and_of_the_scan_is_read(tmp_path):
    series, *grid = scan(tmp_path / "ct")
    write_rtstruct(tmp_path / "a.dcm", {"Lung": LIVER})
    write_rtstruct(tmp_path / "b.dcm", {"Liver": LIVER[:5]}, series_uid="9.9.9")
    write_rtstruct(tmp_path / "c.dcm", {"Liver": LIVER})
    mask, _ = read_mask(tmp_path, ["Liver"], [], *grid, series)
    np.testing.assert_array_equal(to_ras(mask).data, organ())
    with pytest.raises(VolumeError, match=r"must hold one RTSTRUCT or DICOM-SEG with the organ, got b\.dcm, c\.dcm; give its own file"):
        read_mask(tmp_path, ["Liver"], [], *grid)


def test_a_mask_of_another_scan_is_refused(tmp_path):
    series, *grid = scan(tmp_path / "ct")
    path = write_rtstruct(tmp_path / "rt.dcm", {"Liver": LIVER}, frame_of_reference=generate_uid())
    with pytest.raises(VolumeError, match=r"rt\.dcm: must be drawn on .*, got another frame of reference"):
        read_mask(path, ["Liver"], [], *grid, series)


def test_what_is_no_mask_is_refused_by_name(tmp_path):
    series, *grid = scan(tmp_path / "ct")
    with pytest.raises(VolumeError, match=r"must hold one RTSTRUCT or DICOM-SEG with the organ, got 'Portal venous 3\.0' \(CT"):
        read_mask(tmp_path / "ct", ["Liver"], [], *grid, series)
    path = write_rtstruct(tmp_path / "rt.dcm", {"Liver": []})
    with pytest.raises(VolumeError, match=r"rt\.dcm: ROI 'Liver' must have closed contours, got none"):
        read_mask(path, ["Liver"], [], *grid, series)
    write_rtstruct(path, {"Liver": LIVER}, kind="POINT")
    with pytest.raises(VolumeError, match="must have closed contours"):
        read_mask(path, ["Liver"], [], *grid, series)
    with pytest.raises(
        VolumeError, match=r"must hold one of the names in --organ_names, got 'Liver'; name the organ's: --organ_names '\[Liver\]'"
    ):
        read_mask(path, [], [], *grid, series)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(VolumeError, match=r"rt\.dcm: "):
        read_mask(path, ["Liver"], [], *grid, series)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda mask: mask.ROIContourSequence[0].ContourSequence[2].ContourData.pop(), "contours of 'Liver'"),
        (lambda mask: setattr(mask.ROIContourSequence[0].ContourSequence[2], "ContourData", ["nan"] * 9), "contours of 'Liver'"),
        (lambda mask: delattr(mask.ROIContourSequence[0], "ReferencedROINumber"), "contours of 'Liver'"),
        (lambda mask: delattr(mask.StructureSetROISequence[0], "ROINumber"), "what it names"),
    ],
    ids=["a coordinate too few", "no number", "contours of nothing", "an ROI without number"],
)
def test_contours_that_cannot_be_read_are_refused_by_name(tmp_path, change, what):
    _, *grid = scan(tmp_path / "ct")
    path = write_rtstruct(tmp_path / "rt.dcm", {"Liver": LIVER})
    mask = dcmread(path)
    with config.disable_value_validation():
        change(mask)
        mask.save_as(path)
    with pytest.raises(VolumeError, match=rf"rt\.dcm: {what} cannot be read \(.*\); the file is damaged"):
        read_mask(path, ["Liver"], [], *grid)


def test_noise_in_a_mask_is_refused_or_read(tmp_path):
    """Whatever bytes are wrong, nothing but a refusal by name is raised, which would end the whole run."""
    _, *grid = scan(tmp_path / "ct")
    path = write_rtstruct(tmp_path / "rt.dcm", {"Liver": [line[::24] for line in LIVER]})
    content, rng, refused = path.read_bytes(), np.random.default_rng(0), []
    for _ in range(100):
        noisy = bytearray(content)
        for at in rng.integers(128, len(noisy), 3):
            noisy[at] = rng.integers(256)
        path.write_bytes(noisy)
        try:
            read_mask(path, ["Liver"], [], *grid)
        except VolumeError as error:
            refused.append(str(error))
    assert len(refused) > 30
    assert all(why.startswith(str(path)) for why in refused)


def test_without_highdicom_the_extra_is_named(tmp_path, monkeypatch):
    series, *grid = scan(tmp_path / "ct")
    path = write_seg(tmp_path / "seg.dcm", {"Liver": to_slices(organ())}, series.files)
    monkeypatch.setitem(sys.modules, "highdicom.seg", None)
    with pytest.raises(ImportError, match=r"highdicom must be installed to read DICOM-SEG, .* pip install 'gpu-synth\[dicom\]'"):
        read_mask(path, ["Liver"], [], *grid, series)

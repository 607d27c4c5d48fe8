import nibabel as nib
import numpy as np
import pytest
from ct_files import CENTRE_MM, RADII_MM, affine, ct, organ, positions_mm, write
from nibabel.processing import resample_from_to

from gpu_synth.grids import onto_grid, placed_as, resample, same_grid, to_native
from gpu_synth.volumes import Volume

ORGAN_ML = 4 / 3 * np.pi * RADII_MM.prod() / 1000


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.9), (0.5, 1.1, 1.5)])
def test_finer_grids_agree_with_an_independent_linear_interpolation(spacing_mm):
    noise = np.random.default_rng(0).normal(0, 100, (13, 11, 7)).astype(np.float32)
    at = affine() @ np.diag([-1, 1, 1, 1])
    volume = resample(Volume(noise, at), spacing_mm)
    np.testing.assert_allclose(volume.spacing_mm, spacing_mm, rtol=1e-6)
    oracle = resample_from_to(nib.Nifti1Image(noise, at), (volume.data.shape, volume.affine), order=1, mode="nearest").get_fdata()
    np.testing.assert_allclose(volume.data, oracle, atol=1e-2)  # float32 sums of values of 100, and float32 weights


@pytest.mark.parametrize("spacing_mm", [1.07, 2.0, 3.0, 4.6])
def test_coarser_grids_average_the_interpolated_line(spacing_mm):
    noise = np.random.default_rng(0).normal(0, 100, 60).astype(np.float32)
    volume = resample(Volume(np.broadcast_to(noise, (2, 3, 60)), np.eye(4)), (1, 1, spacing_mm))
    at_mm = volume.affine[2, 3] + spacing_mm * np.arange(volume.data.shape[2])
    box_mm = np.sqrt(spacing_mm**2 - 1) * (np.arange(2000) / 2000 - 0.5)
    oracle = np.interp(at_mm[:, None] + box_mm, np.arange(60), noise).mean(1)
    np.testing.assert_allclose(volume.data[1, 2, 2:-2], oracle[2:-2], atol=0.2)  # 2000 points a box


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (0.7, 0.7, 5), (3, 3, 3), (1.4, 1.1, 3.0), (2.9, 0.9, 0.4)])
def test_slopes_stay_in_place_and_constants_stay_constant(spacing_mm):
    slope = positions_mm() @ np.array([1.0, -2.0, 0.5])
    volume = resample(Volume(slope.astype(np.float32), affine()), spacing_mm)
    want = positions_mm(volume.data.shape, volume.affine) @ np.array([1.0, -2.0, 0.5])
    inner = tuple(slice(int(np.ceil(8 / mm)), -int(np.ceil(8 / mm))) for mm in spacing_mm)  # clear of the border
    assert volume.data[inner].size > 0
    np.testing.assert_allclose(volume.data[inner], want[inner], atol=1e-3)
    flat = resample(Volume(np.full((9, 10, 11), -77, np.int16), affine()), spacing_mm, np.int16)
    assert (flat.data == -77).all()


def test_the_new_grid_covers_the_old_field_of_view_and_begins_at_its_face():
    volume = resample(Volume(ct(), affine()), (1.0, 1.0, 1.0), np.int16)
    assert volume.data.shape == (58, 41, 69)  # 57.4, 40.7 and 69 mm
    face = nib.affines.apply_affine(affine(), [-0.5, -0.5, -0.5])
    np.testing.assert_allclose(nib.affines.apply_affine(volume.affine, [-0.5, -0.5, -0.5]), face)


def test_the_same_spacing_changes_no_voxel():
    volume = resample(Volume(ct(), affine((1.4, 1.1, 3.0000001))), (1.4, 1.1, 3.0), np.int16)
    np.testing.assert_array_equal(volume.data, ct())
    assert volume.data.dtype == np.int16


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (2, 2, 2), (0.8, 0.8, 2.5)])
def test_an_organ_keeps_its_volume_and_centre(spacing_mm):
    mask = resample(Volume(organ(), affine()), spacing_mm, np.uint8)
    assert mask.data.sum() * mask.voxel_ml == pytest.approx(ORGAN_ML, rel=0.03)
    centre = positions_mm(mask.data.shape, mask.affine)[mask.data > 0].mean(0)
    np.testing.assert_allclose(centre, CENTRE_MM, atol=0.3)


def test_grids_are_the_same_up_to_a_tenth_of_a_voxel():
    def grid(shape=(5, 6, 7), shift=0.0, factor=1.0):
        at = affine()
        at[:3, 3] += shift
        at[0, 0] *= factor
        return Volume(np.zeros(shape), at)

    assert same_grid(grid(), grid(shift=0.01))
    assert not same_grid(grid(), grid(shift=0.2))
    assert not same_grid(grid(), grid(factor=1.05))
    assert not same_grid(grid(), grid((5, 6, 8)))


def test_a_mask_moves_onto_a_rotated_grid():
    angle = np.deg2rad(30)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    at = nib.affines.from_matvec(np.eye(3), CENTRE_MM) @ turn @ nib.affines.from_matvec(np.diag([1.5, 1.5, 1.5]), [-45, -45, -45])
    moved = onto_grid(Volume(organ().astype(np.float32), affine()), (60, 60, 60), at)
    oracle = organ((60, 60, 60), at)
    assert 2 * (moved & oracle).sum() / (moved.sum() + oracle.sum()) > 0.97


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SLA", "AIR"])
def test_a_label_goes_back_onto_its_scan(tmp_path, orientation):
    source = write(tmp_path / "ct.nii.gz", ct()[..., None], orientation=orientation)
    native = nib.load(write(tmp_path / "mask.nii", organ(), orientation=orientation))
    label = resample(Volume(organ(), affine()), (1, 1, 1), np.uint8)
    tumor = np.linalg.norm(positions_mm(label.data.shape, label.affine) - CENTRE_MM, axis=-1) < 7
    back = to_native(label.data + tumor, label.affine, source)
    assert back.data.shape == native.shape
    np.testing.assert_allclose(back.affine, native.affine, atol=1e-4)
    want = np.asarray(native.dataobj) > 0
    assert 2 * ((back.data > 0) & want).sum() / ((back.data > 0).sum() + want.sum()) > 0.97
    assert (back.data == 2).sum() * back.voxel_ml == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.1)


def test_a_label_that_reaches_the_border_reaches_it_on_its_scan(tmp_path):
    source = write(tmp_path / "ct.nii", ct())
    full = resample(Volume(np.ones_like(organ()), affine()), (1, 1, 1), np.uint8)
    assert to_native(full.data, full.affine, source).data.all()


@pytest.mark.parametrize(
    ("mask_placed", "image_placed", "says"),
    [
        (True, True, None),
        (False, True, "the mask's header gives no position (sform and qform codes are 0): the image's is taken"),
        (True, False, "the image's header gives no position (sform and qform codes are 0): the mask is taken voxel by voxel"),
        (False, False, "the mask's header gives no position (sform and qform codes are 0): the image's is taken"),
    ],
    ids=["both tell", "image tells", "mask tells", "none tells"],
)
def test_a_mask_is_placed_as_its_image_where_a_header_tells_nothing(mask_placed, image_placed, says):
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    mask = Volume(np.ones((3, 4, 5), np.uint8), np.eye(4), mask_placed)
    got, notes = placed_as(mask, (3, 4, 5), affine, image_placed)
    assert notes == ([says] if says else [])
    np.testing.assert_array_equal(got.affine, affine if says else np.eye(4))
    assert got.data is mask.data
    assert placed_as(mask, (3, 4, 6), affine, image_placed) == (mask, []), "of another shape it is no image of its own"

"""Each public data set, made up in its own layout: what is found, and that image and mask come out as they went in."""

import dataset_folders as made
import nibabel as nib
import numpy as np
import pytest
from ct_files import real_ct

from gpu_synth.datasets import DATASETS, dataset_named, find_cases, read_case
from gpu_synth.mask_fit import better_arrangement
from gpu_synth.volumes import read_nifti, to_ras

LAYOUTS = {
    "lits": (made.lits, ["lits_000", "lits_013", "lits_028"]),
    "msd-liver": (made.msd_liver, ["lits_000", "lits_013"]),
    "btcv": (made.btcv, ["btcv_0001", "btcv_0021"]),
    "chaos": (made.chaos, ["chaos_01", "chaos_30"]),
    "pancreas-ct": (made.pancreas_ct, ["pancreas-ct_0001", "pancreas-ct_0002"]),
    "3d-ircadb-01": (made.ircad, ["ircad_01", "ircad_02"]),
}
EXPECTED = {"lits": 131, "msd-liver": 131, "btcv": 30, "chaos": 20, "pancreas-ct": 43, "3d-ircadb-01": 20}
TUMORS = ("lits", "msd-liver", "3d-ircadb-01")


@pytest.mark.parametrize("name", DATASETS)
def test_a_whole_folder_is_read_as_it_is(tmp_path, name):
    make, names = LAYOUTS[name]
    dataset, root = dataset_named(name), make(tmp_path)
    found = find_cases(dataset, root, "liver")
    assert [item.name for item in found.sources] == names
    assert f"{EXPECTED[name]} cases expected, {len(names)} found" in found.summary
    for item in found.sources:
        number = int(item.name.rsplit("_", 1)[1])
        hu, liver = made.body(number)
        scan = read_case(dataset, item, "liver")
        image, label = to_ras(scan.image), to_ras(scan.label)
        np.testing.assert_array_equal(image.data, hu)
        np.testing.assert_array_equal(label.data, made.with_tumor(liver) if name in TUMORS else liver)
        affine = np.eye(4) if item.name == "lits_028" else made.AFFINE
        np.testing.assert_allclose(image.affine, affine, atol=1e-4)
        np.testing.assert_allclose(label.affine, affine, atol=1e-4)
        assert scan.notes == [] or item.name == "lits_028"


def test_what_is_not_downloaded_yet_is_told(tmp_path):
    found = find_cases(dataset_named("3d-ircadb-01"), made.ircad(tmp_path, numbers=(3,)), "liver")
    assert found.absent == [f"ircad_{n:02d}" for n in range(1, 21) if n != 3]
    assert found.summary == (
        "3D-IRCADb-01, liver: 20 cases expected, 1 found; "
        "not there: ircad_01, ircad_02, ircad_04, ircad_05, ircad_06, ircad_07, ircad_08, ircad_09 and 11 more"
    )


def test_headers_that_lits_has_wrong_are_told(tmp_path):
    (item,) = find_cases(dataset_named("lits"), made.lits(tmp_path, numbers=(28,)), "liver").sources
    (note,) = read_case(dataset_named("lits"), item, "liver").notes
    assert note == "the header says 1×1×1 mm, as of all of LiTS 28 to 47, which is not true: use 3D-IRCADb-01 for these scans"


def test_archives_and_folders_of_ircad_are_the_same(tmp_path):
    dataset = dataset_named("3d-ircadb-01")
    for name, archives in (("zip", True), ("folder", False)):
        made.ircad(tmp_path / name, numbers=(1,), archives=archives)
    packed, unpacked = (read_case(dataset, find_cases(dataset, tmp_path / name, "liver").sources[0], "liver") for name in ("zip", "folder"))
    assert not (tmp_path / "zip" / "3Dircadb1" / "3Dircadb1.1" / "PATIENT_DICOM").exists()  # nothing is left beside the archive
    np.testing.assert_array_equal(packed.image.data, unpacked.image.data)
    np.testing.assert_array_equal(packed.label.data, unpacked.label.data)


def test_folders_of_ircad_may_lie_in_folders_of_their_own_name(tmp_path):
    """As Windows unpacks an archive that holds a folder."""
    root = made.ircad(tmp_path, numbers=(1,))
    (root / "3Dircadb1" / "3Dircadb1.1").rename(tmp_path / "kept")
    (tmp_path / "unpacked" / "3Dircadb1.1").mkdir(parents=True)
    (tmp_path / "kept").rename(tmp_path / "unpacked" / "3Dircadb1.1" / "3Dircadb1.1")
    (source,) = find_cases(dataset_named("3d-ircadb-01"), tmp_path, "liver").sources
    assert read_case(dataset_named("3d-ircadb-01"), source, "liver").label.data.any()


def test_slices_of_chaos_may_be_a_series_each(tmp_path):
    """As some anonymisers leave them."""
    from pydicom import dcmread
    from pydicom.uid import generate_uid

    root = made.chaos(tmp_path, numbers=(1,))
    for path in (root / "Train_Sets" / "CT" / "1" / "DICOM_anon").iterdir():
        slice_ = dcmread(path)
        slice_.SeriesInstanceUID = generate_uid()
        slice_.save_as(path)
    scan = read_case(dataset_named("chaos"), find_cases(dataset_named("chaos"), root, "liver").sources[0], "liver")
    np.testing.assert_array_equal(to_ras(scan.image).data, made.body(1)[0])
    np.testing.assert_array_equal(to_ras(scan.label).data, made.body(1)[1])


def test_chaos_pictures_follow_file_names_whichever_way_they_count(tmp_path):
    """From the feet, where the other test's count from the head."""
    root = made.chaos(tmp_path, numbers=(1,))
    folder = root / "Train_Sets" / "CT" / "1"
    for part, name in (("DICOM_anon", "i{:04d},0000b.dcm"), ("Ground", "liver_GT_{:03d}.png")):
        paths = sorted((folder / part).iterdir())
        for path in paths:
            path.rename(path.with_name(f"old{path.name}"))
        for n, path in enumerate(reversed(paths)):
            path.with_name(f"old{path.name}").rename(folder / part / name.format(n))
    scan = read_case(dataset_named("chaos"), find_cases(dataset_named("chaos"), root, "liver").sources[0], "liver")
    np.testing.assert_array_equal(to_ras(scan.label).data, made.body(1)[1])


def test_the_collections_own_masks_of_the_pancreas(tmp_path):
    dataset = dataset_named("pancreas-ct")
    found = find_cases(dataset, made.pancreas_ct(tmp_path, organ="pancreas"), "pancreas")
    assert "80 cases expected, 2 found, 1 incomplete (pancreas-ct_0082)" in found.summary
    scan = read_case(dataset, found.sources[0], "pancreas")
    np.testing.assert_array_equal(to_ras(scan.label).data, made.body(1)[1])


@pytest.mark.parametrize(("axes", "words"), [((1,), "flipped along j"), ((2,), "flipped along k")])
def test_labels_of_pancreas_ct_are_flipped_where_only_that_fits(tmp_path, axes, words):
    dataset, root = dataset_named("pancreas-ct"), made.pancreas_ct(tmp_path, numbers=(1,))
    path = root / "label_tciapancreasct_multiorgan" / "label0001.nii.gz"
    mask = nib.load(path)
    nib.save(nib.Nifti1Image(np.flip(np.asarray(mask.dataobj), axes), mask.affine), path)
    scan = read_case(dataset, find_cases(dataset, root, "liver").sources[0], "liver")
    np.testing.assert_array_equal(to_ras(scan.label).data, made.body(1)[1])
    assert scan.notes == [f"the mask is taken {words}: only so does it fit the image"]


def test_other_organs_of_btcv(tmp_path):
    dataset, root = dataset_named("btcv"), made.btcv(tmp_path, numbers=(1,))
    path = root / "RawData" / "Training" / "label" / "label0001.nii.gz"
    mask = nib.load(path)
    data = np.asarray(mask.dataobj).copy()
    right, left = np.argwhere(data == 6)[[100, 200]]
    data[tuple(right)], data[tuple(left)] = 2, 3
    nib.save(nib.Nifti1Image(data, mask.affine), path)
    scan = read_case(dataset, find_cases(dataset, root, "kidney").sources[0], "kidney")
    np.testing.assert_array_equal(np.argwhere(scan.label.data == 1), [right, left])


@pytest.mark.real_ct
def test_real_livers_fit_as_they_lie_and_not_when_flipped():
    for path in sorted(real_ct().glob("*_ct.nii.gz")):
        image, liver = read_nifti(path), read_nifti(str(path).replace("_ct.", "_liver.")).data > 0
        assert better_arrangement(image, liver) == "", path.name
        for axis, name in enumerate("ijk"):
            assert better_arrangement(image, np.flip(liver, axis)) == f"flipped along {name}", path.name

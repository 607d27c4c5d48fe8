"""What each reader says of a folder that is not as it should be."""

import shutil
import zipfile

import dataset_folders as made
import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from gpu_synth.datasets import DATASETS, dataset_named, find_cases, read_case
from gpu_synth.prepare.run import prepare
from gpu_synth.volumes import VolumeError

LITS = "Training Batch 1/segmentation-0.nii"
MSD = "Task03_Liver/labelsTr/liver_0.nii.gz"
BTCV = "RawData/Training/label/label0001.nii.gz"
GROUND = "Train_Sets/CT/1/Ground"
PANCREAS = "label_tciapancreasct_multiorgan/label0001.nii.gz"
IRCAD = "3Dircadb1/3Dircadb1.1"


def nifti(change, affine=None):
    """Alter a NIfTI file's voxels, or its header."""

    def alter(path):
        image = nib.load(path)
        data = change(np.asarray(image.dataobj).copy())
        at = image.affine if affine is None else affine(image.affine)
        nib.save(nib.Nifti1Image(data, at, dtype=data.dtype), path)

    return alter


def same(data):
    return data


def value(wrong):
    def put(data):
        data[0, 0, ...] = wrong
        return data

    return put


def cut(data):
    return data[:-1]


def moved(affine):
    out = affine.copy()
    out[:3, 3] += [0.0, 12.0, 0.0]
    return out


def swapped(data):
    return np.swapaxes(data, 0, 1)


def flipped(data):
    return data[:, ::-1]


def pictures(change):
    return lambda folder: [made.edit_picture(path, change) for path in folder.glob("*.png")]


def reversed_pictures(folder):
    paths = sorted(folder.glob("*.png"))
    for path in paths:
        path.rename(path.with_suffix(".old"))
    for new, old in zip(paths, reversed(paths), strict=True):
        old.with_suffix(".old").rename(new)


def masks(change, every=True):
    """Alter the masks of a liver within its archive."""

    def alter(archive):
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(archive.parent)
        folder = archive.parent / "MASKS_DICOM"
        paths = sorted((folder / "liver").iterdir())
        for path in paths if every else paths[:1]:
            made.edit_slice(path, change)
        archive.unlink()
        made.pack(folder)

    return alter


def slice_7(change):
    """Alter one slice's mask within its archive."""

    def alter(archive):
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(archive.parent)
        folder = archive.parent / "MASKS_DICOM"
        change(folder / "liver" / "image_7")
        archive.unlink()
        made.pack(folder)

    return alter


without_slice = slice_7(lambda path: path.unlink())
text_for_a_mask = slice_7(lambda path: path.write_text("<html>404</html>" * 100))


def noise(archive):
    """Leave an archive's directory whole, and spoil what it points to."""
    content = bytearray(archive.read_bytes())
    for at in range(200, len(content) * 2 // 3, 97):
        content[at] ^= 0xFF
    archive.write_bytes(content)


def without_place(folder):
    path = sorted(folder.iterdir())[3]
    slice_3 = dcmread(path)
    del slice_3.ImagePositionPatient
    slice_3.save_as(path)


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


WRONG = {
    "lits-no-mask": (
        "lits",
        LITS,
        lambda path: path.unlink(),
        r"segmentation-0\.nii: must be there, as the rest of lits_000 is, got no such file",
    ),
    "lits-no-image": (
        "lits",
        "Training Batch 1/volume-0.nii",
        lambda p: p.unlink(),
        r"volume-0\.nii: must be there, as the rest of lits_000 is",
    ),
    "lits-grid": (
        "lits",
        LITS,
        nifti(cut),
        r"must have its image's grid of 52×52×34 voxels, got 51×52×34; is it the mask of volume-0\.nii",
    ),
    "lits-place": ("lits", LITS, nifti(same, moved), r"must lie where its image does, got a header that places it up to 12\.0 mm away"),
    "lits-spacing": ("lits", LITS, nifti(same, lambda a: a @ np.diag([1, 1, 0.5, 1])), r"\(7×7×4 against 7×7×8 mm spacing\)"),
    "lits-value": ("lits", LITS, nifti(value(3)), r"segmentation-0\.nii: must hold values 0, 1, 2, as LiTS has them, got 3 too"),
    "lits-axes": (
        "lits",
        LITS,
        nifti(swapped),
        r"must lie on its organ in .*volume-0\.nii, got a mask that fits only with i and j swapped",
    ),
    "lits-flip": ("lits", LITS, nifti(flipped), r"segmentation-0\.nii: must lie on its organ .* fits only flipped along j"),
    "lits-empty": ("lits", LITS, nifti(np.zeros_like), r"must hold liver \(value 1\), got none; is it the right file\?"),
    "lits-cut": ("lits", LITS, cut_short, r"segmentation-0\.nii: cannot be read to its end"),
    "msd-no-mask": ("msd-liver", MSD, lambda path: path.unlink(), r"labelsTr/liver_0\.nii\.gz: must be there"),
    "msd-grid": ("msd-liver", MSD, nifti(cut), r"labelsTr/liver_0\.nii\.gz: must have its image's grid of 52×52×34"),
    "msd-value": ("msd-liver", MSD, nifti(value(7)), r"must hold values 0, 1, 2, as MSD Task03_Liver has them, got 7 too"),
    "msd-axes": ("msd-liver", MSD, nifti(swapped), r"fits only with i and j swapped"),
    "btcv-no-mask": ("btcv", BTCV, lambda path: path.unlink(), r"label/label0001\.nii\.gz: must be there, as"),
    "btcv-grid": ("btcv", BTCV, nifti(cut), r"label0001\.nii\.gz: must have its image's grid of 52×52×34 voxels"),
    "btcv-value": ("btcv", BTCV, nifti(value(40)), r"must hold values 0 to 14, as BTCV has them, got 40 too"),
    "btcv-axes": ("btcv", BTCV, nifti(swapped), r"label0001\.nii\.gz: .* fits only with i and j swapped"),
    "chaos-no-masks": ("chaos", GROUND, shutil.rmtree, r"CT/1/Ground: must be there, as the rest of chaos_01 is"),
    "chaos-no-mask": ("chaos", f"{GROUND}/liver_GT_010.png", lambda p: p.unlink(), r"must hold a picture for each of 34 slices, got 33"),
    "chaos-no-slice": (
        "chaos",
        "Train_Sets/CT/1/DICOM_anon/i0010,0000b.dcm",
        lambda path: path.unlink(),
        r"no slice must be missing, got a gap for 1 after",
    ),
    "chaos-no-place": ("chaos", "Train_Sets/CT/1/DICOM_anon", without_place, r"DICOM_anon: every slice must give position.* screenshot"),
    "chaos-grid": ("chaos", GROUND, pictures(cut), r"liver_GT_\d+\.png: must have its slice's size 52×52, got 52×51"),
    "chaos-value": ("chaos", GROUND, pictures(value(63)), r"liver_GT_\d+\.png: must be black and white \(0 and 255\), got values .*63"),
    "chaos-axes": ("chaos", GROUND, pictures(swapped), r"Ground: must lie on its organ in .* fits only with i and j swapped"),
    "chaos-order": ("chaos", GROUND, reversed_pictures, r"Ground: must lie on its organ in .* fits only flipped along k"),
    "chaos-cut": ("chaos", f"{GROUND}/liver_GT_010.png", cut_short, r"liver_GT_010\.png: is no readable picture"),
    "pancreas-no-scan": (
        "pancreas-ct",
        "Pancreas-CT/PANCREAS_0001",
        shutil.rmtree,
        r"PANCREAS_0001: must be there, as the rest of pancreas-ct_0001 is",
    ),
    "pancreas-no-slices": ("pancreas-ct", "Pancreas-CT/PANCREAS_0001/11-24-2015", shutil.rmtree, r"must hold the DICOM slices of a CT"),
    "pancreas-grid": ("pancreas-ct", PANCREAS, nifti(cut), r"label0001\.nii\.gz: must have its image's grid of 52×52×34 voxels"),
    "pancreas-value": ("pancreas-ct", PANCREAS, nifti(value(99)), r"must hold values 0 to 14, as NIH Pancreas-CT has them, got 99 too"),
    "pancreas-axes": ("pancreas-ct", PANCREAS, nifti(swapped), r"label0001\.nii\.gz: .* fits only with i and j swapped"),
    "ircad-no-masks": (
        "3d-ircadb-01",
        f"{IRCAD}/MASKS_DICOM.zip",
        lambda p: p.unlink(),
        r"MASKS_DICOM\.zip: must be there, as the rest of ircad_01",
    ),
    "ircad-no-slice": (
        "3d-ircadb-01",
        f"{IRCAD}/MASKS_DICOM.zip",
        without_slice,
        r"liver must hold a mask for each of 34 images, got none for image_7",
    ),
    "ircad-grid": ("3d-ircadb-01", f"{IRCAD}/MASKS_DICOM.zip", masks(cut), r"liver/image_0: must have its slice's size 52×52, got 52×51"),
    "ircad-value": (
        "3d-ircadb-01",
        f"{IRCAD}/MASKS_DICOM.zip",
        masks(value(9), every=False),
        r"liver/image_0: must be black and white .*, got values .*9",
    ),
    "ircad-axes": ("3d-ircadb-01", f"{IRCAD}/MASKS_DICOM.zip", masks(swapped), r"MASKS_DICOM\.zip: .* fits only with i and j swapped"),
    "ircad-text": ("3d-ircadb-01", f"{IRCAD}/MASKS_DICOM.zip", text_for_a_mask, r"MASKS_DICOM\.zip: liver/image_7 cannot be read"),
    "ircad-noise": ("3d-ircadb-01", f"{IRCAD}/MASKS_DICOM.zip", noise, r"MASKS_DICOM\.zip: cannot be unpacked .* is damaged"),
    "ircad-cut": ("3d-ircadb-01", f"{IRCAD}/PATIENT_DICOM.zip", cut_short, r"PATIENT_DICOM\.zip: cannot be unpacked"),
}
MAKE = {
    "lits": lambda root: made.lits(root, numbers=(0, 1)),
    "msd-liver": lambda root: made.msd_liver(root, numbers=(0, 1)),
    "btcv": lambda root: made.btcv(root, numbers=(1, 2)),
    "chaos": lambda root: made.chaos(root, numbers=(1, 2)),
    "pancreas-ct": lambda root: made.pancreas_ct(root, numbers=(1, 2)),
    "3d-ircadb-01": lambda root: made.ircad(root, numbers=(1, 2)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One whole folder a data set, to copy and to spoil."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKE.items()}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said(folders, tmp_path, wrong):
    name, where, change, message = WRONG[wrong]
    root = shutil.copytree(folders[name], tmp_path / "copy")
    change(root / where)
    dataset = dataset_named(name)
    spoilt, other = find_cases(dataset, root, "liver").sources
    with pytest.raises(VolumeError, match=message) as error:
        read_case(dataset, spoilt, "liver")
    assert str(error.value).startswith(str(root))  # the file that is meant
    assert read_case(dataset, other, "liver").label.data.any()  # and one bad case is the only one


@pytest.mark.parametrize("name", DATASETS)
def test_another_folder_is_refused(tmp_path, name):
    dataset = dataset_named(name)
    with pytest.raises(ValueError, match=r"root must hold .*, got none of it in .*; http"):
        find_cases(dataset, tmp_path, "liver")
    with pytest.raises(ValueError, match=r"root must be the folder of .*, got .*nowhere, which is none"):
        find_cases(dataset, tmp_path / "nowhere", "liver")
    with pytest.raises(ValueError, match=r"organ must be one of liver.*, got 'lung'"):
        find_cases(dataset, tmp_path, "lung")


def test_a_case_that_is_there_twice_is_refused(folders, tmp_path):
    root = shutil.copytree(folders["lits"], tmp_path / "copy")
    shutil.copytree(root / "Training Batch 1", root / "again")
    with pytest.raises(ValueError, match=r"root must hold each case once, got .*volume-0\.nii and .*again/volume-0\.nii"):
        find_cases(dataset_named("lits"), root, "liver")


def test_livers_of_pancreas_ct_need_the_masks_that_hold_them(tmp_path):
    with pytest.raises(ValueError, match=r"root must hold masks of the liver, got none .* label_tciapancreasct_multiorgan of zenodo"):
        find_cases(dataset_named("pancreas-ct"), made.pancreas_ct(tmp_path, organ="pancreas"), "liver")


def test_the_collections_own_masks_hold_nothing_but_the_pancreas(tmp_path):
    root = made.pancreas_ct(tmp_path, numbers=(1,), organ="pancreas")
    nifti(value(6))(root / "TCIA_pancreas_labels-02-05-2017" / "label0001.nii.gz")
    source, _ = find_cases(dataset_named("pancreas-ct"), root, "pancreas").sources
    with pytest.raises(VolumeError, match=r"label0001\.nii\.gz: must hold values 0, 1 \(the pancreas\), got 6 too"):
        read_case(dataset_named("pancreas-ct"), source, "pancreas")


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"dataset must be one of lits, msd-liver, chaos, btcv, pancreas-ct, 3d-ircadb-01, got 'kits'"):
        dataset_named("kits")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "lits"}, r"dataset and root must be given together, got dataset='lits', root=None"),
        ({"root": "somewhere"}, r"dataset and root must be given together, got dataset=None"),
        ({"dataset": "lits", "root": "x", "images": "y", "tumor_labels": (2,)}, r"must be given without images, tumor_labels, got 'lits'"),
        ({"dataset": "btcv", "root": "x", "organ_labels": (11,)}, r"must be given without organ_labels, got 'btcv'"),
        ({"images": "x", "labels": "y", "organ": "pancreas"}, r"organ must be given with dataset alone, got 'pancreas'"),
        ({"dataset": "kits", "root": "x"}, r"dataset must be one of lits, "),
        ({"dataset": "lits", "root": "nowhere"}, r"root must be the folder of LiTS, got nowhere"),
    ],
)
def test_what_cannot_be_prepared_is_refused_at_once(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(out=tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()

"""Made-up folders in the layouts of public data sets: phantoms under their names."""

import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from dicom_files import axial_affine, to_slices, write_series
from PIL import Image
from pydicom import dcmread

from gpu_synth.phantom import phantom
from gpu_synth.volumes import save_nifti

SHAPE, SPACING_MM = (52, 52, 34), (7.0, 7.0, 8.0)
AFFINE = np.diag([*SPACING_MM, 1.0])
AFFINE[:3, 3] = -180.0, -150.0, 900.0


@cache
def body(number: int) -> tuple[np.ndarray, np.ndarray]:
    """HU and liver, RAS, a healthy phantom."""
    scan = phantom(number, SHAPE, SPACING_MM)
    return scan.image[0, 0].round().to(torch.int16).numpy(), scan.label[0, 0].numpy().astype(np.uint8)


def with_tumor(liver: np.ndarray) -> np.ndarray:
    """A tumour of 3×3×3 voxels, value 2, in the middle of a liver's voxels."""
    at = np.argwhere(liver)
    i, j, k = at[len(at) // 2]
    label = liver.copy()
    label[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] *= 2
    return label


def write_pair(image: Path, label: Path, hu: np.ndarray, mask: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    for path, data in ((image, hu), (label, mask)):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_nifti(path, data, affine)


def lits(root: Path, numbers=(0, 13, 28), healthy=()) -> Path:
    for n in numbers:
        hu, liver = body(n)
        folder = root / ("Training Batch 1" if n < 28 else "media/nas/Training Batch 2")
        affine = np.eye(4) if 28 <= n < 48 else AFFINE
        write_pair(folder / f"volume-{n}.nii", folder / f"segmentation-{n}.nii", hu, liver if n in healthy else with_tumor(liver), affine)
    (_made(root / "Training Batch 1") / "._volume-0.nii").write_bytes(b"what macOS leaves")
    return root


def msd_liver(root: Path, numbers=(0, 13)) -> Path:
    for n in numbers:
        hu, liver = body(n)
        parts = (root / "Task03_Liver" / kind / f"liver_{n}.nii.gz" for kind in ("imagesTr", "labelsTr"))
        write_pair(*parts, hu, with_tumor(liver))
    (root / "Task03_Liver" / "dataset.json").write_text("{}")
    (root / "Task03_Liver" / "imagesTs").mkdir()
    save_nifti(root / "Task03_Liver" / "imagesTs" / "liver_131.nii.gz", hu, AFFINE)
    return root


def btcv(root: Path, numbers=(1, 21)) -> Path:
    for n in numbers:
        hu, liver = body(n)
        label = liver * np.uint8(6)
        label[:3, :3, :3] = 13
        training = root / "RawData" / "Training"
        write_pair(training / "img" / f"img{n:04d}.nii.gz", training / "label" / f"label{n:04d}.nii.gz", hu, label)
    save_nifti(_made(root / "RawData" / "Testing" / "img") / "img0061.nii.gz", hu, AFFINE)
    return root


def chaos(root: Path, numbers=(1, 30)) -> Path:
    """File names count slices from head to feet, and so do the pictures."""
    for n in numbers:
        hu, liver = body(n)
        folder = root / "Train_Sets" / "CT" / str(n)
        slices(folder / "DICOM_anon", hu, lambda k: f"i{SHAPE[2] - 1 - k:04d},0000b.dcm")
        _made(folder / "Ground")
        for k, plane in enumerate(np.moveaxis(to_slices(liver), 2, 0)[::-1]):
            Image.fromarray(plane.T * np.uint8(255)).save(folder / "Ground" / f"liver_GT_{k:03d}.png")
    _made(root / "Train_Sets" / "MR" / "1" / "T1DUAL" / "Ground")
    return root


def pancreas_ct(root: Path, numbers=(1, 2), organ="liver") -> Path:
    """Masks follow the DICOM rows and columns, under a header that says nothing of it."""
    masks = _made(root / ("label_tciapancreasct_multiorgan" if organ == "liver" else "TCIA_pancreas_labels-02-05-2017"))
    for n in (*numbers, 82):  # the last has no mask of its liver
        hu, liver = body(n)
        slices(root / "Pancreas-CT" / f"PANCREAS_{n:04d}" / "11-24-2015" / "0.1", hu, lambda k: f"1-{k + 1:03d}.dcm")
        if n in numbers:
            value = np.uint8(6 if organ == "liver" else 1)
            save_nifti(masks / f"label{n:04d}.nii.gz", to_slices(liver) * value, np.diag([*SPACING_MM, 1.0]))
    return root


def ircad(root: Path, numbers=(1, 2), archives=True) -> Path:
    for n in numbers:
        hu, liver = body(n)
        folder = root / "3Dircadb1" / f"3Dircadb1.{n}"
        slices(folder / "PATIENT_DICOM", hu, lambda k: f"image_{k}")
        tumor = with_tumor(liver) == 2
        for name, mask in (("liver", liver > 0), ("livertumor01", tumor), ("skin", hu > -500), ("tumor", liver > 0)):
            slices(folder / "MASKS_DICOM" / name, mask * np.int16(255), lambda k: f"image_{k}", intercept=0)
        if archives:
            for name in ("PATIENT_DICOM", "MASKS_DICOM"):
                pack(folder / name)
    return root


def pack(folder: Path) -> Path:
    """Replace a folder by an archive of it."""
    archive = folder.with_suffix(".zip")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        for path in files:
            stream.write(path, path.relative_to(folder.parent))
    for path in files:
        path.unlink()
    for path in sorted((path for path in folder.rglob("*")), reverse=True):
        path.rmdir()
    folder.rmdir()
    return archive


def slices(folder: Path, data: np.ndarray, name, **how) -> None:
    """Write RAS data as axial DICOM slices; `name` gets the number of a slice from the feet."""
    for k, path in enumerate(write_series(folder, to_slices(data), axial_affine(AFFINE, data.shape), **how)):
        path.rename(folder / name(k))


def edit_picture(path: Path, change) -> None:
    """Alter a PNG's pixels (rows, columns)."""
    with Image.open(path) as picture:
        pixels = change(np.asarray(picture).copy())
    Image.fromarray(pixels).save(path)


def edit_slice(path: Path, change) -> None:
    """Alter a DICOM file's stored pixels (rows, columns)."""
    dataset = dcmread(path)
    pixels = change(dataset.pixel_array.copy())
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

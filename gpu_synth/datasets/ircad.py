"""3D-IRCADb-01: `3Dircadb1.N/PATIENT_DICOM` and `MASKS_DICOM/liver`, `MASKS_DICOM/livertumor01` and so on, as archives or unpacked; 20.

A mask is a DICOM slice under the name of the image that it was drawn on, `image_0`; nothing is asked of its header.

Source: Soler et al., "3D image reconstruction for comparison of algorithm database", IRCAD 2010.
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from gpu_synth.datasets.contract import Dataset, Scan, Values
from gpu_synth.datasets.files import black_and_white, numbered, read_the_series, unpacked
from gpu_synth.dicom.reading import reading
from gpu_synth.sources import Source
from gpu_synth.volumes import Volume, VolumeError

TUMOR = re.compile(r"livertumou?rs?\d*", re.IGNORECASE)  # not `tumor` nor `leftsurretumor`, which lie in adrenal glands
WANTED = r"(?i)(.*/)?(liver|livertumou?rs?\d*)/.*"


def _find(root: Path, organ: str) -> list[Source]:
    parts = ("PATIENT_DICOM", "MASKS_DICOM")
    folders = numbered(root, r"3Dircadb1\.(\d+)", whole="", holds=(*parts, *(f"{part}.zip" for part in parts)))
    return [Source(f"ircad_{n:02d}", *(_part(folder, part) for part in parts)) for n, folder in folders.items()]


def _part(folder: Path, name: str) -> Path:
    """A folder that was unpacked, or else its archive."""
    return folder / name if (folder / name).is_dir() else folder / f"{name}.zip"


def _read(source: Source) -> Scan:
    assert source.label is not None
    with unpacked(source.image) as folder:
        image, notes, files = read_the_series(folder)
    names = [path.name for path in files]
    label = np.zeros(image.data.shape, np.uint8, order="F")
    with unpacked(source.label, WANTED) as folder:
        organs = sorted(
            path for path in folder.rglob("*") if path.is_dir() and (path.name.lower() == "liver" or TUMOR.fullmatch(path.name))
        )
        if not any(path.name.lower() == "liver" for path in organs):
            raise VolumeError(
                f"{source.label}: must hold a folder liver, got {', '.join(p.name for p in organs) or 'none'}; download it again"
            )
        for organ in organs:  # the liver first: its name is the shortest
            label[_mask(source.label, organ, names, image.data.shape)] = 1 if organ.name.lower() == "liver" else 2
    return Scan(image, Volume(label, image.affine), notes)


def _mask(where: Path, folder: Path, names: list[str], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A structure's mask, slice by slice, each under its image's name."""
    paths = {path.name: path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")}
    lost = [name for name in names if name not in paths]
    if lost or len(paths) != len(names):
        told = f"none for {', '.join(lost[:5])}" if lost else f"{len(paths)}"
        raise VolumeError(f"{where}: {folder.name} must hold a mask for each of {len(names)} images, got {told}; download it again")
    mask = np.zeros(shape, bool, order="F")
    for k, name in enumerate(names):
        with reading(where, f"{folder.name}/{name}"):
            pixels = dcmread(paths[name]).pixel_array
        mask[..., k] = black_and_white(f"{where}: {folder.name}/{name}", pixels, shape[:2])
    return mask


IRCAD = Dataset(
    name="3d-ircadb-01",
    title="3D-IRCADb-01",
    page="https://www.ircad.fr/research/data-sets/liver-segmentation-3d-ircadb-01/",
    layout="3Dircadb1.N/PATIENT_DICOM.zip and MASKS_DICOM.zip",
    numbers={"liver": range(1, 21)},
    organs={"liver": Values(organ=(1,), tumor=(2,))},
    values=range(3),
    find=_find,
    read=_read,
    case_name="ircad_{:02d}".format,
)

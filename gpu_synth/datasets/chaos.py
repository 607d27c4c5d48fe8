"""CHAOS, CT part: `Train_Sets/CT/N/DICOM_anon/*.dcm` and `N/Ground/liver_GT_000.png`, 20 healthy donors.

A mask is a picture of its slice, row for row; the n-th picture belongs to the n-th file by name, which need not be the n-th along the
patient. MR scans of the same download are passed over.

Source: Kavur et al., "CHAOS Challenge", Medical Image Analysis 2021.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpu_synth.datasets.contract import Dataset, Scan, Values
from gpu_synth.datasets.files import black_and_white, by_number, numbered, read_the_series
from gpu_synth.sources import Source
from gpu_synth.volumes import Volume, VolumeError


def _find(root: Path, organ: str) -> list[Source]:
    folders = numbered(root, r"(\d+)", whole="", skip=("MR", "Test_Sets"), holds=("DICOM_anon", "Ground"))
    return [Source(f"chaos_{number:02d}", folder / "DICOM_anon", folder / "Ground") for number, folder in folders.items()]


def _read(source: Source) -> Scan:
    assert source.label is not None
    image, notes, files = read_the_series(source.image)
    pictures = by_number([path for path in source.label.iterdir() if path.suffix.lower() == ".png" and not path.name.startswith(".")])
    if len(pictures) != len(files):
        raise VolumeError(f"{source.label}: must hold a picture for each of {len(files)} slices, got {len(pictures)}; download it again")
    places = [files.index(path) for path in by_number(files)]
    if places not in (sorted(places), sorted(places, reverse=True)):
        raise VolumeError(
            f"{source.image}: file names must count slices in their order along the patient, got another; which mask is whose?"
        )
    planes: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)] * len(files)
    for k, path in zip(places, pictures, strict=True):
        planes[k] = _plane(path, image.data.shape[:2])
    return Scan(image, Volume(np.stack(planes, axis=-1), image.affine), notes)


def _plane(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """One slice's mask (i, j), 0 and 1, of a picture that is black and white."""
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise VolumeError(f"{path}: is no readable picture ({error}); download it again") from error
    return black_and_white(str(path), pixels, shape).astype(np.uint8)


CHAOS = Dataset(
    name="chaos",
    title="CHAOS CT",
    page="https://zenodo.org/records/3431873",
    layout="CT/N/DICOM_anon/*.dcm and CT/N/Ground/*.png",
    numbers={"liver": (1, 2, 5, 6, 8, 10, 14, 16, 18, 19, *range(21, 31))},
    organs={"liver": Values(organ=(1,))},
    values=range(2),
    find=_find,
    read=_read,
    case_name="chaos_{:02d}".format,
)

"""LiTS, the Liver Tumor Segmentation Challenge: 131 CTs `volume-N.nii` with masks `segmentation-N.nii`, in two training batches.

Source: Bilic et al., "The Liver Tumor Segmentation Benchmark (LiTS)", Medical Image Analysis 2023.
"""

from pathlib import Path

from gpu_synth.datasets.contract import Dataset, Scan, Values
from gpu_synth.datasets.files import numbered, pair, read_niftis
from gpu_synth.sources import Source

UNTRUE_SPACING = range(28, 48)  # these are 3D-IRCADb-01, and their headers hold an identity matrix in place of the true spacing


def _find(root: Path, organ: str) -> list[Source]:
    images, masks = numbered(root, r"volume-(\d+)"), numbered(root, r"segmentation-(\d+)")
    return pair(images, masks, "lits_{:03d}", "segmentation-{}.nii", "volume-{}.nii")


def _read(source: Source) -> Scan:
    scan = read_niftis(source)
    number = int(source.name[-3:])
    if number in UNTRUE_SPACING and all(abs(mm - 1) < 1e-6 for mm in scan.image.spacing_mm):
        scan.notes.append("the header says 1×1×1 mm, as of all of LiTS 28 to 47, which is not true: use 3D-IRCADb-01 for these scans")
    return scan


LITS = Dataset(
    name="lits",
    title="LiTS",
    page="https://competitions.codalab.org/competitions/17094",
    layout="volume-N.nii and segmentation-N.nii, in folders of any name",
    numbers={"liver": range(131)},
    organs={"liver": Values(organ=(1,), tumor=(2,))},
    values=range(3),
    find=_find,
    read=_read,
    case_name="lits_{:03d}".format,
)

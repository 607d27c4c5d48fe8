"""Task03_Liver of the Medical Segmentation Decathlon: the scans of LiTS as `imagesTr/liver_N.nii.gz` and `labelsTr/liver_N.nii.gz`.

Cases keep LiTS's names, so that a split by name serves either.

Source: Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 2022.
"""

from dataclasses import replace
from pathlib import Path

from gpu_synth.datasets.files import numbered, pair
from gpu_synth.datasets.lits import LITS
from gpu_synth.sources import Source


def _find(root: Path, organ: str) -> list[Source]:
    skip = ("imagesTs", "labelsTs")
    images = numbered(root, r"liver_(\d+)", skip=("labelsTr", *skip))
    masks = numbered(root, r"liver_(\d+)", skip=("imagesTr", *skip))
    return pair(images, masks, "lits_{:03d}", "labelsTr/liver_{}.nii.gz", "imagesTr/liver_{}.nii.gz")


MSD_LIVER = replace(
    LITS,
    name="msd-liver",
    title="MSD Task03_Liver",
    page="http://medicaldecathlon.com",
    layout="imagesTr/liver_N.nii.gz and labelsTr/liver_N.nii.gz",
    find=_find,
)

"""NIH Pancreas-CT: `PANCREAS_0001/…/*.dcm` and masks `label0001.nii.gz`, 80 scans without a lesion of the pancreas.

The collection's own masks (`TCIA_pancreas_labels-02-05-2017`) hold the pancreas; livers are in those of Gibson et al.
(`label_tciapancreasct_multiorgan`), 43 scans. The masks' headers do not say how they lie: voxel by voxel they follow the DICOM rows and
columns, slices from feet to head, while a header read as NIfTI turns them by flips. They are taken voxel by voxel; where only a flip of
rows or slices makes them fit what the CT shows, flipped, and that is said.

Source: Roth et al., Data From Pancreas-CT, The Cancer Imaging Archive 2016; Gibson et al. 2018.
"""

from pathlib import Path

import numpy as np

from gpu_synth.conform import to_classes
from gpu_synth.datasets.contract import Dataset, Scan, Values
from gpu_synth.datasets.files import numbered, pair, read_the_series
from gpu_synth.mask_fit import better_arrangement
from gpu_synth.sources import Source
from gpu_synth.volumes import Volume, VolumeError, read_nifti

FLIPS = {"flipped along j": (1,), "flipped along k": (2,), "flipped along j and k": (1, 2)}
MULTI_ORGAN = "label_tciapancreasct_multiorgan"
LIVER, PANCREAS, ONLY_PANCREAS = 6, 11, 1  # the last in the collection's own masks, where Gibson et al. have the spleen


def _find(root: Path, organ: str) -> list[Source]:
    images = numbered(root, r"PANCREAS_(\d{4})", whole="")
    own = {number: path for number, path in numbered(root, r"label(\d{4})", skip=(MULTI_ORGAN,)).items() if organ == "pancreas"}
    masks = own or {n: path for folder in root.rglob(MULTI_ORGAN) for n, path in numbered(folder, r"label(\d{4})").items()}
    if not masks and images:
        raise ValueError(
            f"root must hold masks of the {organ}, got none in {root}; for the liver, {MULTI_ORGAN} of zenodo.org/records/1169361"
        )
    if not own:  # not all scans have such a mask
        images = {number: path for number, path in images.items() if number in masks}
    return pair(images, masks, "pancreas-ct_{:04d}", "label{:04d}.nii.gz", "PANCREAS_{:04d}")


def _read(source: Source) -> Scan:
    assert source.label is not None
    image, notes, _ = read_the_series(source.image)
    data = read_nifti(source.label).data
    if MULTI_ORGAN not in source.label.parts:
        mask, held = to_classes(source.label, data, (ONLY_PANCREAS,), ())
        if wrong := [value for value in held if value not in (0, ONLY_PANCREAS)]:
            told = ", ".join(map(str, wrong[:8]))
            raise VolumeError(f"{source.label}: must hold values 0, 1 (the pancreas), got {told} too; download it again")
        data = mask * np.uint8(PANCREAS)
    if data.shape == image.data.shape:
        organ = data == (LIVER if (data == LIVER).any() else PANCREAS)
        better = better_arrangement(image, organ) if organ.any() else ""
        if better in FLIPS:
            data = np.flip(data, FLIPS[better])
            notes.append(f"the mask is taken {better}: only so does it fit the image")
    return Scan(image, Volume(data, image.affine), notes)


PANCREAS_CT = Dataset(
    name="pancreas-ct",
    title="NIH Pancreas-CT",
    page="https://www.cancerimagingarchive.net/collection/pancreas-ct/",
    layout=f"PANCREAS_0001/…/*.dcm and label0001.nii.gz (for livers in {MULTI_ORGAN})",
    numbers={"pancreas": [n for n in range(1, 83) if n not in (25, 70)], "liver": 43},
    organs={"liver": Values((LIVER,)), "pancreas": Values((PANCREAS,))},
    values=range(15),
    find=_find,
    read=_read,
    case_name="pancreas-ct_{:04d}".format,
)

"""BTCV, Multi-Atlas Labeling Beyond the Cranial Vault, abdomen: `img/img0001.nii.gz` and `label/label0001.nii.gz`, 30 with masks.

The 47 scans of the papers have the masks of Gibson et al. (`label_btcv_multiorgan`), with the same names and values: put that folder in
place of `label`.

Source: Landman et al., MICCAI workshop 2015; Gibson et al., "Multi-organ Abdominal CT Reference Standard Segmentations", 2018.
"""

from pathlib import Path

from gpu_synth.datasets.contract import Dataset, Values
from gpu_synth.datasets.files import numbered, pair, read_niftis
from gpu_synth.sources import Source


def _find(root: Path, organ: str) -> list[Source]:
    images, masks = numbered(root, r"img(\d{4})"), numbered(root, r"label(\d{4})")
    # Masks of the test scans are not published.
    images = {number: path for number, path in images.items() if number in masks or "Testing" not in path.parts}
    return pair(images, masks, "btcv_{:04d}", "label{:04d}.nii.gz", "img{:04d}.nii.gz")


NUMBERS = (*range(1, 11), *range(21, 41))
ORGANS = {"liver": (6,), "spleen": (1,), "kidney": (2, 3), "pancreas": (11,)}
BTCV = Dataset(
    name="btcv",
    title="BTCV",
    page="https://www.synapse.org/Synapse:syn3193805",
    layout="img/img0001.nii.gz and label/label0001.nii.gz",
    numbers=dict.fromkeys(ORGANS, NUMBERS),
    organs={organ: Values(values) for organ, values in ORGANS.items()},
    values=range(15),  # 13 organs; Gibson et al. add the duodenum
    find=_find,
    read=read_niftis,
    case_name="btcv_{:04d}".format,
)

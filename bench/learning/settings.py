"""What is compared, and at which size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from monai.networks.nets import SwinUNETR, UNet
from torch import nn

from gpu_synth.trainers.module import CLASSES, FEATURE_SIZE

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Arm:
    """What a network is trained on; all else is the same for all.

    Attributes:
        preset: What its tumours are drawn from.
        overrides: Fields of the preset and their new values.
        offline: Whether its patches and their tumours are few, and come again and again, as if made before the training.
    """

    preset: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    offline: bool = False


ARMS = {
    "hu2022": Arm("liver-hu2022"),
    "liver": Arm("liver"),
    "even-sizes": Arm("liver", {"size_prob": (0.25, 0.25, 0.25, 0.25)}),  # no more weight for small lesions than for large ones
    "offline": Arm("liver", offline=True),
}
PAIRS = (("liver", "hu2022"), ("liver", "even-sizes"), ("liver", "offline"))  # what is compared with what


@dataclass(frozen=True)
class Scale:
    """Sizes of the experiment, the same for all arms.

    Attributes:
        name: What it is called.
        network: "unet" or "swin-unetr-tiny".
        spacing_mm: Of all scans, in all three axes.
        patch_vox: Of training, and of the sliding window.
        batch_size: Patches a step.
        steps: Of the optimiser.
        lr: Highest learning rate.
        phantoms: Training phantoms, beside the CTs.
        pool: Patches of an offline arm: four for each training scan.
        scans: Scans of each evaluation set.
        overlap: Of sliding windows.
        precision: Of Lightning's trainer.
        workers: Processes that read patches.
    """

    name: str
    network: str
    spacing_mm: float
    patch_vox: tuple[int, int, int]
    batch_size: int
    steps: int
    lr: float
    phantoms: int
    pool: int
    scans: int
    overlap: float = 0.25
    precision: str = "32-true"
    workers: int = 0

    def build(self) -> nn.Module:
        """Make the network, its weights drawn from torch's global generator."""
        network: nn.Module = (
            SwinUNETR(1, CLASSES, feature_size=FEATURE_SIZE["tiny"])
            if self.network == "swin-unetr-tiny"
            else UNet(3, 1, CLASSES, channels=(8, 16, 32, 64, 64), strides=(1, 2, 2, 2))
        )
        return network


SCALES = {
    scale.name: scale
    for scale in (
        Scale("small", "unet", 3.0, (40, 40, 40), 2, 700, 3e-3, phantoms=6, pool=32, scans=8),
        Scale(
            *("paper", "swin-unetr-tiny", 1.0, (96, 96, 96), 2, 20_000, 4e-4),
            phantoms=30,
            pool=128,
            scans=16,
            overlap=0.5,
            precision="bf16-mixed",
            workers=8,
        ),
    )
}

"""What the tests of other people's trainers share: phantoms that are read once, and what a model saw of them."""

from functools import cache

import torch
from monai.data import MetaTensor
from torch import nn

from gpu_synth import TumorSynthesizer
from gpu_synth.phantom import Phantom, phantom

SHAPE = (40, 36, 28)
SPACING_MM = (6.0, 6.0, 6.0)
AFFINE = torch.diag(torch.tensor([*SPACING_MM, 1.0], dtype=torch.float64))


@cache
def scans(count: int = 4) -> Phantom:
    """Healthy phantoms. Not to be altered."""
    return phantom(range(count), SHAPE, SPACING_MM)


def samples(count: int = 4, meta: bool = False, **more) -> list[dict]:
    """The same as dicts, copies each; as MONAI's readers make them with `meta`: labels are floating then."""
    pairs = [(image.clone(), label.clone()) for image, label in zip(*scans(count), strict=True)]
    if meta:
        pairs = [(MetaTensor(image, AFFINE), MetaTensor(label.float(), AFFINE)) for image, label in pairs]
    return [{"image": image, "label": label, **more} for image, label in pairs]


def synthesizer(**options) -> TumorSynthesizer:
    """Lesions of 10 mm and more: on these coarse grids a small one may hold no voxel's centre."""
    return TumorSynthesizer(**{"preset": "liver", "prob": 1.0, "seed": 3, "size_prob": (0.0, 0.0, 0.7, 0.3), **options})


class Watched(nn.Module):
    """A network that costs nothing, and remembers what it saw, in training and in validation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv3d(1, 3, 1)
        self.seen: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def forward(self, image):
        (self.seen if self.training else self.validated).append(torch.as_tensor(image).detach().clone().as_subclass(torch.Tensor))
        return self.convolution(image.float() / 1000)


def altered(image: torch.Tensor) -> bool:
    """Whether an image `(1, i, j, k)` in HU is none of the healthy ones."""
    return not any(torch.equal(image, healthy) for healthy in scans().image)


def all_differ(images: list[torch.Tensor]) -> bool:
    flat = torch.stack([image.reshape(-1) for image in images])
    return len(torch.unique(flat, dim=0)) == len(images)

"""What each effect of the lesion model costs: alone, and all together, beside the published method on the same patches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu_synth import TumorSynthesizer
from gpu_synth.bench.case import ORGAN_HU, SEED, SPACING_MM, Case, Setting, patches

NOISE_HU, VESSEL_HU = 12.0, 60.0
CYCLE = 24  # samples that each row is a mean of, or a multiple: lesions differ from sample to sample
PLAIN = "published method"
_OFF: dict[str, Any] = {
    "avoid_vessels": False,
    "displace_vessels": False,
    "mass_effect": (0.0, 0.0),
    "bulge": (0.0, 0.0),
    "cluster_prob": 0.0,
    "satellite_prob": 0.0,
    "cirrhosis_prob": 0.0,
}
_KINDS = {"kinds": ({"name": "encapsulated", "prob": 1.0, "body": (-0.35, -0.12), "capsule_hu": (25.0, 70.0)},)}
_ALL = {"halo": (0.1, 0.2), "satellite_prob": 1.0, "cluster_prob": 1.0, "cirrhosis_prob": 1.0, **_KINDS}
EFFECTS: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("liver-hu2022", {}),
    "lesions alone": ("liver", _OFF),
    "vessel avoidance": ("liver", {**_OFF, "avoid_vessels": True}),
    "vessels displaced": ("liver", {**_OFF, "displace_vessels": True}),
    "mass effect and bulge": ("liver", {**_OFF, "mass_effect": (10.0, 40.0), "bulge": (45.0, 60.0)}),
    "capsules": ("liver", {**_OFF, **_KINDS}),
    "halos": ("liver", {**_OFF, "halo": (0.1, 0.2)}),
    "satellites": ("liver", {**_OFF, "satellite_prob": 1.0}),
    "clusters": ("liver", {**_OFF, "cluster_prob": 1.0}),
    "cirrhosis": ("liver", {**_OFF, "cirrhosis_prob": 1.0}),
    "preset liver": ("liver", {}),
    "all together": ("liver", _ALL),
    "growth": ("liver-growth", _OFF),
}


def case(device: torch.device, setting: Setting) -> Case:
    """Healthy patches in, image and label out: noisy, with vessels, an eighth of them beyond the organ, so that there is a surface."""
    image, label = patches(device, setting)
    image += NOISE_HU * torch.randn(image.shape, generator=torch.Generator().manual_seed(SEED)).to(device)
    i, j, k = (torch.arange(n, device=device) % 32 < 6 for n in image.shape[2:])
    image += VESSEL_HU * ((i[:, None, None] & j[:, None]) | (j[:, None] & k))  # 7 % of the voxels: a venous phase has 4 to 8
    label[:, :, : setting.whole_vox[0] // 8] = 0
    image[label == 0] -= ORGAN_HU

    def synthesis(effect: str) -> Callable[[], tuple[Tensor, Tensor]]:
        name, overrides = EFFECTS[effect]
        synth = TumorSynthesizer(name, prob=1.0, seed=SEED, backend=setting.backend or "auto", **overrides)
        return lambda: synth(image, label, SPACING_MM)

    effect = setting.effect or PLAIN
    return Case(synthesis(effect), (image, label), cycle=CYCLE, beside=None if effect == PLAIN else synthesis(PLAIN))

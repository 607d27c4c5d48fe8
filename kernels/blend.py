"""Blend: lesions' contrast into the image, their mask into the label."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def blend(
    image: Float[Tensor, "b i j k"],
    organ: Bool[Tensor, "b i j k"],
    occupancy: Float[Tensor, "b i j k"],
    texture: Float[Tensor, "b i j k"],
    contrast_hu: Float[Tensor, " b"],
) -> Float[Tensor, "b i j k"]:
    """Add contrast × texture × occupancy inside the organ.

    Args:
        image: HU, any floating type.
        organ: Voxels that may change.
        occupancy: Share of each voxel that is lesion (the smoothed mask), float32.
        texture: Texture in [0, 1], float32.
        contrast_hu: HU of a lesion less HU of the organ, where texture and occupancy are one.

    Returns:
        A new image of the same type. A voxel that nothing is added to keeps its bits; NaN and infinities stay, and stay alone.

    Source: Hu et al. 2022; facts on composite: HU − texture · G(mask) · difference, inside the organ.
    """
    change = texture.mul(occupancy).mul_(contrast_hu[:, None, None, None]).mul_(organ)
    changed = image.to(torch.promote_types(image.dtype, torch.float32)).add(change).to(image.dtype)
    return torch.where(change != 0, changed, image)


def relabel(label: Int[Tensor, "b i j k"], instances: Int[Tensor, "b i j k"], tumor_label: int) -> Int[Tensor, "b i j k"]:
    """Write the tumour's number where there is a lesion; everything else stays."""
    return torch.where(instances > 0, tumor_label, label)

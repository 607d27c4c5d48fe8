"""Blend: lesions' contrast into the image, their number into the label, in place and in one pass."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.kernels import _launch
from gpu_synth.kernels._masks import chosen, finite


def blend_(
    image: Float[Tensor, "b i j k"],
    label: Int[Tensor, "b i j k"],
    number: Int[Tensor, "b i j k"],
    occupancy: Tensor,
    texture: Tensor,
    contrast_hu: Float[Tensor, " b"],
    organ_label: int,
    tumor_label: int,
    backend: str = "torch",
) -> None:
    """Add contrast × texture × occupancy inside the organ, and write the tumour's number where there is a lesion; in place.

    A voxel that nothing is added to keeps its bits; NaN and infinities stay, and stay alone.

    Args:
        image: HU, any floating type.
        label: Labels, any integer type; only voxels of the organ change in the image.
        number: Which lesion holds a voxel, 0 for none, int16.
        occupancy: Share of each voxel that is lesion (the smoothed mask): float32, or 65535ths for the kernel.
        texture: Texture in [0, 1], likewise.
        contrast_hu: HU of a lesion less HU of the organ, where texture and occupancy are one.
        organ_label: Number of the organ.
        tumor_label: Number of tumours.
        backend: "torch" or "cupy".

    Source: Hu et al. 2022; facts on composite: HU − texture · G(mask) · difference, inside the organ.
    """
    (_blend_cuda if backend == "cupy" else blend_torch)(image, label, number, occupancy, texture, contrast_hu, organ_label, tumor_label)


def _blend_cuda(
    image: Tensor,
    label: Tensor,
    number: Tensor,
    occupancy: Tensor,
    texture: Tensor,
    contrast_hu: Tensor,
    organ_label: int,
    tumor_label: int,
) -> None:
    voxels = image[0].numel()
    wide = voxels % 4 == 0 and number.data_ptr() % 8 == 0 and occupancy.data_ptr() % 8 == 0
    kinds = [_launch.image_kind(image.dtype), _launch.label_kind(label.dtype)]
    sizes: list[object] = [organ_label, tumor_label, voxels, wide]
    arguments: list[object] = [image, label, number, occupancy, texture, contrast_hu, *kinds, *sizes]
    _launch.launch("blend", "blend_kernel", (-(-voxels // 1024), len(image), 1), (256, 1, 1), arguments)


def blend_torch(
    image: Tensor,
    label: Tensor,
    number: Tensor,
    occupancy: Tensor,
    texture: Tensor,
    contrast_hu: Tensor,
    organ_label: int,
    tumor_label: int,
) -> None:
    """Twin of the kernel."""
    change = texture.mul(occupancy).mul_(contrast_hu[:, None, None, None]).mul_(label == organ_label)
    changed = image.to(torch.promote_types(image.dtype, torch.float32)).add(change).to(image.dtype)
    image.copy_(torch.where((change != 0) & finite(image), changed, image))
    label.copy_(chosen(number > 0, tumor_label, label))

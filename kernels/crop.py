"""Crop: patches out of healthy volumes that lie packed on the device, int16 HU and uint8 label; HU come out as float32."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int16, Int32, Int64, UInt8
from torch import Tensor

from gpu_synth.kernels import _host, _launch

AIR_HU = -1024  # of what lies outside a volume
WORD_VOX = 8  # voxels that are read at once, from addresses that divide by them


class Packed(NamedTuple):
    """Volumes one after the other, each in its own shape, its last axis the fastest; lengths of the buffers are multiples of `WORD_VOX`.

    Attributes:
        image: HU of all volumes.
        label: Their labels.
        offset: First voxel of each.
        shape: Voxels of each along i, j, k.
    """

    image: Int16[Tensor, " voxels"]
    label: UInt8[Tensor, " voxels"]
    offset: Int64[Tensor, " volumes"]
    shape: Int32[Tensor, "volumes 3"]


class Patches(NamedTuple):
    """What was cut out."""

    image: Float[Tensor, "b i j k"]
    label: UInt8[Tensor, "b i j k"]


def crop(volumes: Packed, place: Int64[Tensor, "b 4"], size_vox: Sequence[int], backend: str = "torch") -> Patches:
    """Cut boxes of one size out of volumes; to the bit the same on every backend.

    Args:
        volumes: Where from; on the device of `place`.
        place: Which volume, and the box's first voxel in it, along i, j, k; the box may reach over the volume's border on any side.
        size_vox: Voxels of the boxes, along i, j, k.
        backend: "torch" or "cupy".

    Returns:
        HU and label; −1024 HU and 0 outside the volume.

    Raises:
        ValueError: The buffers are not of equal length, of whole words, or not aligned to them.
    """
    image, label = volumes.image, volumes.label
    if len(image) != len(label) or len(image) % WORD_VOX:
        raise ValueError(f"volumes must hold image and label of one length, a multiple of {WORD_VOX}, got {len(image)} and {len(label)}")
    if image.storage_offset() % WORD_VOX or label.storage_offset() % WORD_VOX:
        raise ValueError("volumes must begin where their buffers do, got views into the middle; pack them anew")
    return (_crop_cuda if backend == "cupy" else crop_torch)(volumes, place, size_vox)


def _crop_cuda(volumes: Packed, place: Tensor, size_vox: Sequence[int]) -> Patches:
    out = _empty(place, size_vox)
    items = size_vox[0] * size_vox[1] * -(-size_vox[2] // WORD_VOX)
    sizes: list[object] = [*size_vox, size_vox[2] % WORD_VOX == 0]
    _launch.launch("crop", "crop_kernel", (-(-items // 256), len(place), 1), (256, 1, 1), [*out, *volumes, place.contiguous(), *sizes])
    return out


def crop_torch(volumes: Packed, place: Tensor, size_vox: Sequence[int]) -> Patches:
    """Twin of the kernel: on the host copies of boxes, elsewhere voxels by their addresses."""
    return _by_boxes(volumes, place, size_vox) if _host.on_host(place.device) else by_addresses(volumes, place, size_vox)


def by_addresses(volumes: Packed, place: Int64[Tensor, "b 4"], size_vox: Sequence[int]) -> Patches:
    """Reckon every voxel's address; nothing is read back."""
    start, whole = place[:, 1:], volumes.shape[place[:, 0]].to(torch.int64)
    along = [start[:, axis, None] + torch.arange(n, device=place.device) for axis, n in enumerate(size_vox)]
    inside = [(at >= 0) & (at < whole[:, axis, None]) for axis, at in enumerate(along)]
    i, j, k = along[0][:, :, None, None], along[1][:, None, :, None], along[2][:, None, None, :]
    held = inside[0][:, :, None, None] & inside[1][:, None, :, None] & inside[2][:, None, None, :]
    first, nj, nk = (x[:, None, None, None] for x in (volumes.offset[place[:, 0]], whole[:, 1], whole[:, 2]))
    address = torch.where(held, first + (i * nj + j) * nk + k, 0)
    return Patches(torch.where(held, volumes.image[address], AIR_HU).to(torch.float32), torch.where(held, volumes.label[address], 0))


def _by_boxes(volumes: Packed, place: Tensor, size_vox: Sequence[int]) -> Patches:
    out = _empty(place, size_vox)
    out.image.fill_(AIR_HU)
    out.label.zero_()
    offsets, shapes = volumes.offset.tolist(), volumes.shape.tolist()
    for sample, (which, *start) in enumerate(place.tolist()):
        shape = shapes[which]
        ends = [(max(0, s), min(n, s + size)) for s, n, size in zip(start, shape, size_vox, strict=True)]
        if any(first >= last for first, last in ends):
            continue
        source = tuple(slice(first, last) for first, last in ends)
        target = tuple(slice(first - s, last - s) for (first, last), s in zip(ends, start, strict=True))
        voxels = slice(offsets[which], offsets[which] + shape[0] * shape[1] * shape[2])
        for box, packed in ((out.image, volumes.image), (out.label, volumes.label)):
            box[sample][target] = packed[voxels].view(*shape)[source]
    return out


def _empty(place: Int[Tensor, "b 4"], size_vox: Sequence[int]) -> Patches:
    shape = (len(place), *size_vox)
    image, label = (torch.empty(shape, dtype=dtype, device=place.device) for dtype in (torch.float32, torch.uint8))
    return Patches(image, label)

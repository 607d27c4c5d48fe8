"""Crop: the box of the volume that was asked for, air around it, the same bits from twin, addresses and kernel."""

import numpy as np
import pytest
import torch
from twins import assert_equal, on

from gpu_synth import volumes as volumes_on_disk
from gpu_synth.kernels.crop import AIR_HU, WORD_VOX, Packed, by_addresses, crop

SHAPES = [(23, 17, 31), (9, 41, 16), (3, 4, 5)]


def volumes(shapes=SHAPES):
    """Volumes of every int16 there is, packed one after the other, and the same as arrays."""
    rng = np.random.default_rng(0)
    images = [rng.integers(-(2**15), 2**15, shape).astype(np.int16) for shape in shapes]
    labels = [rng.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
    sizes = [image.size for image in images]
    length = -(-sum(sizes) // WORD_VOX) * WORD_VOX
    image, label = torch.full((length,), 77, dtype=torch.int16), torch.full((length,), 77, dtype=torch.uint8)
    for packed, parts in ((image, images), (label, labels)):
        packed[: sum(sizes)] = torch.from_numpy(np.concatenate([part.ravel() for part in parts]))
    offset = torch.tensor([sum(sizes[:n]) for n in range(len(sizes))])
    return Packed(image, label, offset, torch.tensor(shapes, dtype=torch.int32)), images, labels


def cut(volume: np.ndarray, start, size, outside) -> np.ndarray:
    """Pad by the box on all sides, then slice."""
    padded = np.pad(volume, [(n, n) for n in size], constant_values=outside)
    start = [min(max(s, -n), length) for s, n, length in zip(start, size, volume.shape, strict=True)]
    return padded[tuple(slice(s + n, s + 2 * n) for s, n in zip(start, size, strict=True))]


def places(size):
    """Inside, at every offset along the last axis, over each border, larger than the volume, and wholly outside."""
    some = [(0, 1, 2, k) for k in range(9)] + [
        (1, -3, -2, -5),
        (1, 5, 36, 11),
        (2, -1, -1, -1),
        (2, 0, 0, 0),
        (0, 15, 9, 23),
        (0, -40, 0, 0),
    ]
    some += [(0, 0, 17, 0), (1, 0, 0, 16), (1, 0, 0, -size[2]), (2, 2**40, 0, 0)]
    return torch.tensor(some)


@pytest.mark.parametrize("size", [(7, 6, 16), (5, 9, 13), (1, 1, 1), (2, 3, 8)], ids=str)
def test_holds_the_box_and_air_around_it(size):
    packed, images, labels = volumes()
    at = places(size)
    out = crop(packed, at, size)
    assert out.image.shape == out.label.shape == (len(at), *size)
    assert (out.image.dtype, out.label.dtype) == (torch.float32, torch.uint8)
    for n, (which, *start) in enumerate(at.tolist()):
        np.testing.assert_array_equal(out.image[n], cut(images[which], start, size, AIR_HU).astype(np.float32))
        np.testing.assert_array_equal(out.label[n], cut(labels[which], start, size, 0))


@pytest.mark.parametrize("size", [(7, 6, 16), (5, 9, 13), (1, 1, 1), (2, 3, 8), (40, 2, 24)], ids=str)
def test_kernel_and_addresses_cut_as_the_twin(device, size):
    packed, *_ = volumes()
    at = places(size)
    twin = crop(packed, at, size)
    for out in (crop(on(device, packed), at.to(device), size, "cupy"), by_addresses(on(device, packed), at.to(device), size)):
        assert_equal(out.image, twin.image)
        assert_equal(out.label, twin.label)


def test_one_patch_and_none(device):
    packed, *_ = volumes([(4, 4, 8)])
    at = torch.tensor([[0, 0, 0, 0]])
    assert_equal(crop(on(device, packed), at.to(device), (4, 4, 8), "cupy").image.flatten().to(torch.int16), packed.image)
    assert crop(packed, at[:0], (4, 4, 8)).image.shape == (0, 4, 4, 8)


def test_addresses_are_reckoned_in_64_bits(device):
    """A volume that begins behind 2³¹ voxels of another, whose memory is never touched."""
    image, label = (torch.from_numpy(np.zeros(2**31 + 64, dtype)) for dtype in (np.int16, np.uint8))
    image[2**31 :], label[2**31 :] = torch.arange(64), torch.arange(64)
    packed = Packed(image, label, torch.tensor([0, 2**31]), torch.tensor([[2048, 1024, 1024], [4, 4, 4]], dtype=torch.int32))
    at = torch.tensor([[1, 1, 0, 0], [0, 2047, 1023, 1016]])
    twin = crop(packed, at, (3, 4, 8))
    assert twin.image[0, :, :, :4].flatten().tolist() == list(range(16, 64))
    assert_equal(by_addresses(packed, at, (3, 4, 8)).image, twin.image)
    kernel = crop(on(device, packed), at.to(device), (3, 4, 8), "cupy")
    assert_equal(kernel.image, twin.image)
    assert_equal(kernel.label, twin.label)


def test_nothing_is_read_back():
    """On the meta device, where reading raises."""
    meta = {"device": "meta"}
    packed = Packed(
        torch.empty(2**33, dtype=torch.int16, **meta),
        torch.empty(2**33, dtype=torch.uint8, **meta),
        torch.empty(1, dtype=torch.int64, **meta),
        torch.empty(1, 3, dtype=torch.int32, **meta),
    )
    out = crop(packed, torch.empty(2, 4, dtype=torch.int64, **meta), (5, 6, 7))
    assert out.image.shape == out.label.shape == (2, 5, 6, 7)


def test_air_is_what_reading_from_disk_takes():
    assert AIR_HU == volumes_on_disk.AIR_HU


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x._replace(image=x.image[:-8]), "one length, a multiple of 8, got"),
        (lambda x: x._replace(image=x.image[:-3], label=x.label[:-3]), "a multiple of 8, got"),
        (lambda x: x._replace(image=x.image[1:-7], label=x.label[1:-7]), "must begin where their buffers do"),
    ],
    ids=["lengths", "words", "views"],
)
def test_buffers_that_a_kernel_would_misread_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        crop(change(volumes()[0]), torch.zeros(1, 4, dtype=torch.int64), (2, 2, 2))

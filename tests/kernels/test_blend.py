"""Blend: what changes, by how much, and that nothing else does, to the bit."""

import pytest
import torch
from scans import same
from twins import on

from gpu_synth.kernels.blend import blend_

SHAPE = (2, 9, 8, 7)
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]


def parts():
    """Random occupancy and texture, each zero somewhere; an organ of half the voxels; contrasts of either sign."""
    generator = torch.Generator().manual_seed(1)
    occupancy, grain, image = (torch.rand(SHAPE, generator=generator) for _ in range(3))
    occupancy[:, :3], grain[:, :, :2] = 0, 0
    organ = torch.rand(SHAPE, generator=generator) < 0.5
    return image * 400 - 100, organ, occupancy, grain, torch.tensor([-120.0, 75.0])


def blend(image, organ, occupancy, grain, contrast):
    """The image alone, of a copy."""
    image, label = image.clone(), organ.to(torch.uint8)
    blend_(image, label, torch.zeros(SHAPE, dtype=torch.int16), occupancy, grain, contrast, 1, 2)
    assert torch.equal(label, organ.to(torch.uint8))
    return image


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_adds_contrast_times_texture_times_occupancy_in_the_organ(dtype):
    image, organ, occupancy, grain, contrast = parts()
    image = image.to(dtype)
    out = blend(image, organ, occupancy, grain, contrast)
    change = (contrast[:, None, None, None].double() * grain * occupancy) * organ
    expected = image.double() + change
    assert out.dtype == dtype
    rounding = torch.finfo(dtype if dtype != torch.float64 else torch.float32).eps  # of the result's type; the change is float32
    assert ((out.double() - expected).abs() <= rounding * (expected.abs() + change.abs() + 1e-3)).all()
    assert (out != image)[change.abs() > 4].all()
    assert same(out[change == 0], image[change == 0])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_untouched_voxels_keep_their_bits(dtype):
    """Outside organ, lesion and texture: −0.0, subnormals, infinities and every NaN's payload."""
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    bits = torch.randint(-(2**62), 2**62, SHAPE, generator=torch.Generator().manual_seed(2)).to(word)
    image = bits.view(dtype).clone()
    image[0, 0, 0, :4] = torch.tensor([-0.0, 0.0, torch.inf, torch.nan], dtype=dtype)
    _, organ, occupancy, grain, contrast = parts()
    touched = organ & (occupancy > 0) & (grain > 0)
    out = blend(image, organ, occupancy, grain, contrast)
    assert same(out[~touched], image[~touched])
    assert image[~touched].isnan().any()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_is_not_finite_stays_and_stays_alone(dtype):
    image, _, occupancy, grain, contrast = parts()
    image, organ = image.to(dtype), torch.ones(SHAPE, dtype=torch.bool)
    clean = blend(image, organ, occupancy, grain, contrast)
    for at, value in (((0, 5, 5, 5), torch.nan), ((1, 6, 6, 6), torch.inf), ((1, 4, 4, 4), -torch.inf)):
        image[at] = clean[at] = value
    torch.testing.assert_close(blend(image, organ, occupancy, grain, contrast), clean, rtol=0, atol=0, equal_nan=True)


def test_what_is_only_read_is_left_alone():
    image, organ, *rest = parts()
    number = torch.ones(SHAPE, dtype=torch.int16)
    copies = [tensor.clone() for tensor in (number, *rest)]
    blend_(image, organ.long(), number, *rest, 1, 2)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip((number, *rest), copies, strict=True))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_labels_of_any_integer_type(dtype):
    label = torch.arange(8).to(dtype).view(1, 2, 2, 2)
    instances = torch.tensor([0, 1, 0, 2, 0, 0, 28, 0], dtype=torch.int16).view(1, 2, 2, 2)
    zero = torch.zeros(1, 2, 2, 2)
    blend_(zero.clone(), label, instances, zero, zero, torch.ones(1), 1, 99)
    assert label.dtype == dtype
    assert label.flatten().tolist() == [0, 99, 2, 99, 4, 5, 99, 7]


@pytest.mark.parametrize("shape", [(2, 9, 8, 7), (2, 4, 6, 3), (1, 1, 1, 5)], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int16, torch.int64], ids=str)
def test_kernel_blends_as_the_twin(device, dtype, label_dtype, shape):
    """Occupancy and texture in 16 bits are what both are given; the result may differ in the last place of float32, and of its own type."""
    generator = torch.Generator().manual_seed(3)
    image = (torch.randn(shape, generator=generator) * 200).to(dtype)
    image.flatten()[:4] = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38 if dtype != torch.float16 else 65504.0])
    label = (torch.rand(shape, generator=generator) < 0.6).to(label_dtype)
    occupancy, grain = ((torch.rand(shape, generator=generator) * 65536).to(torch.int32) * keep for keep in (label.int(), 1))
    occupancy.flatten()[:4] = 60000
    number = ((occupancy > 40000) & (label == 1)).to(torch.int16) * 3
    contrast, bits = torch.tensor([-120.0, 75.0])[: shape[0]], [x.to(torch.uint16) for x in (occupancy, grain)]
    twin_image, twin_label = image.clone(), label.clone()
    blend_(twin_image, twin_label, number, *(x.to(torch.float32) / 65535 for x in (occupancy, grain)), contrast, 1, 2)
    kernel_image, kernel_label = image.to(device, copy=True), label.to(device, copy=True)
    blend_(kernel_image, kernel_label, *on(device, (number, *bits, contrast)), 1, 2, "cupy")
    assert torch.equal(kernel_label.cpu(), twin_label)
    eps = max(torch.finfo(dtype).eps, 2.0**-23)
    torch.testing.assert_close(kernel_image.cpu(), twin_image, rtol=eps, atol=120 * eps, equal_nan=True)
    untouched = (occupancy == 0) & (number == 0)
    assert same(kernel_image.cpu()[untouched], image[untouched])

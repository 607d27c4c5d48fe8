"""Cirrhosis: nodules of the known size, a surface that they bulge, one to one; noise and all else stay; kernels as the twin."""

import math

import numpy as np
import pytest
import torch
from scans import same
from scipy import ndimage
from twins import assert_same_images, assert_same_labels, on

from gpu_synth.kernels import _host
from gpu_synth.kernels._nodules import nodules, waves
from gpu_synth.kernels._resample import along, trilinear
from gpu_synth.kernels._surface import MOST_SHIFT, band, displacement, nearest_point, sigma_vox
from gpu_synth.kernels.cirrhosis import cirrhosis
from gpu_synth.phantom import phantom

ONE_MM, SEED = (1.0, 1.0, 1.0), 3
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]


def diseased(image, label, strength=0.8, nodule_hu=8.0, spacing_mm=ONE_MM, first_uid=0, origin_vox=(0, 0, 0), seed=SEED):
    b = len(image)
    asked = (torch.full((b,), x) for x in (strength, nodule_hu))
    return cirrhosis(image, label, *asked, 1, spacing_mm, seed, torch.arange(first_uid, first_uid + b), origin_vox)


def scan(shape, dtype=torch.float32, label_dtype=torch.uint8, seed=0, others=True):
    """Noise and contrast, an ellipsoid that a border cuts, another organ that touches it, and specks of a third."""
    generator = torch.Generator().manual_seed(seed)
    i, j, k = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape[1:]), indexing="ij")
    organ = (((i + 0.4) / 0.9) ** 2 + (j / 0.85) ** 2 + (k / 0.8) ** 2 < 1).expand(shape)
    image = (organ * 150.0 - 50.0 + 12 * torch.randn(shape, generator=generator)).to(dtype)
    label = organ.to(torch.int64)
    if others:
        label = label.where(~((j > 0.6) & (i > 0)), 3).where(torch.rand(shape, generator=generator) > 0.0005, 7)
    return image, label.to(label_dtype)


def oracle(wave, points_mm):
    """Profile at points `(n, 3)`, in double, from the formula."""
    angle = 2 * np.pi * (points_mm @ wave[..., :3].reshape(-1, 3).T + wave[..., 3].ravel())
    fields = np.cos(angle).reshape(len(points_mm), 12, 8).sum(-1) / 2
    second, first = np.sort(fields, 1)[:, -2:].T
    square, contrast = (first - second) ** 2, np.linspace(0.45, 1.55, 12)[fields.argmax(1)]
    return (contrast * square / (square + 1) - 0.2051) / 0.2338


# ---- nodules ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin_vox", [(0, 0, 0), (100_000, -70_000, 512)], ids=["origin", "far"])
def test_profile_is_the_formula(origin_vox):
    """To 1e-4 of a standard deviation, also far away."""
    spacing_mm, wave = (0.7, 1.3, 5.0), waves(SEED, torch.tensor([2**40]))[0]
    got = nodules(wave, [(0, 21), (3, 20), (1, 9)], spacing_mm, origin_vox)
    points = (np.indices((21, 17, 8)).reshape(3, -1).T + np.add(origin_vox, (0, 3, 1))) * spacing_mm
    np.testing.assert_allclose(got.numpy().ravel(), oracle(wave.numpy(), points), rtol=0, atol=1e-4)


def test_nodules_are_of_3_to_15_mm(told):
    """Some 11 000 nodules in eight cubes of 96 mm, each by the diameter of a ball of its volume: 95 % of their volume in 3–15 mm.

    A nodule is where one field is the largest and its profile a seventh of the way up, in one piece; it counts for the share of places
    where it would lie wholly within the cube, by its box. The standard error of the share, from its spread over cubes, is below 1 %;
    twice that is what it may fall short by.
    """
    n, shares, quantiles, count = 96, [], [], 0
    for uid in range(8):
        wave, at = waves(SEED, torch.tensor([uid]))[0].numpy(), np.arange(n)
        i, j, k = (np.exp(2j * np.pi * at[:, None, None] * wave[..., axis]) for axis in range(3))
        i *= np.exp(2j * np.pi * wave[..., 3])
        fields = [((i[:, None, f] * j[:, f]).reshape(n * n, -1) @ k[:, f].T).real.reshape(n, n, n) / 2 for f in range(12)]
        second, first = np.partition(fields, 10, 0)[10:]
        own = np.where(first - second > 0.4, np.argmax(fields, 0), -1)
        found = []
        for field in range(12):
            pieces, _ = ndimage.label(own == field)
            for number, box in enumerate(ndimage.find_objects(pieces), 1):
                if all(ends.start > 0 and ends.stop < n for ends in box):
                    volume, seen = (pieces[box] == number).sum(), np.prod([1 - (ends.stop - ends.start + 1) / n for ends in box])
                    found.append((np.cbrt(6 / np.pi * volume), volume / seen))
        diameter, weight = np.array(found).T
        inside = (diameter >= 3) & (diameter <= 15)
        shares.append(weight[inside].sum() / weight.sum())
        order, count = np.argsort(diameter), count + len(found)
        ends = np.searchsorted(weight[order].cumsum() / weight.sum(), [0.05, 0.5, 0.95])
        quantiles.append(diameter[order][ends])
    error = np.std(shares, ddof=1) / math.sqrt(len(shares))
    for share, diameter in zip((5, 50, 95), np.mean(quantiles, 0), strict=True):
        told(f"nodules, mm of diameter below which {share} % of their volume lies", count, diameter, "3 to 15")
    told("nodules, share of their volume in 3 to 15 mm", count, np.mean(shares), "≥ 0.95 less twice its error of < 0.01")
    assert error < 0.01
    assert np.mean(shares) >= 0.95 - 2 * error


def test_the_organs_hu_keep_their_mean_and_nodules_have_the_asked_amplitude():
    """24 patches of 64 mm, some 600 nodules each, 10 HU: mean within 1 HU in each, 0.15 HU over all; SD within 6 and 1.5 % (3 errors)."""
    image, label = torch.full((24, 64, 64, 64), 100.0), torch.ones(24, 64, 64, 64, dtype=torch.uint8)
    change = diseased(image, label, nodule_hu=10.0).image.double() - 100.0
    mean, sd = change.flatten(1).mean(1), change.flatten(1).std(1)
    print(f"mean {mean.mean():.3f} ± {mean.std() / 24**0.5:.3f}, of a patch ± {mean.std():.3f}; SD {sd.mean():.3f} ± {sd.std():.3f}")
    assert mean.abs().max() < 1.0
    assert mean.mean().abs() < 0.15
    assert ((sd / 10 - 1).abs() < 0.06).all()
    assert abs(sd.mean() / 10 - 1) < 0.015


def test_nodules_fill_what_is_organ_afterwards():
    label = (torch.arange(40)[:, None, None] + 0.3 * torch.arange(40)[:, None] < 26).to(torch.uint8).expand(1, 40, 40, 40)
    out = diseased(torch.full((1, 40, 40, 40), 100.0), label, 1.0)
    assert (out.label != label).sum() > 500
    changed = out.image != 100
    assert not changed[out.label == 0].any()
    assert changed[out.label == 1].double().mean() > 0.999


# ---- surface ----------------------------------------------------------------------------------------------------------------------------

NORMAL = np.array([1.0, -0.3, 0.0]) / math.sqrt(1.09)


def crossing(image):
    """Where along i an image falls below 50, between voxels."""
    at = (image < 50).argmax(1)[:, None]
    before, after = (np.take_along_axis(image, x, 1)[:, 0] for x in (at - 1, at))
    return at[:, 0] - 1 + (before - 50) / (before - after)


@pytest.mark.parametrize(
    ("spacing_mm", "strength", "least"),
    [(ONE_MM, 0.5, 0.8), (ONE_MM, 0.8, 0.7), ((1.5, 1.5, 1.5), 0.9, 0.65), ((0.7, 0.7, 2.0), 0.5, 0.75)],
    ids=str,
)
def test_the_surface_moves_as_nodules_say(spacing_mm, strength, least):
    """A slanted plane in four samples of 2300 columns, some 400 nodules: image and label move by strength times profile, below the limit.

    Widths of a voxel and the limit take some of the deviation. A label moves only where it is off by half a voxel or more.
    """
    i, j = torch.arange(40.0)[:, None, None], torch.arange(64.0)[:, None]
    away_mm = (i - 20 - 0.3 * (j - 32)) * spacing_mm[0] / math.sqrt(1.09)
    label, image = (x.expand(4, 40, 64, 64) for x in ((away_mm < 0).to(torch.uint8), 100 / (1 + torch.exp(away_mm / 0.8))))
    out, rows = diseased(image, label, strength, 0.0, spacing_mm), (slice(None), slice(8, 56), slice(8, 56))
    after = crossing(out.image.double().numpy())[rows]
    moved_mm = (after - crossing(image.double().numpy())[rows]) * spacing_mm[0] * NORMAL[0]
    at_mm = np.stack(np.broadcast_arrays(after, *np.mgrid[8:56, 8:56]), -1) * spacing_mm - moved_mm[..., None] * NORMAL
    profile = np.stack(
        [oracle(w.numpy(), at.reshape(-1, 3)).reshape(48, 48) for w, at in zip(waves(SEED, torch.arange(4)), at_mm, strict=True)]
    )
    limit_mm = MOST_SHIFT * sigma_vox(spacing_mm[0]) * spacing_mm[0]
    expected = strength * profile / (1 + (strength * profile / limit_mm) ** 4) ** 0.25
    flipped = (out.label.long() - label.long()).sum(1).double().numpy()[rows] * spacing_mm[0] * NORMAL[0]
    correlation = np.corrcoef(expected.ravel(), moved_mm.ravel())[0, 1]
    print(f"asked {strength}, expected {expected.std():.3f}, image {moved_mm.std():.3f}, label {flipped.std():.3f}, r {correlation:.3f}")
    assert correlation > 0.95
    assert least * strength < moved_mm.std() <= 1.05 * strength
    assert np.abs(flipped - moved_mm).std() < 0.36 * spacing_mm[0]  # rounding alone: 0.29
    assert 0.65 * strength < flipped.std() < 1.15 * strength


def surface_map(organ, spacing_mm, strength, uid):
    """u of the map x → x + u, in voxels, `(3, i, j, k)`."""
    near = band(organ, torch.zeros_like(organ), spacing_mm)
    profile = nodules(waves(SEED, torch.tensor([uid]))[0], [(0, n) for n in organ.shape], spacing_mm, (0, 0, 0))
    away, sigma_mm = nearest_point(near, spacing_mm)
    ways = [along(at, by, organ.shape, axis) for axis, (at, by) in enumerate(zip(near.voxel, away, strict=True))]
    u = torch.zeros(3, *organ.shape)
    u.view(3, -1)[:, near.offset[0]] = torch.cat(
        displacement(near, trilinear(profile[None], ways), torch.tensor(strength), sigma_mm, spacing_mm)
    )
    return u.double().numpy()


@pytest.mark.parametrize("spacing_mm", [ONE_MM, (1.5, 1.5, 1.5), (0.7, 0.7, 5.0)], ids=str)
def test_the_map_is_one_to_one(spacing_mm):
    """Livers of two phantoms, edges and clefts and all, strengths from usual to as much as you like: the Jacobian stays positive."""
    least = {}
    for uid in range(2):
        organ = phantom(uid, [int(mm / step) for mm, step in zip((150, 130, 50), spacing_mm, strict=True)], spacing_mm).label[0, 0] == 1
        for strength in (0.8, 9.0):
            u = surface_map(organ, spacing_mm, strength, uid)
            jacobian = np.stack([np.stack(np.gradient(part)) for part in u], -1).transpose(1, 2, 3, 0, 4) + np.eye(3)
            least[strength] = min(least.get(strength, 1.0), np.linalg.det(jacobian).min())
            assert np.abs(u).max() > 0.5 / spacing_mm[0]
    print("least Jacobian by strength", least)
    assert least[0.8] > 0.15
    assert least[9.0] > 0.05


def test_a_flat_surface_is_squeezed_to_half_at_most():
    organ = (torch.arange(40)[:, None, None] < 20).expand(40, 3, 3)
    near = band(organ, torch.zeros_like(organ), ONE_MM)
    u = torch.zeros(40, 3, 3)
    u.view(-1)[near.offset] = displacement(near, torch.tensor(9.0), torch.tensor(9.0), nearest_point(near, ONE_MM)[1], ONE_MM)[0]
    assert 0.5 <= 1 + np.diff(u[:, 1, 1].numpy()).min() < 0.6


BANDS = ((0.25, 0.5), (0.5, 0.75), (0.75, 1.0))


def band_power(field, window):
    power = np.abs(np.fft.fftn((field - field.mean()) * window)) ** 2
    i, j, k = (np.fft.fftfreq(n) ** 2 * 4 for n in field.shape)
    radius = np.sqrt(i[:, None, None] + j[:, None] + k)
    return np.array([power[(radius >= low) & (radius < high)].sum() for low, high in BANDS])


@pytest.mark.parametrize("blur_vox", [0.0, 0.9], ids=["white", "0.9-voxels"])
def test_noise_at_the_surface_keeps_its_spectrum(blur_vox):
    """52 flat surfaces in noise of 12 HU, power within 4 voxels of them before and after: within 15 %; its standard error is below 1 %."""
    noise = np.random.default_rng(0).standard_normal((52, 24, 40, 40))
    noise = ndimage.gaussian_filter(noise, (0, blur_vox, blur_vox, blur_vox))
    noise = torch.from_numpy(12 * noise / noise.std()).float()
    label = (torch.arange(24) < 12).to(torch.uint8)[:, None, None].expand(noise.shape)
    out, hann = diseased(noise, label, nodule_hu=0.0).image, np.hanning(42)[1:-1]
    window = np.exp(-0.5 * ((np.arange(24) - 11.5) / 2) ** 2)[:, None, None] * hann[:, None] * hann
    assert (out != noise).double().mean() > 0.2
    ratios = np.array(
        [band_power(a, window) / band_power(b, window) for a, b in zip(out.double().numpy(), noise.double().numpy(), strict=True)]
    )
    mean, error = ratios.mean(0), ratios.std(0) / math.sqrt(len(ratios))
    print(f"{mean.round(3)} ± {error.round(4)}")
    assert (error < 0.01).all()
    assert (np.abs(mean - 1) + 3 * error < 0.15).all()


# ---- what stays -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_far_from_the_organ_and_where_nothing_is_asked_all_keep_their_bits(dtype):
    image, label = scan((5, 44, 40, 36), dtype)
    image[:, ::3, ::3, ::5] = -0.0
    image[:, -1, -1, -1] = torch.nan
    asked = torch.tensor([[0.8, 0.0, -1.0, torch.nan, 1.0], [8.0, 8.0, 8.0, 8.0, torch.inf]])
    copy = image.clone(), label.clone()
    out = cirrhosis(image, label, *asked, 1, ONE_MM, SEED, torch.arange(5))
    assert same(image, copy[0])
    assert torch.equal(label, copy[1])
    assert same(out.image[1:], image[1:])
    assert torch.equal(out.label[1:], label[1:])
    far = torch.from_numpy(ndimage.distance_transform_cdt(label[0] != 1) > 8)
    assert same(out.image[0][far], image[0][far])
    assert torch.equal(out.label[0][far], label[0][far])
    assert (out.image[0] != image[0]).sum() > 10_000
    assert out.image.dtype == dtype


@pytest.mark.parametrize("backend", ["torch", "cupy"])
@pytest.mark.parametrize("label_dtype", INTEGERS, ids=str)
def test_other_labels_stay_and_none_is_made(device, label_dtype, backend):
    image, label = scan((1, 41, 36, 27), label_dtype=label_dtype)
    where = device if backend == "cupy" else torch.device("cpu")
    given = on(where, (image, label, torch.tensor([1.0]), torch.tensor([8.0])))
    out = cirrhosis(*given, 1, ONE_MM, SEED, torch.arange(1, device=where), backend=backend)
    before, after = label.long(), out.label.cpu().long()
    assert out.label.dtype == label_dtype
    for other in (3, 7):
        assert torch.equal(before == other, after == other)
    assert set(after.unique().tolist()) == {0, 1, 3, 7}
    assert (before != after).sum() > 300
    assert same(out.image.cpu()[before > 1], image[before > 1])
    beside = torch.from_numpy(ndimage.distance_transform_edt(before[0] != 3) < 2)[None]
    assert torch.equal(before[beside], after[beside])  # no dents around what does not move


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_what_is_not_finite_stays_and_stays_alone(value):
    image, label = scan((1, 30, 30, 30), others=False)
    clean, at = diseased(image, label), (0, 15, 3, 15)
    image[at] = value
    out = diseased(image, label)
    assert torch.equal(out.image.isfinite(), image.isfinite())
    assert torch.equal(out.label, clean.label)
    differs = out.image != clean.image
    differs[0, 6:25, :13, 6:25] = False
    assert not differs.any()


@pytest.mark.parametrize("shape", [(2, 17, 9, 12), (2, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("organ", [0, 1], ids=["no-organ", "all-organ"])
def test_organs_without_a_surface(organ, shape):
    image, label = torch.full(shape, 40.0), torch.full(shape, organ, dtype=torch.int16)
    out = diseased(image, label)
    assert torch.equal(out.label, label)
    assert (out.image != image).all() if organ else same(out.image, image)


# ---- the same in every way of doing it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing_mm", [ONE_MM, (0.7, 0.7, 5.0)], ids=str)
def test_a_crop_of_a_result_is_the_result_of_the_crop(spacing_mm):
    image, label = scan((1, 52, 50, 48))
    whole = diseased(image, label, spacing_mm=spacing_mm, origin_vox=(100, -3, 7))
    crop, inner = (slice(None), slice(7, 49), slice(5, 41), slice(3, 40)), (slice(None), *[slice(8, -8)] * 3)
    part = diseased(image[crop], label[crop], spacing_mm=spacing_mm, origin_vox=(107, 2, 10))
    assert_same_labels(part.label[inner], whole.label[crop][inner], 1)
    assert_same_images(part.image[inner], whole.image[crop][inner], 0.01)
    assert (part.image[inner] != image[crop][inner]).double().mean() > 0.5


def test_samples_by_themselves_and_without_looking_at_values(monkeypatch):
    """Batches of four and of one to the bit; where nothing may be looked at, all voxels are worked on: products of other shapes round."""
    image, label = scan((4, 40, 37, 33))
    label[1], label[2] = 0, 1
    batch = diseased(image, label, first_uid=5)
    for n in range(4):
        alone = diseased(image[n : n + 1], label[n : n + 1], first_uid=5 + n)
        assert same(alone.image[0], batch.image[n])
        assert torch.equal(alone.label[0], batch.label[n])
    turned = [x.transpose(1, 3).contiguous().transpose(1, 3) for x in (image, label)]
    assert same(diseased(*turned, first_uid=5).image, batch.image)
    monkeypatch.setattr(_host, "on_host", lambda device: False)
    everything = diseased(image, label, first_uid=5)
    assert_same_labels(everything.label, batch.label, 1)
    assert_same_images(everything.image, batch.image, 0.01)


def test_uid_and_seed_draw_the_nodules():
    image, label = scan((1, 30, 30, 30))
    first, again = diseased(image, label, first_uid=7), diseased(image, label, first_uid=7)
    assert same(first.image, again.image)
    for other in (
        diseased(image, label, first_uid=8),
        diseased(image, label, first_uid=7 + 2**32),
        diseased(image, label, first_uid=7, seed=4),
    ):
        change, changed = (first.image - image)[label == 1], (other.image - image)[label == 1]
        assert abs(np.corrcoef(change, changed)[0, 1]) < 0.5


CASES = {
    "1mm": ((2, 41, 36, 40), ONE_MM, (0, 0, 0)),
    "0.7-0.7-5mm": ((2, 40, 38, 9), (0.7, 0.7, 5.0), (3, -2, 100)),
    "one-far-away": ((1, 30, 24, 70), (1.5, 1.5, 1.5), (10_000, 20_000, 5000)),
    "tiny": ((3, 5, 3, 2), (2.0, 1.0, 3.0), (0, 0, 0)),
}


@pytest.mark.parametrize(("shape", "spacing_mm", "origin_vox"), CASES.values(), ids=CASES)
@pytest.mark.parametrize(
    ("dtype", "others"),
    [(torch.float32, True), (torch.float32, False), (torch.float16, True), (torch.bfloat16, True), (torch.float64, True)],
    ids=str,
)
def test_kernels_are_as_the_twin(device, shape, spacing_mm, origin_vox, dtype, others):
    """Within the type's rounding: sums of waves round differently, by 1e-6, and so may a voxel's label."""
    image, label = scan(shape, dtype, torch.int16, others=others)
    image[0, 1, 1, 1], image[-1, -1, -1, 0] = torch.nan, torch.inf
    asked = (
        torch.tensor([1.0, 1.5, 0.0])[: shape[0]],
        torch.tensor([8.0, -5.0, 8.0])[: shape[0]],
        torch.tensor([5, 2**40, -3])[: shape[0]],
    )
    twin = cirrhosis(image, label, *asked[:2], 1, spacing_mm, SEED, asked[2], origin_vox)
    strength, hu, uid = on(device, asked)
    kernel = cirrhosis(*on(device, (image, label)), strength, hu, 1, spacing_mm, SEED, uid, origin_vox, "cupy")
    assert_same_labels(kernel.label, twin.label, 1)
    assert_same_images(kernel.image, twin.image, 0.01 + 400 * torch.finfo(dtype).eps)
    if min(shape[1:]) > 8:
        assert (twin.label != label).sum() > 200

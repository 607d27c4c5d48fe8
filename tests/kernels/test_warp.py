"""Mass effect: tissue moves as the formula says, one to one, edges with it; noise, other labels and all else stay."""

import itertools
import math

import numpy as np
import pytest
import torch
from scans import same
from scipy.ndimage import map_coordinates
from twins import assert_equal, grid_ids, on

from gpu_synth.kernels import _host, warp
from gpu_synth.phantom import _noise
from gpu_synth.phantom.implicit import Random

ONE_MM, PUBLISHED = (1.0, 1.0, 1.0), 30.0
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]


def lesions(*of_samples, strength=PUBLISHED):
    """Centre, radius, strength and use of each slot, from lists of (i, j, k, radius) a sample; slots that are left hold nonsense."""
    slots = max(map(len, of_samples))
    filled = torch.full((len(of_samples), slots, 4), torch.nan)
    for sample, rows in enumerate(of_samples):
        if rows:
            filled[sample, : len(rows)] = torch.tensor(rows, dtype=torch.float32)
    use = torch.tensor([[slot < len(rows) for slot in range(slots)] for rows in of_samples])
    return filled[..., :3], filled[..., 3], torch.full(filled.shape[:2], strength), use


def ramps(shape):
    """The coordinates as three images."""
    return torch.from_numpy(np.indices(shape)).float()


def moved(shape, parts, spacing_mm=ONE_MM, label=None):
    """Displacements `(3, i, j, k)` in voxels that a warp of one sample shows in ramps, which its medians keep as they are."""
    image = ramps(shape)
    label = torch.zeros_like(image, dtype=torch.uint8) if label is None else label
    return (warp.warp(image, label, *(x.expand(3, *x.shape[1:]) for x in parts), 1, spacing_mm).image - image).numpy()


def oracle(points, rows, spacing_mm=ONE_MM, push=None):
    """The formula in double: displacement `(n, 3)` and its Jacobian `(n, 3, 3)` in mm at points `(n, 3)` in voxels."""
    shift, jacobian = np.zeros(points.shape), np.zeros((*points.shape, 3))
    for n, (*centre, radius) in enumerate(rows):
        away, reach = (points - centre) * spacing_mm, 1.3 * radius
        d = np.linalg.norm(away, axis=1)
        left, s = np.clip(1 - d / reach, 0, None), PUBLISHED / 100 if push is None else push[n]
        shift -= s * (left**2)[:, None] * away
        radial = 2 * left / (np.maximum(d, 1e-9) * reach)
        jacobian -= s * ((left**2)[:, None, None] * np.eye(3) - radial[:, None, None] * away[:, :, None] * away[:, None])
    return shift, jacobian


def grid(shape, step=1.0):
    return np.stack(np.meshgrid(*(np.arange(0, n - 1 + 1e-9, step) for n in shape), indexing="ij"), -1).reshape(-1, 3)


# ---- what moves where -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "rows", "spacing_mm"),
    [
        pytest.param((33, 30, 37), [(15.3, 14.0, 20.8, 9.0)], ONE_MM, id="one"),
        pytest.param((40, 31, 9), [(20.0, 12.5, 4.0, 9.0), (-2.0, 31.0, 2.0, 12.0)], (0.7, 0.9, 5.0), id="0.7-0.9-5mm-one-outside"),
        pytest.param((31, 30, 29), [(12.0, 14.0, 14.0, 8.0), (19.0, 16.0, 15.0, 6.0)], ONE_MM, id="two-that-overlap"),
    ],
)
def test_tissue_moves_as_the_formula_says(shape, rows, spacing_mm):
    expected = oracle(grid(shape), rows, spacing_mm)[0] / spacing_mm
    source = np.clip(grid(shape) + expected, 0, np.array(shape) - 1)  # positions beyond the array are clamped to it
    got = moved(shape, lesions(rows), spacing_mm).reshape(3, -1).T
    np.testing.assert_allclose(got, source - grid(shape), rtol=0, atol=2e-5)
    assert np.abs(expected).max() > 0.3


def test_a_smooth_image_comes_out_as_its_trilinear_warp():
    """Waves of 30 voxels and ±60 HU: within 2 HU, and by RMS within a tenth of what changes; medians cut peaks, which then stay."""
    shape, rows = (43, 42, 41), [(20.0, 21.5, 20.0, 15.0)]
    i, j, k = np.indices(shape)
    image = 60 * np.sin(i * 0.22 + 0.4) * np.cos(j * 0.21) * np.cos(k * 0.2 + 1)
    expected = map_coordinates(image, (grid(shape) + oracle(grid(shape), rows)[0]).T, order=1, mode="nearest").reshape(shape)
    got = warp.warp(torch.from_numpy(image)[None], torch.zeros(1, *shape).int(), *lesions(rows), 1, ONE_MM).image[0].numpy()
    assert np.abs(expected - image).max() > 6
    assert np.abs(got - expected).max() < 2
    assert ((got - expected) ** 2).sum() < 0.1**2 * ((expected - image) ** 2).sum()


def test_edges_and_vessels_move_under_noise():
    """Of what a trilinear warp of the clean image would change, at most a third is missing at an oblique edge, half in a 5-voxel vessel."""
    shape, rows = (59, 59, 59), [(29.0, 29.0, 29.0, 20.0)]
    points = grid(shape) - 29.0
    edge = 180 / (1 + np.exp(-1.7 / 0.85 * (points @ np.array([0.8, 0.5, 0.33]) - 9.0)))
    vessel = 60 / (1 + np.exp((np.hypot(points[:, 1] - 9.0, points[:, 2] - 0.3) - 2.5) / 0.4))
    noise = 12 * torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    for clean, most in ((edge.reshape(shape), 1 / 3), (vessel.reshape(shape), 1 / 2)):
        wanted = map_coordinates(clean, (grid(shape) + oracle(grid(shape), rows)[0]).T, order=1).reshape(shape)
        image = torch.from_numpy(clean).float()[None] + noise
        got = (warp.warp(image, torch.zeros(1, *shape).int(), *lesions(rows), 1, ONE_MM).image - noise)[0].numpy()
        there = np.abs(wanted - clean) > 3
        assert np.sqrt(((got - wanted)[there] ** 2).mean()) < most * np.sqrt(((clean - wanted)[there] ** 2).mean())


# ---- noise ------------------------------------------------------------------------------------------------------------------------------

BANDS = ((0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
RADII_MM = np.linspace(10.0, 20.0, 8)


def noise_of(kind, n, seed):
    if kind == "white":
        return 12 * torch.randn(n, n, n, generator=torch.Generator().manual_seed(seed))
    return _noise(Random(0, seed), (n, n, n), (float(kind[:-2]),) * 3, torch.device("cpu"))


def band_power(field, inside):
    n = len(field)
    power = np.abs(np.fft.fftn((field - field.mean()) * inside)) ** 2
    frequency = np.fft.fftfreq(n) ** 2 * 4
    radius = np.sqrt(frequency[:, None, None] + frequency[:, None] + frequency)
    return np.array([power[(radius >= low) & (radius < high)].sum() for low, high in BANDS])


@pytest.mark.parametrize("kind", ["white", "1mm", "2mm"])
def test_noise_keeps_its_spectrum(kind):
    """104 lesions of 10–20 voxels, the power within each before and after: within 15 %, where trilinear interpolation loses over 40 %.

    Before and after are the same noise, so what differs is the warp: the standard error of a ratio, from its spread over lesions, is
    below 1 %.
    """
    ratios, plain = [], []
    for seed in range(104):
        radius = RADII_MM[seed % len(RADII_MM)]
        n = 2 * math.ceil(radius) + 9
        rows, points = [(n // 2,) * 3 + (radius,)], grid((n, n, n))
        inside = np.clip(1 - (((points - n // 2) / radius) ** 2).sum(1), 0, None).reshape(n, n, n)
        noise = noise_of(kind, n, seed)
        out = warp.warp(noise[None], torch.zeros(1, n, n, n).int(), *lesions(rows), 1, ONE_MM).image[0]
        before = band_power(noise.numpy(), inside)
        ratios.append(band_power(out.numpy(), inside) / before)
        if seed < 8:
            sampled = map_coordinates(noise.numpy(), (points + oracle(points, rows)[0]).T, order=1).reshape(n, n, n)
            plain.append(band_power(sampled, inside) / before)
    mean, error = np.mean(ratios, 0), np.std(ratios, 0) / math.sqrt(len(ratios))
    print(f"{kind}: {mean.round(3)} ± {error.round(4)}, trilinear {np.mean(plain, 0).round(2)}")
    assert (error < 0.01).all()
    assert (np.abs(mean - 1) + 3 * error < 0.15).all(), mean
    assert (np.mean(plain, 0)[1:] < 0.6).all()


# ---- one to one -------------------------------------------------------------------------------------------------------------------------


def crowd(seed, shape):
    """Up to 8 lesions on top of each other, of up to four times the published strength."""
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 9))
    rows = np.column_stack([random.uniform(0.3, 0.7, (n, 3)) * shape, random.uniform(2.0, 12.0, n)])
    centre, radius, strength, use = lesions(rows.tolist())
    strength[0] = torch.from_numpy(random.uniform(10, 120, n))
    return rows, (centre, radius, strength, use)


@pytest.mark.parametrize("strength", [10.0, 30.0, 60.0])
def test_one_lesion_squeezes_most_in_its_centre(strength):
    """The least determinant is (1 − s)³."""
    points = np.linspace([20, 20, 20], [33, 33, 33], 20001)
    jacobian = np.eye(3) + oracle(points, [(20, 20, 20, 10.0)], push=[strength / 100])[1]
    determinant = np.linalg.det(jacobian)
    assert determinant.min() == pytest.approx((1 - strength / 100) ** 3, abs=1e-9)
    assert np.linalg.eigvalsh(jacobian).max() == pytest.approx(1 + strength / 300, abs=1e-6)


@pytest.mark.parametrize("spacing_mm", [ONE_MM, (0.7, 0.9, 2.0)], ids=["1mm", "0.7-0.9-2mm"])
def test_crowded_lesions_stay_one_to_one(spacing_mm):
    """40 crowds: nothing is squeezed by more than COMPRESSION at any half voxel, and finite differences of what the warp did are positive.

    Without the cut, most of these crowds would fold.
    """
    shape, least, least_found, folds = (25, 24, 23), [], [], 0
    for seed in range(40):
        rows, parts = crowd(seed, np.array(shape))
        push = warp.lesion_table(*parts, spacing_mm)[0, :, 4].double().numpy()
        jacobian = np.eye(3) + oracle(grid(shape, 0.5), rows, spacing_mm, push)[1]
        assert np.linalg.eigvalsh(jacobian).min() > 1 - warp.COMPRESSION - 1e-6
        least.append(np.linalg.det(jacobian).min())
        folds += np.linalg.det(np.eye(3) + oracle(grid(shape, 0.5), rows, spacing_mm, (parts[2][0] / 100).numpy())[1]).min() <= 0
        forward = moved(shape, parts, spacing_mm)
        steps = [np.diff(forward, axis=axis)[:, : shape[0] - 1, : shape[1] - 1, : shape[2] - 1] for axis in (1, 2, 3)]
        least_found.append(np.linalg.det(np.eye(3) + np.stack(steps, -1).transpose(1, 2, 3, 0, 4)).min())
    print(f"least determinant {min(least):.3f}, by finite differences {min(least_found):.3f}; {folds} of 40 would fold")
    assert min(least) >= (1 - warp.COMPRESSION) ** 3 - 1e-6
    assert min(least_found) > 0
    assert folds > 20


def test_only_lesions_that_overlap_too_much_are_cut():
    """Alone, apart, and two of the published strength on one spot: as asked; three, or one beyond the bound: cut to it."""
    spot = (20.0, 20.0, 20.0, 8.0)
    pushes = [
        warp.lesion_table(*lesions(rows, strength=strength), ONE_MM)[0, :, 4].tolist()
        for rows, strength in (
            ([spot], 30.0), ([spot, (41.0, 20.0, 20.0, 8.0)], 55.0), ([spot] * 2, 30.0), ([spot] * 3, 30.0), ([spot], 200.0)
        )
    ]  # fmt: skip
    assert [[round(push, 4) for push in row] for row in pushes] == [[0.3], [0.55] * 2, [0.3] * 2, [0.2] * 3, [0.6]]


# ---- labels, and what stays -------------------------------------------------------------------------------------------------------------


def scan(shape, dtype=torch.float32, label_dtype=torch.uint8, seed=0):
    """Noise and structure, an organ whose surface the middle cuts, and a few voxels of another number."""
    generator = torch.Generator().manual_seed(seed)
    i, j, _ = ramps(shape[1:])
    organ = (i + 0.3 * j < 0.6 * shape[1]).expand(shape)
    image = (organ * 150.0 - 50.0 + 12 * torch.randn(shape, generator=generator)).to(dtype)
    other = torch.rand(shape, generator=generator) < 0.02
    return image, torch.where(other, 7, organ.to(torch.int64)).to(label_dtype)


def test_the_organs_surface_bulges_with_the_image():
    shape, rows = (40, 37, 35), [(20.0, 18.0, 17.0, 9.0)]
    label = (ramps(shape)[0] <= 23).to(torch.uint8)[None]
    out = warp.warp(label * 150.0 - 50.0, label, *lesions(rows, strength=60.0), 1, ONE_MM)
    position = np.clip(grid(shape) + oracle(grid(shape), rows, push=[0.6])[0], 0, np.array(shape) - 1)
    nearest = label[0].numpy()[tuple(np.floor(position + 0.5).astype(int).T)].reshape(shape)
    assert (out.label[0].numpy() != nearest).sum() == 0
    assert out.label.sum() > label.sum() + 20
    assert ((out.image[0] > 25) != (out.label[0] == 1)).sum() == 0  # half-way between organ and fat


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_other_labels_stay_and_none_is_made(dtype):
    image, label = scan((1, 30, 25, 27), label_dtype=dtype)
    out = warp.warp(image, label, *lesions([(14.0, 12.0, 13.0, 9.0)], strength=60.0), 1, ONE_MM).label
    assert out.dtype == dtype
    before, after = label.long(), out.long()
    assert torch.equal(before == 7, after == 7)
    assert set(after.unique().tolist()) == {0, 1, 7}
    assert (before != after).sum() > 20


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_no_lesion_reaches_keeps_its_bits(dtype):
    image, label = scan((2, 33, 25, 27), dtype)
    image[:, ::3, ::3, ::5] = -0.0
    image[:, -1, -1, -1] = torch.nan
    rows = [(15.0, 12.0, 13.0, 5.0), (3.0, 3.0, 3.0, 2.0)]
    out, copy = warp.warp(image, label, *lesions(rows, []), 1, ONE_MM), image.clone()
    reached = np.any([np.linalg.norm(grid(image.shape[1:]) - row[:3], axis=1) <= 1.3 * row[3] for row in rows], 0)
    far = torch.from_numpy(~reached).view(1, *image.shape[1:])
    assert same(out.image[:1][far], image[:1][far])
    assert torch.equal(out.label[:1][far], label[:1][far])
    assert same(out.image[1], image[1])
    assert same(image, copy)
    assert (out.image[0] != image[0]).sum() > 300


def test_values_that_make_no_sense_are_no_lesions():
    image, label = scan((1, 20, 21, 22))
    ten = torch.tensor([10.0, 10.0, 10.0])
    for centre, radius, strength in (
        (ten * torch.nan, 5, 30),
        (ten, torch.inf, 30),
        (ten, -5, 30),
        (ten, 0, 30),
        (ten, 5, 0),
        (ten, 5, -9),
        (ten, 5, torch.nan),
    ):
        parts = (
            centre.view(1, 1, 3),
            torch.tensor([[radius]]).float(),
            torch.tensor([[strength]]).float(),
            torch.ones(1, 1, dtype=torch.bool),
        )
        out = warp.warp(image, label, *parts, 1, ONE_MM)
        assert same(out.image, image)
        assert torch.equal(out.label, label)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_what_is_not_finite_stays_and_stays_alone(value):
    image, label = scan((1, 30, 30, 30))
    parts, at = lesions([(15.0, 15.0, 15.0, 10.0)]), (0, 12, 17, 14)
    clean = warp.warp(image, label, *parts, 1, ONE_MM).image
    image[at] = value
    out = warp.warp(image, label, *parts, 1, ONE_MM).image
    expected, near = clean.clone(), (slice(0, 1), slice(6, 19), slice(11, 24), slice(8, 21))
    expected[at] = value
    assert torch.equal(out.isfinite(), image.isfinite())
    torch.testing.assert_close(out[at], image[at], equal_nan=True, rtol=0, atol=0)
    differs = out != expected
    differs[near] = False
    assert not differs.any()
    there, warped = image.isfinite()[near], (out == clean)[near]
    assert (warped | (out == image)[near])[there].all()  # where its neighbours would have been made of it, the unwarped voxel


# ---- the same in every way of doing it --------------------------------------------------------------------------------------------------


def test_a_crop_of_a_warp_is_the_warp_of_the_crop():
    """But for what lies within 4 voxels of medians, one of interpolation and the displacement of the crop's border."""
    image, label = scan((1, 44, 41, 39))
    parts = lesions([(20.0, 18.0, 17.0, 10.0), (30.0, 22.0, 20.0, 6.0), (2.0, 3.0, 3.0, 5.0)])
    whole = warp.warp(image, label, *parts, 1, (1.0, 1.1, 0.9))
    crop, inner = (slice(None), slice(7, 40), slice(5, 37), slice(3, 33)), (slice(None), slice(6, -6), slice(6, -6), slice(6, -6))
    part = warp.warp(image[crop], label[crop], *parts, 1, (1.0, 1.1, 0.9), origin_vox=(7, 5, 3))
    for of_whole, of_part in zip(whole, part, strict=True):
        assert same(of_whole[crop][inner], of_part[inner])


def test_samples_and_boxes_by_themselves_give_what_the_batch_gives(monkeypatch):
    """On a host only boxes near lesions are worked on; elsewhere all is. Batches of eight and of one."""
    image, label = scan((8, 26, 21, 23))
    nested = [(12.0, 11.0, 11.0, 2.5), (13.0, 10.0, 11.0, 6.0), (13.0, 10.0, 11.0, 6.0)]  # two boxes alike, and one within
    rows = [crowd(seed, np.array(image.shape[1:]))[0].tolist() for seed in range(5)] + [nested, [], [(30.0, -4.0, 11.0, 12.0)]]
    parts = lesions(*rows, strength=45.0)
    boxes = warp.warp(image, label, *parts, 1, ONE_MM)
    for n in range(8):
        alone = warp.warp(image[n : n + 1], label[n : n + 1], *(x[n : n + 1] for x in parts), 1, ONE_MM)
        assert same(alone.image[0], boxes.image[n])
        assert same(alone.label[0], boxes.label[n])
    monkeypatch.setattr(_host, "on_host", lambda device: False)
    everything = warp.warp(image, label, *parts, 1, ONE_MM)
    assert same(boxes.image, everything.image)
    assert same(boxes.label, everything.label)


CASES = {
    (1, 23, 19, 41): ([[(5.2, 5.0, 5.0, 4.0), (10.0, 12.0, 10.0, 6.0), (20.0, 15.3, 40.0, 8.0)]], (0.7, 0.7, 5.0), (0, 0, 0)),
    (8, 9, 10, 35): ([[(4.0 + n, 5.0, 4.5 * n, 2.0 + n)] * (n % 4) for n in range(8)], ONE_MM, (3, -2, 1)),
    (2, 5, 3, 2): ([[(2.0, 1.0, 1.0, 3.0)], []], ONE_MM, (0, 0, 0)),
    (1, 17, 16, 33): ([[(n % 17, n % 16, n % 33, 1.0 + n % 4) for n in range(70)]], (0.9, 1.0, 1.1), (0, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("shape", CASES, ids=grid_ids(CASES))
@pytest.mark.parametrize(
    ("dtype", "label_dtype"), list(zip(FLOATS, (torch.uint8, torch.int16, torch.int64, torch.uint32), strict=True)), ids=str
)
def test_kernels_warp_as_the_twin(device, shape, dtype, label_dtype):
    """To the bit: minima, maxima, and sums and products in one order."""
    of_samples, spacing_mm, origin_vox = CASES[shape]
    image, label = scan(shape, dtype, label_dtype)
    image[0, 1, 1, 1] = torch.nan
    image[-1, -1, -1, 0] = torch.inf
    parts = lesions(*of_samples)
    twin = warp.warp(image, label, *parts, 1, spacing_mm, origin_vox)
    kernel = warp.warp(*on(device, (image, label, *parts)), 1, spacing_mm, origin_vox, "cupy")
    assert_equal(kernel.label, twin.label)
    assert same(kernel.image.cpu(), twin.image)


def test_kernels_cut_as_the_twin_and_do_nothing_without_lesions(device):
    image, label = scan((1, 24, 20, 26))
    parts = crowd(3, np.array(image.shape[1:]))[1]
    twin, kernel = warp.warp(image, label, *parts, 1, ONE_MM), warp.warp(*on(device, (image, label, *parts)), 1, ONE_MM, backend="cupy")
    assert same(kernel.image.cpu(), twin.image)
    assert (twin.image != image).sum() > 1000
    table = torch.stack([torch.full_like(parts[1], torch.nan), *parts[1:3]], -1)
    columns = on(device, (parts[0], table, parts[3]))
    by_columns = warp.warp(*on(device, (image, label)), columns[0], *columns[1].unbind(-1)[1:], columns[2], 1, ONE_MM, backend="cupy")
    assert same(by_columns.image.cpu(), twin.image), "radii and strengths as columns of a table"
    for use, slots in itertools.product((False,), (0, 2)):
        none = [x[:, :slots] for x in parts[:3]] + [torch.full((1, slots), use)]
        for backend in ("torch", "cupy"):
            where = device if backend == "cupy" else torch.device("cpu")
            out = warp.warp(*on(where, (image, label, *none)), 1, ONE_MM, backend=backend)
            assert same(out.image.cpu(), image)
            assert same(out.label.cpu(), label)

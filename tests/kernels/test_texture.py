"""Texture against the published recipe in NumPy, field by field and in the mean of many."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from twins import assert_equal, assert_near, on

from gpu_synth.kernels._cells import Field, Lattice, cell_vox
from gpu_synth.kernels.texture import Texture, statistics, texture

SCALE, OFFSET, THRESHOLD = 0.2, 0.05, 0.12


def field_of(uid, whole, cell, density_vox=(6.0, 6.0, 6.0), grain_vox=(3.2, 3.2, 3.2), seed=5):
    def widths(sigma):
        return torch.tensor([sigma]).expand(len(uid), 3)

    return Field(seed, torch.as_tensor(uid), Lattice(whole, cell, density_vox, grain_vox), widths(density_vox), widths(grain_vox))


def normed(field, gain=1.0):
    b = len(field.uid)
    return statistics(field, torch.full((b,), SCALE), torch.full((b,), OFFSET), torch.full((b,), gain), THRESHOLD)


def everything(field):
    i, j, k = ((0, n) for n in field.lattice.whole_vox)
    return i, j, k


def grain_of(field):
    """The smoothed salt itself: a gain of one."""
    return texture(field, normed(field)._replace(gain=torch.ones(len(field.uid))), everything(field))


def published_grain(shape, density_vox, grain_vox, rng):
    """a = G(noise) to [0, 1] · 0.2 + 0.05; salt where a > noise; t = G(salt)."""
    a = gaussian_filter(rng.random(shape), density_vox, mode="reflect", truncate=4)
    a = (a - a.min()) / (a.max() - a.min()) * SCALE + OFFSET
    return gaussian_filter((a > rng.random(shape)).astype(float), grain_vox, mode="reflect", truncate=4)


def told(grain):
    """What tells one grain from another: mean, spread, mean above the threshold, likeness at 2 and 5 voxels, spread at the ends."""
    x = grain - grain.mean()

    def likeness(lag):
        return np.mean([(x.take(range(lag, n), a) * x.take(range(n - lag), a)).mean() for a, n in enumerate(x.shape)]) / x.var()

    ends = grain[-1].std() + grain[:, :, -1].std()
    return grain.mean(), grain.std(), grain[grain > THRESHOLD].mean(), likeness(2), likeness(5), ends


@pytest.mark.parametrize("cell", [(1, 1, 1), (2, 2, 2), (2, 2, 1)], ids=str)
def test_grain_is_the_published_one(cell):
    """Means over 120 fields each, within 4.5 standard errors of their difference."""
    shape, widths, fields = (37, 31, 33), ((6.0, 6.0, 5.0), (3.2, 3.2, 2.5)), 120
    ours = np.array([told(grain.double().numpy()) for grain in grain_of(field_of(range(fields), shape, cell, *widths))])
    rng = np.random.default_rng(1)
    theirs = np.array([told(published_grain(shape, *widths, rng)) for _ in range(fields)])
    error = np.sqrt((ours.var(0) + theirs.var(0)) / fields)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4.5 * error).all(), (
        ours.mean(0),
        theirs.mean(0),
        error,
    )


@pytest.mark.parametrize(("cell", "grain"), [((2, 2, 2), 2.3), ((2, 2, 2), 3.0), ((2, 1, 2), 5.0)], ids=str)
def test_grain_of_even_density_has_the_gaussians_covariance(cell, grain):
    """Tosses of p = 1/2, smoothed: covariance p(1 − p)·Π Σ w(x)·w(x + lag). Away from the borders, within 4.5 standard errors."""
    fields, shape, margin = 48, (72, 64, 72), int(4 * grain + 0.5)
    field = field_of(range(fields), shape, cell, grain_vox=(grain,) * 3)
    even = normed(field).norm._replace(scale=torch.zeros(fields), offset=torch.full((fields,), 0.5))
    i, j, k = (slice(margin, n - margin) for n in shape)
    x = texture(field, Texture(even, torch.ones(fields)), everything(field))[:, i, j, k].double().numpy() - 0.5
    weights = np.exp(-0.5 * (np.arange(-margin, margin + 1) / grain) ** 2)
    weights /= weights.sum()
    for lag in (0, 3):
        expected = 0.25 * (weights**2).sum() ** 2 * (weights[lag:] * weights[: len(weights) - lag]).sum()
        found = (x[:, lag:] * x[:, : x.shape[1] - lag]).mean((1, 2, 3))
        assert abs(found.mean() / expected - 1) < 4.5 * found.std() / found.mean() / fields**0.5


@pytest.mark.parametrize("cell", [(1, 1, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("grain", [3.0, 4.5, 8.0])
def test_mean_known_beforehand_is_the_grains(cell, grain):
    """The salt is not drawn for it, so it is the expected mean: one field of 40³ differs by its own noise, eight by 2 %."""
    field = field_of(range(8), (40, 40, 40), cell, grain_vox=(grain,) * 3)
    mean = 1.0 / normed(field).gain
    drawn = [values[values > THRESHOLD].mean().item() for values in grain_of(field)]
    assert np.mean(drawn) == pytest.approx(mean.mean().item(), rel=0.02)


def test_texture_has_the_mean_asked_for():
    field, gain = field_of(range(8), (48, 44, 40), (2, 2, 2)), 0.52
    values = texture(field, normed(field, gain), everything(field))
    above = grain_of(field) > THRESHOLD
    assert values[above].mean().item() == pytest.approx(gain, rel=0.03)
    assert values.min() >= 0
    assert values.max() <= 1


@pytest.mark.parametrize(
    ("whole", "cell", "density", "grain"),
    [
        pytest.param((61, 47, 40), (2, 2, 2), (6.0, 6.0, 6.0), (3.2, 3.2, 3.2), id="cells-of-two"),
        pytest.param((61, 47, 40), (1, 1, 1), (4.0, 4.0, 4.0), (2.0, 2.0, 2.0), id="cells-of-one"),
        pytest.param((60, 48, 17), (2, 2, 1), (8.5, 8.5, 1.2), (5.0, 5.0, 0.7), id="0.7-0.7-5mm"),
        pytest.param((7, 150, 8), (2, 1, 2), (15.0, 9.0, 15.0), (5.0, 2.0, 5.0), id="long-axis"),
    ],
)
def test_windows_agree_with_the_whole(whole, cell, density, grain):
    field = field_of([3, 2**40], whole, cell, density, grain)
    found = normed(field, 0.5)
    values = texture(field, found, everything(field))
    i, j, k = whole
    for window in (((0, 5), (0, j), (1, 4)), ((i - 6, i), (j - 9, j - 2), (0, k)), ((1, i - 1), (j // 2, j // 2 + 1), (k - 3, k))):
        part = values[:, slice(*window[0]), slice(*window[1]), slice(*window[2])]
        torch.testing.assert_close(texture(field, found, window), part, rtol=0, atol=1e-5)  # float32 sums of other lengths


def test_a_window_may_reach_beyond_the_whole():
    field = field_of([3], (21, 18, 16), (2, 2, 2))
    found = normed(field, 0.5)
    values = texture(field, found, ((-7, 30), (-40, 12), (10, 90)))
    assert values.isfinite().all()
    inside = texture(field, found, ((0, 21), (0, 12), (10, 16)))
    torch.testing.assert_close(values[:, 7:28, 40:52, :6], inside, rtol=0, atol=1e-5)
    far = texture(field, found, ((50, 60), (50, 60), (-60, -50)))
    assert far.isfinite().all()


def test_fields_are_the_same_in_any_company_and_differ_by_uid_and_seed():
    uid = [3, 2**40, -5]
    together = grain_of(field_of(uid, (23, 19, 21), (2, 2, 2)))
    for n in range(3):
        alone = grain_of(field_of(uid[n : n + 1], (23, 19, 21), (2, 2, 2)))[0]
        torch.testing.assert_close(alone, together[n], rtol=0, atol=1e-6)  # a batched product may sum in another order
    other = [grain_of(field_of([3], (23, 19, 21), (2, 2, 2), seed=6))[0], *together[1:]]
    assert all((values != together[0]).float().mean() > 0.9 for values in other)


@pytest.mark.parametrize("whole", [(3, 3, 3), (1, 1, 1), (1, 2, 200), (5, 1, 9), (33, 2, 2)], ids=str)
@pytest.mark.parametrize("cell", [(1, 1, 1), (2, 2, 2), (1, 2, 1)], ids=str)
def test_small_and_flat_fields(whole, cell):
    field = field_of([1, 2], whole, cell, density_vox=(15.0, 0.6, 7.0), grain_vox=(3.0, 5.0, 3.0))
    found = normed(field, 0.5)
    values = texture(field, found, everything(field))
    assert values.shape == (2, *whole)
    assert values.isfinite().all()
    assert ((values >= 0) & (values <= 1)).all()
    assert (0.5 / found.gain > THRESHOLD).all()


@pytest.mark.parametrize(
    ("spacing_mm", "cell"),
    [((1, 1, 1), (2, 2, 2)), ((0.7, 0.7, 5), (2, 2, 1)), ((1.5, 2.0, 3.0), (1, 1, 1)), ((1.3, 1.34, 0.2), (2, 1, 2))],
)
def test_cells_hold_two_voxels_where_the_finest_grain_of_3mm_spans_three(spacing_mm, cell):
    assert cell_vox(3.0, spacing_mm) == cell


KERNEL_FIELDS = [
    pytest.param((31, 27, 20), (2, 2, 2), (6.0, 6.0, 6.0), (3.2, 3.2, 3.2), id="cells-of-two"),
    pytest.param((17, 22, 37), (1, 1, 1), (4.0, 4.0, 4.0), (2.0, 2.0, 2.0), id="cells-of-one"),
    pytest.param((40, 38, 7), (2, 2, 1), (8.5, 8.5, 1.2), (5.0, 5.0, 0.7), id="0.7-0.7-5mm"),
    pytest.param((7, 90, 8), (2, 1, 2), (15.0, 9.0, 15.0), (5.0, 2.0, 5.0), id="long-axis"),
    pytest.param((1, 2, 3), (1, 2, 1), (15.0, 0.6, 7.0), (3.0, 5.0, 3.0), id="one-two-three-voxels"),
]


@pytest.mark.parametrize(("whole", "cell", "density", "grain"), KERNEL_FIELDS)
def test_kernels_draw_the_twins_texture(device, whole, cell, density, grain):
    """Density to the last bit, so the salt is the same; the grain is stored in 16 bits, twice, and multiplied by some 3."""
    field = field_of([3, 2**40], whole, cell, density, grain)
    arguments = tuple(torch.full((2,), value) for value in (SCALE, OFFSET, 0.52))
    twin = statistics(field, *arguments, THRESHOLD)
    kernel = statistics(on(device, field), *on(device, arguments), THRESHOLD, "cupy")
    assert_equal(kernel.norm.low, twin.norm.low)
    assert_equal(kernel.norm.high, twin.norm.high)
    torch.testing.assert_close(kernel.gain.cpu(), twin.gain, rtol=1e-5, atol=0)
    i, j, k = whole
    for box in (everything(field), ((0, 1), (0, j), (k // 2, k)), ((i // 2, i + 9), (-7, j), (0, k))):
        assert_near(texture(on(device, field), on(device, twin), box, backend="cupy"), texture(field, twin, box), 6e-5)


def test_kernels_leave_out_tiles_that_do_not_change(device):
    field, box = field_of([5], (40, 27, 70), (2, 2, 2)), ((0, 40), (0, 27), (0, 70))
    found = normed(field, 0.5)
    changing = torch.zeros(1, 5, 4, 3, dtype=torch.uint8)
    changing[0, 1, 0, 2] = changing[0, 3, 3, 0] = 1
    kernel, twin = texture(on(device, field), on(device, found), box, changing.to(device), "cupy").cpu(), texture(field, found, box)
    for i, j, k in ((slice(8, 16), slice(0, 8), slice(64, 70)), (slice(24, 32), slice(24, 27), slice(0, 32))):
        assert_near(kernel[:, i, j, k], twin[:, i, j, k], 6e-5)

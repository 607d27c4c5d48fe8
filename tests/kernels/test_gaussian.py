"""The matrix Gaussian against scipy.ndimage.gaussian_filter in float64."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from twins import assert_equal, assert_near

from gpu_synth.kernels.gaussian import Axis, Smoothing, apply_matrices, gaussian, matrices, matrices_cuda, plain_axes

# float32 products of up to 64 weights that add up to one, on values in [0, 1]: 3 axes × √64 × 6e-8 is 1.4e-6
TOLERANCE = 3e-6


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def published(field, sigma_vox):
    return gaussian_filter(field.double().numpy(), sigma_vox, mode="reflect", truncate=4.0)


@pytest.mark.parametrize(
    ("shape", "sigma_vox"),
    [
        pytest.param((23, 31, 14), (1.0, 1.0, 1.0), id="odd-and-even"),
        pytest.param((29, 22, 17), (2.86, 2.86, 0.4), id="2mm-on-0.7-0.7-5mm"),
        pytest.param((24, 20, 8), (15.0, 12.5, 15.0), id="wider-than-the-array"),
        pytest.param((1, 2, 3), (4.0, 4.0, 4.0), id="one-two-three-voxels"),
        pytest.param((17, 9, 12), (0.0, 0.0, 0.0), id="zero-changes-nothing"),
        pytest.param((17, 9, 12), (0.0, 1.3, 0.05), id="zero-on-one-axis"),
        pytest.param((64, 5, 61), (0.125, 0.3749, 0.62), id="cut-at-one-two-three-voxels"),
    ],
)
def test_equals_scipy(shape, sigma_vox):
    field = noise(*shape)
    got = gaussian(field[None], torch.tensor([sigma_vox]), [s + 0.3 for s in sigma_vox])[0]
    np.testing.assert_allclose(got.numpy(), published(field, sigma_vox), rtol=0, atol=TOLERANCE)


def test_each_sample_of_a_batch_has_its_own_width():
    sigmas = torch.tensor([[0.0, 0.5, 1.0], [3.0, 0.2, 7.7], [15.0, 15.0, 15.0], [1.0, 2.0, 0.0]])
    fields = noise(4, 19, 26, 33)
    together = gaussian(fields, sigmas, (15.0, 15.0, 15.0))
    for n, sigma in enumerate(sigmas):
        np.testing.assert_allclose(together[n].numpy(), published(fields[n], sigma.numpy()), rtol=0, atol=TOLERANCE)
        alone = gaussian(fields[n : n + 1], sigmas[n : n + 1], (15.0, 15.0, 15.0))[0]
        np.testing.assert_allclose(together[n].numpy(), alone.numpy(), rtol=0, atol=TOLERANCE)


def test_a_looser_bound_changes_nothing():
    field, sigma = noise(2, 13, 15, 11), torch.tensor([[1.0, 2.0, 0.5], [0.7, 1.1, 1.9]])
    assert torch.equal(gaussian(field, sigma, (2.0, 2.0, 2.0)), gaussian(field, sigma, (40.0, 3.0, 9.0)))


def matrix(sigma, rows, columns, whole, **cells):
    axis = Axis(rows, columns, whole, sigma + 0.5, **cells)
    return matrices(torch.tensor([[sigma]]), [axis]).weights[0][0]


@pytest.mark.parametrize("row_cell", [1, 2])
@pytest.mark.parametrize("column_cell", [1, 2])
@pytest.mark.parametrize(("sigma", "whole"), [(2.9, 30), (3.4, 31), (14.0, 22), (2.5, 2)])
def test_smoothing_between_voxels_and_cells_keeps_a_constant_and_symmetry(sigma, whole, row_cell, column_cell):
    whole += whole % 2  # cells of two fill it
    weights = matrix(sigma, (0, whole // row_cell), (0, whole // column_cell), whole, row_cell=row_cell, column_cell=column_cell)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)), rtol=0, atol=1e-6)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights, weights.flip(0, 1), rtol=0, atol=1e-6)  # neither shifted nor lopsided


def test_weights_from_cells_are_the_gaussian_at_their_centres():
    """Away from the borders: voxel 20 against cells of two whose centres stand at 2q + 0.5."""
    sigma, q = 2.6, np.arange(20)
    expected = np.exp(-0.5 * ((20 - (2 * q + 0.5)) / sigma) ** 2) * (np.abs(20 - (2 * q + 0.5)) <= int(4 * sigma + 0.5))
    got = matrix(sigma, (20, 21), (0, 20), 40, column_cell=2)[0].numpy()
    np.testing.assert_allclose(got, expected / expected.sum(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("cell", [1, 2])
def test_a_window_of_the_smoothed_whole_needs_only_what_lies_in_reach(cell):
    sigma, whole, window = 2.4, 80, (24, 40)
    reach = int(4 * sigma / cell + 1.5)
    cells = (window[0] // cell - reach, window[1] // cell + reach)
    of_whole = matrix(sigma, (0, whole), (0, whole // cell), whole, column_cell=cell)
    of_window = matrix(sigma, window, cells, whole, column_cell=cell)
    torch.testing.assert_close(of_window, of_whole[slice(*window), slice(*cells)], rtol=0, atol=1e-7)  # each row is divided by its sum


def test_columns_outside_the_whole_weigh_nothing():
    weights = matrix(2.0, (0, 9), (-4, 13), 9)
    assert not weights[:, :4].any()
    assert not weights[:, 13:].any()
    torch.testing.assert_close(weights[:, 4:13], matrix(2.0, (0, 9), (0, 9), 9), rtol=0, atol=1e-7)


def test_matrices_act_on_their_axes():
    field, sizes = noise(2, 3, 4, 5), (6, 7, 8)
    matrices = [noise(2, out, n) for out, n in zip(sizes, field.shape[1:], strict=True)]
    expected = np.einsum("bijk,bxi,byj,bzk->bxyz", *(x.double().numpy() for x in (field, *matrices)))
    np.testing.assert_allclose(apply_matrices(field, matrices).numpy(), expected, rtol=1e-5)


KERNEL_CASES = [
    pytest.param((23, 31, 14), [[1.0, 1.0, 1.0], [0.0, 3.3, 0.05]], id="odd-and-even"),
    pytest.param((29, 22, 7), [[2.86, 2.86, 0.4]], id="2mm-on-0.7-0.7-5mm"),
    pytest.param((24, 20, 8), [[15.0, 12.5, 15.0], [3.0, 0.2, 7.7]], id="wider-than-the-array"),
    pytest.param((1, 2, 3), [[4.0, 4.0, 4.0]], id="one-two-three-voxels"),
    pytest.param((9, 130, 71), [[2.0, 9.0, 6.0]], id="longer-than-a-block"),
]


@pytest.mark.parametrize(("shape", "sigmas"), KERNEL_CASES)
def test_kernels_smooth_as_the_twin(device, shape, sigmas):
    field, sigma = noise(len(sigmas), *shape), torch.tensor(sigmas)
    bound = [s + 0.2 for s in sigma.amax(0).tolist()]
    assert_near(gaussian(field.to(device), sigma.to(device), bound, "cupy"), gaussian(field, sigma, bound), TOLERANCE)


@pytest.mark.parametrize("integer", [False, True], ids=["shares", "integers"])
@pytest.mark.parametrize(("shape", "sigmas"), KERNEL_CASES)
def test_kernel_weighs_to_the_last_bit(device, shape, sigmas, integer):
    sigma = torch.tensor(sigmas)
    bound = sigma.amax(0).tolist()
    i, j, k = plain_axes(shape, bound)
    axes = [i, j._replace(rows=(-2, shape[1] + 3), row_cell=1), k._replace(columns=(-1, shape[2] // 2 + 2), column_cell=2)]
    twin, kernel = matrices(sigma, axes, integer), matrices(sigma.to(device), axes, integer, "cupy")
    for n in range(3):
        assert_equal(kernel.weights[n].view(twin.weights[n].shape), twin.weights[n].to(kernel.weights[n].dtype))
        assert_near(kernel.squares[n].view(twin.squares[n].shape), twin.squares[n], 1e-6)
        columns, weighs = torch.arange(twin.weights[n].shape[2]), twin.weights[n] > 0
        band = kernel.band[n].cpu().view(*weighs.shape[:2], 2)
        assert (((columns >= band[..., :1]) & (columns < band[..., 1:])) | ~weighs).all(), "a weight lies outside its row's band"


def test_two_smoothings_of_millimetres_by_one_launch(device):
    """One width a sample, or one an axis, at a spacing; shares beside integers: each as it is alone, and as in voxels."""
    spacing_mm, sigma = (0.7, 1.1, 5.0), torch.tensor([1.3, 2.9])
    density, grain = plain_axes((11, 9, 7), (4.2, 2.7, 0.6)), plain_axes((6, 13, 4), (8.0, 9.0, 2.0))
    per_axis = torch.tensor([[3.0, 4.0, 5.0], [0.5, 9.0, 8.0]])
    both = matrices_cuda([Smoothing(sigma.to(device), density, True), Smoothing(per_axis.to(device), grain)], spacing_mm)
    for kernel, of, axes, integer in ((both[0], sigma, density, True), (both[1], per_axis, grain, False)):
        twin = matrices(of, axes, integer, spacing_mm=spacing_mm)
        in_voxels = matrices(of.view(2, -1) / torch.tensor(spacing_mm), axes, integer)
        for n in range(3):
            assert_equal(twin.weights[n], in_voxels.weights[n])
            assert_equal(kernel.weights[n].view(twin.weights[n].shape), twin.weights[n].to(kernel.weights[n].dtype))
            assert_near(kernel.squares[n].view(twin.squares[n].shape), twin.squares[n], 1e-6)
            weighs, band = twin.weights[n] > 0, kernel.band[n].cpu().view(*twin.weights[n].shape[:2], 2)
            assert torch.equal(weighs.to(torch.uint8).argmax(-1), band[..., 0].long()), "the first column that weighs"


def test_a_width_beyond_the_kernels_table_is_refused(device):
    with pytest.raises(ValueError, match=r"sigma must stay below 512 voxels for backend 'cupy', got up to 600"):
        gaussian(torch.zeros(1, 2, 2, 2, device=device), torch.ones(1, 3, device=device), (1.0, 600.0, 1.0), "cupy")

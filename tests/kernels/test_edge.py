"""Soft edges: the smoothed mask, from the twin and from kernels that look at nothing far from a lesion."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from twins import assert_near, on

from gpu_synth.kernels.edge import edge
from gpu_synth.kernels.shape import TILE_VOX, Instances


def balls(shape, centres, radius=3.0):
    """Numbered balls in one array a centre list, and the tiles that they touch."""
    number = torch.zeros(len(centres), *shape, dtype=torch.int16)
    index = torch.from_numpy(np.indices(shape))
    for sample, of_sample in enumerate(centres):
        for n, centre in enumerate(of_sample):
            number[sample][((index - torch.tensor(centre).view(3, 1, 1, 1)) ** 2).sum(0) < radius**2] = n + 1
    touched = torch.zeros(len(centres), *(-(-n // tile) for n, tile in zip(shape, TILE_VOX, strict=True)), dtype=torch.uint8)
    for sample, *at in number.nonzero().tolist():
        touched[(sample, *(x // tile for x, tile in zip(at, TILE_VOX, strict=True)))] = 1
    return Instances(number, touched)


def test_occupancy_is_the_published_blur_of_the_union():
    instances = balls((23, 19, 31), [[(3, 9, 9), (5, 9, 11), (20, 0, 30)]])
    got = edge(instances, torch.full((1, 3), 1.7), (2.0, 2.0, 2.0)).occupancy[0]
    expected = gaussian_filter((instances.number[0] > 0).double().numpy(), 1.7, mode="reflect", truncate=4.0)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "centres", "sigmas"),
    [
        pytest.param((23, 19, 41), [[(3, 9, 9), (20, 0, 40)], []], [[1.7, 1.7, 1.7], [1.0, 1.0, 1.0]], id="two-samples-one-empty"),
        pytest.param((40, 26, 9), [[(39, 25, 0)]], [[2.86, 2.86, 0.4]], id="corner-0.7-0.7-5mm"),
        pytest.param((9, 8, 70), [[(4, 4, 31)], [(4, 4, 32)], [(0, 0, 69)]], [[2.0, 2.0, 2.0]] * 3, id="beside-a-tiles-end"),
        pytest.param((5, 3, 2), [[(2, 1, 1)]], [[0.0, 0.0, 0.0]], id="smaller-than-a-tile-and-sharp"),
        pytest.param((30, 20, 10), [[(15, 10, 5)]], [[9.0, 8.0, 7.0]], id="wide"),
    ],
)
def test_kernels_blur_as_the_twin(device, shape, centres, sigmas):
    """Three passes of 16 bits: 3 · 7.7e-6."""
    instances, sigma = balls(shape, centres), torch.tensor(sigmas)
    bound = [s + 0.1 for s in sigma.amax(0).tolist()]
    twin = edge(instances, sigma, bound)
    occupancy, changing = edge(on(device, instances), sigma.to(device), bound, "cupy")
    assert_near(occupancy, twin.occupancy, 2.4e-5)
    of_tiles = torch.zeros_like(changing, device="cpu")
    for sample, *at in (occupancy.cpu().to(torch.int32) > 0).nonzero().tolist():
        of_tiles[(sample, *(x // tile for x, tile in zip(at, TILE_VOX, strict=True)))] = 1
    assert torch.equal(of_tiles, changing.cpu())

"""DSC and NSD: by hand, and against DeepMind's surface-distance."""

import numpy as np
import pytest
import surface_distance
from masks import SPACING_MM, blobs, box

from gpu_synth.evaluate.overlap import TOLERANCE_MM, overlap

SHAPE = (40, 36, 24)


def cube(first: int = 10, length: int = 4) -> np.ndarray:
    return box(np.zeros(SHAPE, bool), True, *[(first, first + length)] * 3)


def test_by_hand():
    """Two equal cubes predicted where one is: 2·64/(64 + 128); and of three equal surfaces the two that coincide."""
    both = cube(4) | cube(14)
    assert overlap(cube(4), both, SPACING_MM) == pytest.approx((2 / 3, 2 / 3))
    assert overlap(both, cube(4), SPACING_MM) == pytest.approx((2 / 3, 2 / 3))
    assert overlap(cube(), cube(), SPACING_MM) == (1.0, 1.0)
    assert overlap(cube(4), cube(14), SPACING_MM) == (0.0, 0.0)


def test_empty_masks():
    nothing = np.zeros(SHAPE, bool)
    assert overlap(nothing, nothing, SPACING_MM) == (1.0, 1.0)
    assert overlap(nothing, cube(), SPACING_MM) == (0.0, 0.0)
    assert overlap(cube(), nothing, SPACING_MM) == (0.0, 0.0)


@pytest.mark.parametrize("tolerance_mm", [1.0, TOLERANCE_MM, 5.0])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (0.94, 1.1, 2.5), (3.0, 2.0, 1.0)], ids=str)
def test_nsd_is_that_of_an_independent_implementation(spacing_mm, tolerance_mm):
    """Rounded, ragged and cut masks; ours is in float32."""
    seen = set()
    for seed in range(6):
        reference = blobs(seed, SHAPE, sigma=2.0)
        predicted = np.roll(reference, (1, 0, seed % 2), (0, 1, 2)) ^ (blobs(seed + 50, SHAPE, share=0.02))
        distances = surface_distance.compute_surface_distances(reference, predicted, spacing_mm)
        expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)
        seen.add(round(expected, 2))
        out = overlap(reference, predicted, spacing_mm, tolerance_mm)
        assert out.nsd == pytest.approx(expected, abs=1e-5)
        assert out.dsc == pytest.approx(surface_distance.compute_dice_coefficient(reference, predicted), abs=1e-6)
    assert len(seen) > 1, "or nothing was compared"


def test_distance_is_in_millimetres_along_each_axis():
    """A slab moved by one slice: within 2 mm where slices are 1.5 mm thick; where they are 5 mm, its two large faces are not."""
    slab = box(np.zeros(SHAPE, bool), True, (2, 38), (2, 34), (10, 13))
    fine, thick = (overlap(slab, np.roll(slab, 1, 2), (3.0, 3.0, mm)).nsd for mm in (1.5, 5.0))
    assert fine == 1.0
    assert thick < 0.3

"""What is kept of a label map."""

import numpy as np
import pytest
from masks import blobs, box, pieces

from gpu_synth.evaluate.postprocess import NEAR_MM, keep_near_organ

SHAPE = (48, 40, 30)


def scene() -> np.ndarray:
    """An organ with a tumour in it, and a smaller piece of organ."""
    label = box(np.zeros(SHAPE, np.uint8), 1, (4, 20), (8, 30), (5, 20))
    box(label, 2, (8, 11), (10, 14), (8, 12))
    return box(label, 1, (40, 46), (30, 38), (22, 28))


def test_the_largest_piece_with_its_tumour_is_kept():
    kept = keep_near_organ(scene(), (1.0, 1.0, 1.0))
    expected = scene()
    expected[40:] = 0
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.8, 2.0, 5.0)], ids=str)
def test_a_tumour_apart_is_kept_as_a_whole_by_its_distance_in_millimetres(spacing_mm, axis):
    """The nearest voxels' centres lie `gap` voxels apart."""
    for gap in range(2, 8):
        label = box(np.zeros((40, 40, 40), np.uint8), 1, *[(2, 20)] * 3)
        place = [(8, 11)] * 3
        place[axis] = (19 + gap, 19 + gap + 9)  # its far end is beyond the distance in any case but the finest grid's
        box(label, 2, *place)
        kept = keep_near_organ(label, spacing_mm, near_mm=4.0)
        near = gap * spacing_mm[axis] <= 4.0
        assert (kept == 2).sum() == (label == 2).sum() * near, (gap, axis)
        assert (kept == 1).sum() == (label == 1).sum()


def test_what_touches_the_organ_is_kept_though_slices_are_thicker_than_near():
    label = box(np.zeros(SHAPE, np.uint8), 1, (4, 20), (8, 30), (5, 15))
    box(label, 2, (20, 24), (30, 33), (15, 18))  # shares one corner
    np.testing.assert_array_equal(keep_near_organ(label, (1.0, 1.0, 12.0), near_mm=3.0), label)
    box(label, 2, (10, 14), (10, 13), (15, 18))
    one_slice_off = np.roll(label * (label == 2), 1, 2) + label * (label == 1)
    assert not (keep_near_organ(one_slice_off, (1.0, 1.0, NEAR_MM / 2 + 0.1)) == 2).any()
    assert (keep_near_organ(one_slice_off, (1.0, 1.0, NEAR_MM / 2)) == 2).any(), "one slice of 5 mm that was missed"


def test_random_maps_against_brute_force():
    spacing_mm = np.array([1.3, 0.9, 2.2])
    kept_some = dropped_some = 0
    for seed in range(8):
        shape = (16, 14, 10)
        label = blobs(seed, shape, share=0.12).astype(np.uint8)
        label[blobs(seed + 100, shape, share=0.06)] = 2
        largest = max(pieces(label > 0), key=len)
        organ_mm = np.array(sorted(largest)) * spacing_mm
        keep = set(largest)
        for tumor in pieces(
            (label == 2) & ~np.isin(np.arange(label.size).reshape(shape), [np.ravel_multi_index(at, shape) for at in largest])
        ):
            apart = np.linalg.norm((np.array(sorted(tumor)) * spacing_mm)[:, None] - organ_mm[None], axis=-1).min()
            keep |= tumor if apart <= 3.5 else set()
            kept_some, dropped_some = kept_some + (apart <= 3.5), dropped_some + (apart > 3.5)
        expected = np.zeros_like(label)
        for at in keep:
            expected[at] = label[at]
        np.testing.assert_array_equal(keep_near_organ(label, spacing_mm, near_mm=3.5), expected)
    assert kept_some >= 3
    assert dropped_some >= 3


@pytest.mark.parametrize("value", [0, 1, 2])
def test_nothing_to_do(value):
    label = box(np.zeros(SHAPE, np.uint8), value, (4, 20), (8, 30), (5, 20))
    np.testing.assert_array_equal(keep_near_organ(label, (1.0, 1.0, 1.0)), label)

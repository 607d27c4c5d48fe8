"""Lesions found and invented, against a flood fill; their sizes; the FROC, by hand."""

import math

import numpy as np
import pytest
from masks import blobs, box, pieces

from gpu_synth.evaluate.lesions import SIZES, Lesion, find_lesions, froc

AFFINE = np.array([[-1.2, 0, 0, 40.0], [0, 0.9, 0, -30.0], [0, 0, 3.0, 7.0], [0, 0, 0, 1.0]])
SHAPE = (24, 22, 14)


def test_random_masks_against_a_flood_fill():
    found = missed = false = 0
    for seed in range(12):
        reference, predicted = (blobs(seed + n, SHAPE, share=0.06, sigma=1.0) for n in (0, 100))
        probability = np.random.default_rng(seed).random(SHAPE).astype(np.float32)
        lesions = find_lesions(reference, predicted, AFFINE, probability)
        real, ours = pieces(reference), pieces(predicted)
        score = {n: np.mean([probability[at] for at in piece]) for n, piece in enumerate(ours)}
        best = [max((score[n] for n, other in enumerate(ours) if piece & other), default=0.0) for piece in real]
        expected = [("reference", len(piece), bool(piece & set().union(*ours)), s) for piece, s in zip(real, best, strict=True)]
        expected += [("predicted", len(piece), bool(piece & set().union(*real)), score[n]) for n, piece in enumerate(ours)]
        got = [(x.kind, round(x.volume_mm3 / (1.2 * 0.9 * 3.0)), x.matched, x.score) for x in lesions]
        for one, other in zip(sorted(got), sorted(expected), strict=True):
            assert one == pytest.approx(other, abs=1e-5)
        centres = sorted(tuple(AFFINE[:3, :3] @ np.mean(list(piece), 0) + AFFINE[:3, 3]) for piece in real)
        np.testing.assert_allclose(sorted(x.centre_mm for x in lesions if x.kind == "reference"), centres, atol=1e-9)
        found += sum(x.matched for x in lesions if x.kind == "reference")
        missed += sum(not x.matched for x in lesions if x.kind == "reference")
        false += sum(not x.matched for x in lesions if x.kind == "predicted")
    assert min(found, missed, false) > 20


def test_corners_touch_and_one_prediction_may_find_several():
    reference = box(box(np.zeros(SHAPE, bool), True, (2, 4), (2, 4), (2, 4)), True, (4, 6), (4, 6), (4, 6))  # share a corner
    box(reference, True, (12, 14), (2, 4), (2, 4))
    predicted = box(np.zeros(SHAPE, bool), True, (5, 13), (2, 6), (3, 5))
    lesions = find_lesions(reference, predicted, np.eye(4))
    assert [(x.kind, x.matched, x.volume_mm3) for x in lesions] == [
        ("reference", True, 16.0),
        ("reference", True, 8.0),
        ("predicted", True, 64.0),
    ]
    assert all(math.isnan(x.score) for x in lesions)


def lesion(radius_mm: float = 5.0, kind: str = "reference", matched: bool = True, score: float = math.nan) -> Lesion:
    return Lesion(kind, 1, (0.0, 0.0, 0.0), 4 / 3 * math.pi * radius_mm**3, matched, score)


@pytest.mark.parametrize(
    ("radius_mm", "size"),
    [(2.0, "under 5"), (4.99, "under 5"), (5.01, "5 to 10"), (9.9, "5 to 10"), (12.0, "10 to 15"), (19.0, "15 to 20"), (44.0, "over 20")],
)
def test_sizes_are_of_equivalent_radius(radius_mm, size):
    assert lesion(radius_mm).radius_mm == pytest.approx(radius_mm)
    assert SIZES[lesion(radius_mm).size] == size


def test_froc_by_hand():
    """Two scans, four lesions. Scores of those found 0.9, 0.7, 0.4; of false positives 0.8 and 0.5; one is missed."""
    real = [lesion(score=s, matched=s > 0) for s in (0.9, 0.7, 0.4, 0.0)]
    false = [lesion(kind="predicted", matched=False, score=s) for s in (0.8, 0.5)]
    curve = froc([*real, *false, lesion(kind="predicted", score=0.9)], scans=2)
    steps = list(zip(curve["false_positives_per_scan"], curve["sensitivity"], strict=True))
    assert steps == [(1.0, 0.75), (1.0, 0.5), (0.5, 0.5), (0.5, 0.25), (0.0, 0.25), (0.0, 0.0)]
    assert curve["score"] == pytest.approx(np.mean([0.25, 0.5, 0.75, 0.75, 0.75, 0.75]))  # at 0.25 to 8 false positives a scan


def test_froc_ends_at_the_operating_point_though_every_lesion_is_found():
    curve = froc([lesion(score=0.9), lesion(score=0.6), lesion(kind="predicted", matched=False, score=0.7)], scans=1)
    assert (curve["false_positives_per_scan"][0], curve["sensitivity"][0]) == (1.0, 1.0)


def test_froc_begins_with_every_lesion_though_its_probability_is_zero():
    """One is found and one invented where the probability is 0 throughout; a third is missed, and has no score."""
    real = [lesion(score=0.9), lesion(score=0.0), lesion(score=0.0, matched=False)]
    curve = froc([*real, lesion(kind="predicted", matched=False, score=0.0)], scans=1)
    steps = list(zip(curve["false_positives_per_scan"], curve["sensitivity"], strict=True))
    assert steps == [(1.0, pytest.approx(2 / 3)), (0.0, pytest.approx(1 / 3)), (0.0, 0.0)]


def test_froc_without_scores_is_a_point_and_without_lesions_nothing():
    point = froc([lesion(), lesion(matched=False), lesion(kind="predicted", matched=False)], scans=4)
    assert (point["false_positives_per_scan"], point["sensitivity"]) == ([0.25], [0.5])
    assert math.isnan(point["score"])
    assert froc([lesion(kind="predicted", matched=False)], scans=1)["sensitivity"] == []
    mixed = froc([lesion(score=0.0, matched=False), lesion(kind="predicted", matched=False)], scans=1)
    assert (mixed["false_positives_per_scan"], mixed["sensitivity"]) == ([1.0], [0.0])

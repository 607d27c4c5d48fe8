"""Batches worked on a few samples at a time."""

import pytest

from gpu_synth.kernels._groups import groups


@pytest.mark.parametrize("samples", [1, 2, 5, 8, 32])
@pytest.mark.parametrize("bytes_a_voxel", [0.5, 6.0, 6.1, 8.0, 43.0, 1000.0])
def test_every_sample_has_its_turn_and_fits_into_the_room(samples, bytes_a_voxel):
    runs = groups(samples, bytes_a_voxel, room_bytes=6.0)
    assert [n for rows in runs for n in range(samples)[rows]] == list(range(samples))
    largest = max(rows.stop - rows.start for rows in runs)
    assert largest == 1 or largest * bytes_a_voxel <= samples * 6.0
    assert largest - min(rows.stop - rows.start for rows in runs) <= 1


def test_no_more_runs_than_are_needed():
    assert groups(8, 6.0, room_bytes=6.0) == [slice(0, 8)]
    assert len(groups(8, 6.1, room_bytes=6.0)) == 2
    assert len(groups(8, 43.0, room_bytes=6.0)) == 8

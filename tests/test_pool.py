"""Work on one item after another, here or in processes; a process that dies takes no other item with it unsaid."""

import os

import pytest

from gpu_synth.pool import each


def square(n: int) -> int:
    if n < 0:
        os._exit(1)
    if n > 100:
        raise OSError("the disk is full")
    return n * n


@pytest.mark.parametrize("workers", [0, 2])
def test_every_item_comes_with_its_result(workers):
    assert sorted(each(square, [3, 1, 2], workers)) == [(1, 1), (2, 4), (3, 9)]
    assert list(each(square, [], workers)) == []


def test_a_process_that_dies_is_said():
    ((item, why),) = each(square, [-1], 1)
    assert item == -1
    assert "died, most often for want of memory; run again with fewer --workers" in why


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_is_raised(workers):
    with pytest.raises(OSError, match="the disk is full"):
        list(each(square, [1, 101], workers))
